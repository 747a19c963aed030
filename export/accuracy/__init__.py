"""Measures how far engines are from float32, and holds them to thresholds."""
