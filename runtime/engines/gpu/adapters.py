"""Resident adapters' matrices in device memory, beside the bank that holds them on the host."""

import math

import numpy as np
from numpy.typing import NDArray

from trine.runtime.adapters.store import SLOTS_PER_RUN, AdapterBank, AdapterView
from trine.runtime.engines.gpu.cuda.device import Device
from trine.runtime.engines.gpu.cuda.memory import DeviceBuffer
from trine.runtime.engines.gpu.cuda.transfer import upload_now

__all__ = ["DeviceAdapters"]


class DeviceAdapters:
    """The bank's arrays on the device, with the same neighbours. Safe from several threads.

    Slots are kept in groups that runs never cross (`SLOTS_PER_RUN`); a group takes memory when the
    first adapter comes into it. A slot is written before requests can name its adapter, and only
    after the last request that used its former one has ended, so no run reads what is written.

    Args:
        device: that has the memory.
        bank: calls `upload` for each slot it fills.
    """

    def __init__(self, device: Device, bank: AdapterBank) -> None:
        self._device = device
        self._bank = bank
        self._stream = device.make_stream()
        self._groups: dict[int, dict[str, DeviceBuffer]] = {}

    def upload(self, slot: int) -> None:
        """Copy a slot's arrays to the device, and return when that is done."""
        arrays = self._bank.view([slot]).arrays
        group = self._groups.setdefault(slot // SLOTS_PER_RUN, {})
        copies = []
        for name, array in arrays.items():
            buffer = group.setdefault(name, DeviceBuffer(self._device))
            base = buffer.require(array.nbytes * SLOTS_PER_RUN)
            copies.append((base + slot % SLOTS_PER_RUN * array.nbytes, array))
        upload_now(self._device, self._stream, copies)

    def inputs(self, view: AdapterView) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Return address and shape of each adapter input of a run, by name.

        Args:
            view: of the bank, with the run's slots.
        """
        group = self._groups[view.first // SLOTS_PER_RUN]
        num_slots = view.last - view.first + 1
        found = {}
        for name, array in view.arrays.items():
            slot_bytes = _num_bytes(array) // num_slots
            base = group[name].require(slot_bytes * SLOTS_PER_RUN)
            found[name] = (base + view.first % SLOTS_PER_RUN * slot_bytes, array.shape)
        return found


def _num_bytes(array: NDArray[np.generic]) -> int:
    return math.prod(array.shape) * array.itemsize
