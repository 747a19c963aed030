"""Graphs and engines for TensorRT and TensorRT-RTX."""
