"""One CUDA device: its driver, memory, copies, batches in flight and captured graphs."""
