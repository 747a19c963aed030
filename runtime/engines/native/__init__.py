"""The native engine: int8 graphs on the kernels of `trine.kernels.cpu`."""
