"""A compiled graph with its buckets: queues runs, by CUDA graph where one was captured."""

from trine.runtime.engines.gpu.buckets import Buckets, Profiles, Sizes, choose_profile
from trine.runtime.engines.gpu.compiled import Binding, CompiledGraph, ExecutionContext
from trine.runtime.engines.gpu.cuda.device import Device
from trine.runtime.engines.gpu.cuda.graph_cache import GraphCache
from trine.runtime.engines.gpu.cuda.memory import DeviceBuffer
from trine.runtime.errors import EngineError

__all__ = ["Program"]

#: CUDA graphs kept of each compiled graph: its buckets in each lane, and some images' sizes.
NUM_GRAPHS = 16


class Program:
    """One compiled graph on one stream. Not thread-safe.

    Args:
        device: that runs it.
        graph: as loaded.
        buckets: its sizes.
        stream: that all runs are queued on.
        scratch: memory shared with other programs of the stream, which run before or after. It
            grows when a run of a larger bucket comes: short work does not pay for long.
        capture: whether to make CUDA graphs.
    """

    def __init__(
        self,
        device: Device,
        graph: CompiledGraph,
        buckets: Buckets,
        *,
        stream: int,
        scratch: DeviceBuffer,
        capture: bool,
    ) -> None:
        self.profiles = buckets.profiles
        self._device = device
        self._graph = graph
        self._stream = stream
        self._scratch = scratch
        self._cache = GraphCache(device, NUM_GRAPHS if capture else 0)
        self._capture = capture
        self._remedy = buckets.remedy
        self._contexts: dict[int, ExecutionContext] = {}
        self._idle = device.make_event()

    def profile(self, sizes: Sizes) -> int:
        """Return the bucket of a run.

        Raises:
            EngineError: it is larger than every bucket.
        """
        found = choose_profile(self.profiles, sizes)
        if found is None:
            raise EngineError(outside_buckets(sizes, self.profiles, self._remedy))
        return found

    def run(self, binding: Binding) -> None:
        """Queue a run.

        Raises:
            EngineError: the library refuses it.
        """
        needed = self._graph.scratch_bytes(binding.profile)
        if 0 < self._scratch.num_bytes < needed:
            self._wait()
        scratch = self._scratch.require(needed)
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
        context.bind(binding, scratch)
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


def outside_buckets(sizes: Sizes, profiles: Profiles, remedy: str) -> str:
    """Return the sentence for a run that no bucket holds.

    Args:
        sizes: of the run.
        profiles: the buckets.
        remedy: the command that builds others, but for their sizes.
    """
    wanted = ", ".join(f"{size} {name.replace('_', ' ')}" for name, size in sizes.items())
    known = "; ".join(
        ", ".join(f"{profile[name].most} {name.replace('_', ' ')}" for name in sizes)
        for profile in profiles
    )
    bucket = (
        f"text={sizes['tokens']}x{sizes['sequences']}x{sizes['length']}"
        if "tokens" in sizes
        else f"image={sizes['patches']}x{sizes['images']}"
    )
    return (
        f"a run of {wanted} is larger than every bucket of the engine ({known}); build with one "
        f"more: {remedy} --buckets {bucket},…"
    )
