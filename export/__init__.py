"""Checkpoint to bundle: reads the files, builds the graphs, writes the folder. No torch."""
