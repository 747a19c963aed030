"""`trine info`: what a bundle holds, in words."""
