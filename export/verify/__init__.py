"""`trine verify`: files, golden vectors, and PyTorch."""
