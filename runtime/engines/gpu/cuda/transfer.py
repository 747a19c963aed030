"""Copies that are waited for: weights of adapters and heads, which come seldom."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from trine.runtime.engines.gpu.cuda.device import Device

__all__ = ["upload_now"]

#: Page-locked memory used at once.
CHUNK_BYTES = 16 << 20


def upload_now(
    device: Device, stream: int, arrays: Iterable[tuple[int, NDArray[np.generic]]]
) -> None:
    """Copy arrays to device addresses, and return when all that a stream had to do is done.

    Args:
        device: that has the memory.
        stream: to copy on.
        arrays: (address, C-order array) each.
    """
    done = device.make_event()
    block = device.allocate_host(CHUNK_BYTES)
    try:
        for address, array in arrays:
            flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            for start in range(0, len(flat), CHUNK_BYTES):
                chunk = flat[start : start + CHUNK_BYTES]
                block[: len(chunk)] = chunk
                device.upload(address + start, block[: len(chunk)], stream)
                # The block is used again.
                device.record(done, stream)
                device.synchronise(done)
        device.record(done, stream)
        device.synchronise(done)
    finally:
        device.free_host(block)
        device.free_event(done)
