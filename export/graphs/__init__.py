"""ONNX graphs of the decoder and the vision tower, node by node."""
