"""The demonstration: exports the built-in checkpoint, searches with it, shows the rankings."""
