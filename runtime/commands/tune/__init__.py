"""`trine tune`: finds the fastest settings for a bundle on one machine."""
