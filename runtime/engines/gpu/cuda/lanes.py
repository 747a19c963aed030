"""Runs in flight: while one computes, the next one's inputs and the last one's outputs are copied.

Each run has a lane: buffers on both sides, and events. A run's inputs are copied on one stream, its
graph and heads run on a second, and its outputs are copied back on a third; events order them. With
two lanes the copies of one run hide behind the other's work.
"""

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.runtime.engines.gpu.cuda.device import Device
from trine.runtime.engines.gpu.cuda.memory import DeviceBuffer, HostBuffer
from trine.runtime.engines.gpu.layout import GraphInput
from trine.runtime.errors import EngineError

__all__ = ["Lane", "Lanes", "Output", "PendingBatch"]

#: One run computes while the next is copied; a third would only take memory.
NUM_LANES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A result in device memory, float32.

    Attributes:
        name: of the result.
        address: of its first element.
        shape: of what is copied back.
    """

    name: str
    address: int
    shape: tuple[int, ...]


class Lane:
    """The buffers and events of one run in flight.

    Args:
        device: that has them.
        number: of the lane.
    """

    def __init__(self, device: Device, number: int) -> None:
        self.number = number
        self._device = device
        self._on_device: dict[str, DeviceBuffer] = {}
        self._on_host: dict[str, HostBuffer] = {}
        self.uploaded, self.computed, self.downloaded = (device.make_event() for _ in range(3))

    def stage(self, name: str, value: GraphInput) -> tuple[NDArray[np.generic], int]:
        """Return an input in page-locked memory, zeros behind it, and its address on the device."""
        array = self._host(f"in {name}").view(value.shape, value.values.dtype)
        if array.shape == value.values.shape:
            array[...] = value.values
        else:
            array[...] = np.zeros((), array.dtype)
            array[tuple(slice(size) for size in value.values.shape)] = value.values
        return array, self.reserve(name, array.nbytes)

    def reserve(self, name: str, num_bytes: int) -> int:
        """Return the address of device memory for an array of this run."""
        if name not in self._on_device:
            self._on_device[name] = DeviceBuffer(self._device)
        return self._on_device[name].require(num_bytes)

    def result(self, output: Output) -> NDArray[np.float32]:
        """Return the page-locked array that an output is copied to."""
        found = self._host(f"out {output.name}").view(output.shape, np.dtype(np.float32))
        return found.view(np.float32)

    def _host(self, name: str) -> HostBuffer:
        if name not in self._on_host:
            self._on_host[name] = HostBuffer(self._device)
        return self._on_host[name]


class Lanes:
    """The lanes of one engine, its streams, and the order of its runs. Thread-safe.

    Args:
        device: that runs them.
        count: runs in flight.
    """

    def __init__(self, device: Device, count: int = NUM_LANES) -> None:
        self.device = device
        self.compute_stream = device.make_stream()
        self._upload_stream = device.make_stream()
        self._download_stream = device.make_stream()
        self._free = [Lane(device, number) for number in range(count)]
        self._changed = threading.Condition()
        self._queueing = threading.Lock()

    def try_acquire(self) -> Lane | None:
        """Return a free lane, None if there is none."""
        with self._changed:
            return self._free.pop() if self._free else None

    def take(self) -> Lane:
        """Return a lane, as soon as one is free. The caller must hold none, lest all wait."""
        with self._changed:
            self._changed.wait_for(lambda: self._free)
            return self._free.pop()

    def release(self, lane: Lane) -> None:
        """Have the next run use a lane."""
        with self._changed:
            self._free.append(lane)
            self._changed.notify()

    def submit(
        self,
        lane: Lane,
        inputs: Mapping[str, GraphInput],
        compute: Callable[[Mapping[str, int]], list[Output]],
    ) -> "PendingBatch":
        """Queue a run in a lane; what it comes to is in the ticket.

        Args:
            lane: taken by the caller; the ticket gives it back.
            inputs: by name.
            compute: queues the work on `compute_stream`, given the inputs' device addresses by
                name, and returns what to copy back.

        Raises:
            EngineError: the device or a library refuses; the lane is given back.
        """
        device = self.device
        try:
            staged = {name: lane.stage(name, value) for name, value in inputs.items()}
            # One run after the other, so that all runs see one order on each stream.
            with self._queueing:
                for array, address in staged.values():
                    device.upload(address, _bytes_of(array), self._upload_stream)
                device.record(lane.uploaded, self._upload_stream)
                device.wait(self.compute_stream, lane.uploaded)
                with device.current():
                    outputs = compute({name: place for name, (_, place) in staged.items()})
                device.record(lane.computed, self.compute_stream)
                device.wait(self._download_stream, lane.computed)
                results = {output.name: lane.result(output) for output in outputs}
                for output in outputs:
                    target = _bytes_of(results[output.name])
                    device.download(target, output.address, self._download_stream)
                device.record(lane.downloaded, self._download_stream)
        except BaseException:
            self.release(lane)
            raise
        return PendingBatch(self, lane, results)


class PendingBatch:
    """A run that was queued; `result` must be called once."""

    def __init__(
        self, lanes: Lanes, lane: Lane, results: Mapping[str, NDArray[np.float32]]
    ) -> None:
        self._lanes = lanes
        self._lane = lane
        self._results = results

    def result(self) -> dict[str, NDArray[np.float32]]:
        """Wait for the run, and return its outputs by name, owned by the caller.

        Raises:
            EngineError: the run failed on the device.
        """
        try:
            self._lanes.device.synchronise(self._lane.downloaded)
            return {name: array.copy() for name, array in self._results.items()}
        finally:
            self._lanes.release(self._lane)

    def abandon(self) -> None:
        """Wait for the run and drop what it came to, also its failure."""
        with contextlib.suppress(EngineError):
            self.result()


def _bytes_of(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    return array.reshape(-1).view(np.uint8)
