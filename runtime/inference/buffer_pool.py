"""Large arrays that are used again, since fresh memory costs more than what is written into it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

__all__ = ["FloatBuffers"]

#: Larger ones go back to the system, so that one huge image does not hold its memory for ever.
MAX_KEPT_BYTES = 1 << 26


class FloatBuffers:
    """Lends one float32 buffer at a time and keeps it for the next; safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept = np.empty(0, np.float32)

    @contextmanager
    def borrow(self, size: int) -> Iterator[NDArray[np.float32]]:
        """Lend float32 [size] with any content, aligned to cache lines.

        The array must not be used after the context ends: another caller then writes into it.
        Callers that come while the kept buffer is lent get one of their own.
        """
        with self._lock:
            buffer, self._kept = self._kept, np.empty(0, np.float32)
        if len(buffer) < size:
            storage = np.empty(size + 16, np.float32)
            skip = -storage.ctypes.data % 64 // storage.itemsize
            buffer = storage[skip : skip + size]
        try:
            yield buffer[:size]
        finally:
            if buffer.nbytes <= MAX_KEPT_BYTES:
                with self._lock:
                    self._kept = max(self._kept, buffer, key=len)
