"""How far an engine is from float32, and how far it may be."""
