"""Memory that runs use again and again, so that no run pays for fresh pages."""

from math import prod

import numpy as np
from numpy.typing import NDArray

__all__ = ["Workspace"]

#: Buffers above this are given back after the run that needed them.
KEPT_BYTES = 128 << 20


class Workspace:
    """Named buffers that grow to what was asked for. One run uses it at a time.

    Arrays hold whatever was there before, and are theirs who took them until their name is taken
    again.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray[np.uint8]] = {}

    def floats(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return float32 of a shape."""
        return self._take(name, 4 * prod(shape)).view(np.float32).reshape(shape)

    def bytes(self, name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return uint8 of a shape."""
        return self._take(name, prod(shape)).reshape(shape)

    def trim(self) -> None:
        """Give back what only a very long input needs."""
        for name in [n for n, buffer in self._buffers.items() if len(buffer) > KEPT_BYTES]:
            del self._buffers[name]

    def _take(self, name: str, size: int) -> NDArray[np.uint8]:
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < size:
            # A quarter more when it grows, so that slowly growing runs do not move it each time.
            spare = 0 if buffer is None else size // 16 * 4
            self._buffers.pop(name, None)
            del buffer  # before the next one is there
            buffer = self._buffers[name] = np.empty(size + spare, np.uint8)
        return buffer[:size]
