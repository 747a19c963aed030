"""Checkpoint to bundle: reads the published files, builds the graphs, writes the folder. No torch."""
