"""A GPU that is none: device memory, streams, events and graphs with CUDA's rules, as late as CUDA.

Work is kept on its stream until somebody waits for it, so a copy whose source changes meanwhile, a
kernel that runs before its inputs are there, or memory freed too early shows in the results or as
an error. New memory is full of ones: NaN where it is read as floats.
"""

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trine.runtime.engines.gpu.cuda.device import HostBlock

Work = Callable[[], None]


class SimulationError(AssertionError):
    """The engine broke a rule of CUDA."""


@dataclass
class Stream:
    """Work that waits, in order, and the events among it."""

    waiting: deque[Work] = field(default_factory=deque)


class SimulatedDevice:
    """A `Device` in host memory.

    Args:
        sm: compute capability it pretends to have.
        memory_bytes: that it pretends to have.
    """

    def __init__(self, sm: int = 89, memory_bytes: int = 1 << 30) -> None:
        self.index = 0
        self.name = "Simulated GPU"
        self.sm = sm
        self.calls: dict[str, int] = {}
        self.log: list[tuple[str, int]] = []
        self._room = memory_bytes
        self._blocks: dict[int, NDArray[np.uint8]] = {}
        self._pinned: set[int] = set()
        self._next = 1 << 32
        self._streams: dict[int, Stream] = {}
        self._events: dict[int, tuple[int, int]] = {}  # event: (times recorded, times happened)
        self._places: dict[int, int] = {}  # event: stream it was last recorded on
        self._graphs: dict[int, list[Work]] = {}
        self._captures: dict[int, tuple[int, list[Work]]] = {}
        self._lock = threading.RLock()

    @contextmanager
    def current(self) -> Iterator[None]:
        yield

    def allocate(self, num_bytes: int) -> int:
        with self._lock:
            self._count("allocate")
            if sum(map(len, self._blocks.values())) + num_bytes > self._room:
                raise SimulationError("out of device memory")
            if threading.get_ident() in {thread for thread, _ in self._captures.values()}:
                raise SimulationError("memory was allocated by a thread that captures")
            address = self._next
            self._next += -(-num_bytes // 256) * 256 + 256
            self._blocks[address] = np.full(num_bytes, 0xFF, np.uint8)
            return address

    def free(self, address: int) -> None:
        with self._lock:
            self._count("free")
            del self._blocks[address]

    def allocate_host(self, num_bytes: int) -> HostBlock:
        with self._lock:
            self._count("allocate_host")
            block = np.full(num_bytes, 0xFF, np.uint8)
            self._pinned.add(block.ctypes.data)
            return block

    def free_host(self, block: HostBlock) -> None:
        with self._lock:
            self._pinned.remove(block.ctypes.data)

    def make_stream(self) -> int:
        with self._lock:
            number = len(self._streams) + 1
            self._streams[number] = Stream()
            return number

    def make_event(self) -> int:
        with self._lock:
            number = len(self._events) + 1
            self._events[number] = (0, 0)
            return number

    def free_event(self, event: int) -> None:
        with self._lock:
            recorded, happened = self._events[event]
            if recorded != happened:
                raise SimulationError("an event was freed that something waits for")

    def upload(self, address: int, source: HostBlock, stream: int) -> None:
        self._check_pinned(source)
        self.log.append(("upload", source.nbytes))

        def copy() -> None:
            self.memory(address, len(source))[...] = source

        self.queue(stream, copy, "upload")

    def download(self, target: HostBlock, address: int, stream: int) -> None:
        self._check_pinned(target)
        self.log.append(("download", target.nbytes))

        def copy() -> None:
            target[...] = self.memory(address, len(target))

        self.queue(stream, copy, "download")

    def record(self, event: int, stream: int) -> None:
        with self._lock:
            recorded, happened = self._events[event]
            self._events[event] = (recorded + 1, happened)
            self._places[event] = stream

            def happen() -> None:
                times, done = self._events[event]
                self._events[event] = (times, done + 1)

            self.queue(stream, happen, "record")

    def wait(self, stream: int, event: int) -> None:
        with self._lock:
            target, place = self._events[event][0], self._places[event]
            self.queue(stream, lambda: self._run_until(event, target, place), "wait")

    def synchronise(self, event: int) -> None:
        with self._lock:
            self._count("synchronise")
            self._run_until(event, self._events[event][0], self._places[event])

    def begin_capture(self, stream: int) -> None:
        with self._lock:
            self._captures[stream] = (threading.get_ident(), [])

    def end_capture(self, stream: int) -> int:
        with self._lock:
            number = len(self._graphs) + 1
            self._graphs[number] = self._captures.pop(stream)[1]
            self._count("capture")
            return number

    def launch_graph(self, graph: int, stream: int) -> None:
        with self._lock:
            for work in self._graphs[graph]:
                self.queue(stream, work, "graph work")
            self._count("launch_graph")

    def destroy_graph(self, graph: int) -> None:
        with self._lock:
            self._count("destroy_graph")
            self._graphs[graph] = []

    def queue(self, stream: int, work: Work, kind: str) -> None:
        """Have work run on a stream, or be captured."""
        with self._lock:
            self._count(kind)
            capture = self._captures.get(stream)
            if capture is not None:
                if kind in ("record", "wait"):
                    raise SimulationError(f"{kind} was captured")
                capture[1].append(work)
            else:
                self._streams[stream].waiting.append(work)

    def capturing(self, stream: int) -> bool:
        """Whether work for a stream is being captured."""
        return stream in self._captures

    def memory(self, address: int, num_bytes: int) -> NDArray[np.uint8]:
        """Return a part of device memory."""
        starts = sorted(self._blocks)
        place = bisect_right(starts, address) - 1
        block = self._blocks[starts[place]] if place >= 0 else np.empty(0, np.uint8)
        offset = address - starts[place] if place >= 0 else 0
        if offset + num_bytes > len(block):
            raise SimulationError(f"{num_bytes} bytes at {address:#x} are not allocated")
        return block[offset : offset + num_bytes]

    def array(self, address: int, shape: tuple[int, ...], dtype: object) -> NDArray[np.generic]:
        """Return an array in device memory."""
        kind = np.dtype(dtype)  # type: ignore[call-overload]
        count = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        return self.memory(address, count).view(kind).reshape(shape)

    @property
    def idle(self) -> bool:
        """Whether nothing waits on any stream."""
        return not any(stream.waiting for stream in self._streams.values())

    def _run_until(self, event: int, target: int, place: int) -> None:
        waiting = self._streams[place].waiting
        while self._events[event][1] < target:
            if not waiting:
                raise SimulationError("an event is waited for that nothing will record")
            waiting.popleft()()

    def _check_pinned(self, block: HostBlock) -> None:
        starts = [start for start in self._pinned if start <= block.ctypes.data]
        if not starts:
            raise SimulationError("a copy from or to memory that is not page-locked")

    def _count(self, name: str) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1
