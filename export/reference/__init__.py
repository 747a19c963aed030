"""The float32 model in numpy and in PyTorch, which engines are measured against."""
