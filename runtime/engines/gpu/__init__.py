"""Engines on a GPU: their logic, and below it thin drivers of CUDA, TensorRT and ONNX Runtime."""
