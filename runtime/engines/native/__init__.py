"""The native engine: int8 and bf16 graphs on the kernels of `trine.kernels.cpu`."""
