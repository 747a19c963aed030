"""Strongly typed graphs in standard operators, for TensorRT."""
