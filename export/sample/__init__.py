"""Random checkpoints in the published layout, of any size."""
