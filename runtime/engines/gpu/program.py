"""A compiled graph with its buckets: queues runs, by CUDA graph where one was captured."""

from collections.abc import Mapping
from dataclasses import dataclass

from trine.runtime.engines.gpu.buckets import Profiles, Sizes, choose_profile
from trine.runtime.engines.gpu.compiled import CompiledGraph, ExecutionContext
from trine.runtime.engines.gpu.device import Device
from trine.runtime.engines.gpu.graph_cache import GraphCache
from trine.runtime.engines.gpu.memory import DeviceBuffer
from trine.runtime.errors import EngineError

__all__ = ["Binding", "Program"]

#: CUDA graphs kept of each compiled graph: its buckets in each lane, and some pictures' sizes.
NUM_GRAPHS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What a run works on.

    Attributes:
        profile: number of its bucket.
        shapes: of every input.
        addresses: of every input and output, in device memory.
        expected: whether runs of these shapes and addresses will come again.
    """

    profile: int
    shapes: Mapping[str, tuple[int, ...]]
    addresses: Mapping[str, int]
    expected: bool


class Program:
    """One compiled graph on one stream. Not thread-safe.

    Args:
        device: that runs it.
        graph: as loaded.
        profiles: its buckets.
        stream: that all runs are queued on.
        scratch: memory shared with other programs of the stream, which run before or after.
        capture: whether to make CUDA graphs.
    """

    def __init__(
        self,
        device: Device,
        graph: CompiledGraph,
        profiles: Profiles,
        *,
        stream: int,
        scratch: DeviceBuffer,
        capture: bool,
    ) -> None:
        self.profiles = profiles
        self._device = device
        self._graph = graph
        self._stream = stream
        self._scratch = scratch
        self._cache = GraphCache(device, NUM_GRAPHS if capture else 0)
        self._capture = capture
        self._contexts: dict[int, ExecutionContext] = {}
        self._idle = device.make_event()

    def profile(self, sizes: Sizes) -> int:
        """Return the bucket of a run.

        Raises:
            EngineError: it is larger than every bucket.
        """
        found = choose_profile(self.profiles, sizes)
        if found is None:
            raise EngineError(outside_buckets(sizes, self.profiles))
        return found

    def run(self, binding: Binding) -> None:
        """Queue a run.

        Raises:
            EngineError: the library refuses it.
        """
        if self._scratch.num_bytes < self._graph.scratch_bytes:
            self._wait()
        scratch = self._scratch.require(self._graph.scratch_bytes)
        key = (
            binding.profile,
            scratch,
            tuple(binding.shapes.items()),
            tuple(binding.addresses.items()),
        )
        graph = self._cache.find(key)
        if graph is not None:
            self._device.launch_graph(graph, self._stream)
            return
        context = self._context(binding.profile)
        context.bind(binding.shapes, binding.addresses, scratch)
        context.enqueue(self._stream)
        if self._capture and self._cache.wants(key, binding.expected):
            self._device.begin_capture(self._stream)
            try:
                context.enqueue(self._stream)
            finally:
                made = self._device.end_capture(self._stream)
            dropped = self._cache.keep(key, made)
            if dropped is not None:
                self._wait()
                self._device.destroy_graph(dropped)

    def _context(self, profile: int) -> ExecutionContext:
        if profile not in self._contexts:
            self._contexts[profile] = self._graph.context(profile, self._stream)
        return self._contexts[profile]

    def _wait(self) -> None:
        self._device.record(self._idle, self._stream)
        self._device.synchronise(self._idle)


def outside_buckets(sizes: Sizes, profiles: Profiles) -> str:
    """Return the sentence for a run that no bucket holds, but for the command that mends it."""
    wanted = ", ".join(f"{size} {name.replace('_', ' ')}" for name, size in sizes.items())
    known = "; ".join(
        ", ".join(f"{profile[name].most} {name.replace('_', ' ')}" for name in sizes)
        for profile in profiles
    )
    return f"a run of {wanted} is larger than every bucket of the engine ({known})"
