"""`trine eval`: how well an engine's vectors find what they should."""
