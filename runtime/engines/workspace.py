"""Memory that runs use again and again, so that no run pays for fresh pages."""

from math import prod

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["Workspace"]

#: Buffers above this are given back after the run that needed them.
KEPT_BYTES = 128 << 20


class Workspace:
    """Named buffers that grow to what was asked for. One run uses it at a time."""

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray[np.uint8]] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray[np.generic]:
        """Return an array whose values are whatever was there; until `name` is taken again."""
        size = prod(shape) * np.dtype(dtype).itemsize
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < size:
            # A quarter more, so that slowly growing runs do not move it each time.
            buffer = np.empty(size + size // 4, np.uint8)
            self._buffers[name] = buffer
        return buffer[:size].view(dtype).reshape(shape)

    def trim(self) -> None:
        """Give back what only a very long input needs."""
        for name in [n for n, buffer in self._buffers.items() if len(buffer) > KEPT_BYTES]:
            del self._buffers[name]
