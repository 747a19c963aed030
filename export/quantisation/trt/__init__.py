"""Mixed precision of TensorRT's graphs."""
