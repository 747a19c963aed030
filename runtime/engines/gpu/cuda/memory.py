"""Buffers that are made once and grown when a larger run comes, never per run."""

import numpy as np
from numpy.typing import NDArray

from trine.runtime.engines.gpu.cuda.device import Device, HostBlock

__all__ = ["DeviceBuffer", "HostBuffer"]

#: Sizes are rounded up to this part of themselves, so that slowly growing runs regrow seldom.
STEPS_PER_DOUBLING = 4
LEAST_BYTES = 4096


class DeviceBuffer:
    """Device memory for one array. Its owner sees to it that no queued work uses it when it grows.

    Args:
        device: that has it.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._address = 0
        self._num_bytes = 0

    @property
    def num_bytes(self) -> int:
        """How many there are."""
        return self._num_bytes

    def require(self, num_bytes: int) -> int:
        """Return the address of at least `num_bytes`, the same as long as that many were there."""
        if num_bytes > self._num_bytes:
            self.release()
            size = _rounded(num_bytes)
            self._address = self._device.allocate(size)
            self._num_bytes = size
        return self._address

    def release(self) -> None:
        """Free the memory; no queued work may use it."""
        if self._num_bytes:
            self._device.free(self._address)
        self._address = self._num_bytes = 0


class HostBuffer:
    """Page-locked host memory for one array; grows as `DeviceBuffer` does.

    Args:
        device: that copies from and to it.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._block: HostBlock = np.empty(0, np.uint8)

    def view(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
        """Return an array in the memory, its content whatever was there; valid until it grows."""
        count = int(np.prod(shape, dtype=np.int64))
        return self.bytes(count * dtype.itemsize).view(dtype).reshape(shape)

    def bytes(self, num_bytes: int) -> HostBlock:
        """Return the first `num_bytes` of the memory."""
        if num_bytes > len(self._block):
            self.release()
            self._block = self._device.allocate_host(_rounded(num_bytes))
        return self._block[:num_bytes]

    def release(self) -> None:
        """Free the memory; no queued work may use it."""
        if len(self._block):
            self._device.free_host(self._block)
        self._block = np.empty(0, np.uint8)


def _rounded(num_bytes: int) -> int:
    """Return at least `num_bytes`, one of a few sizes in each power of two."""
    step = max(LEAST_BYTES, (1 << max(num_bytes - 1, 1).bit_length()) // (2 * STEPS_PER_DOUBLING))
    return -(-num_bytes // step) * step
