"""Errors that the GPU kernels raise on purpose."""

__all__ = ["KernelError"]


class KernelError(RuntimeError):
    """A compiled kernel is missing, damaged, outdated, or cannot run on this machine."""
