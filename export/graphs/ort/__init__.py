"""Graphs for ONNX Runtime, with its fused operators."""
