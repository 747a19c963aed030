"""Kernels of the processor: 8-bit products, attention and what lies between, in C++.

The sources are in `native/`. Where they were not compiled, or the processor lacks an instruction,
all else in Trine works without; `trine.kernels.cpu.library.why_unavailable` says why.
"""
