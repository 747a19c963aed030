"""An engine on one GPU: graphs by a `Library`, and the heads behind them."""

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.runtime.adapters.base import AdapterHandle, AdapterSource
from trine.runtime.bundle.manifest import EngineEntry
from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.engines.base import DecoderBatch, DecoderInputs, EngineOptions, HeadVectors
from trine.runtime.engines.gpu.buckets import Padding, decoder_sizes, split_run
from trine.runtime.engines.gpu.compiled import Binding, Library
from trine.runtime.engines.gpu.cuda.device import Device
from trine.runtime.engines.gpu.cuda.lanes import Lane, Lanes, Output, PendingBatch
from trine.runtime.engines.gpu.decoders import DeviceDecoders
from trine.runtime.engines.gpu.heads import DeviceHeads, HeadPart
from trine.runtime.engines.gpu.host_heads import host_vectors
from trine.runtime.engines.gpu.layout import (
    GraphInput,
    decoder_arrays,
    images_of,
)
from trine.runtime.engines.gpu.program import Program
from trine.runtime.engines.gpu.schedule import Start, run_all
from trine.runtime.preprocessing.vision_inputs import VisionInputs

__all__ = ["GpuEngine", "Parts"]

#: Names of the graphs' outputs.
HIDDEN, IMAGE_TOKENS = "hidden", "image_tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What an engine is made of.

    Attributes:
        device: that all of it is on.
        lanes: of its runs.
        library: that loads and runs its graphs.
        decoders: with their adapters.
        open_vision: loads the vision tower.
        heads: on the device; None to compute them on the host.
        no_heads: why they are not on the device; "" if they are.
    """

    device: Device
    lanes: Lanes
    library: Library
    decoders: DeviceDecoders
    open_vision: Callable[[], Program]
    heads: DeviceHeads | None
    no_heads: str


class GpuEngine:
    """Runs graphs on a GPU; the vision tower is loaded at the first image.

    A run is taken apart where no bucket holds it whole, and padded to its bucket where that costs
    nothing, so that a CUDA graph replays it. Results do not depend on either.

    Args:
        entry: of the engine.
        model: the model's numbers.
        parts: loaded.
        options: whether to make CUDA graphs.
    """

    def __init__(
        self, entry: EngineEntry, model: ModelConfig, parts: Parts, options: EngineOptions
    ) -> None:
        self._entry = entry
        self._model = model
        self._parts = parts
        # Without graphs padding would be for nothing.
        graphs = options.cuda_graphs
        self._padding = Padding() if graphs else Padding(free_tokens=0, most_waste=1.0)
        self._vision: Program | None = None
        self._vision_lock = threading.Lock()

    @property
    def adapters(self) -> AdapterSource:
        return self._parts.decoders.adapters

    @property
    def pads_attention(self) -> bool:
        return True

    @property
    def weights_in_memory(self) -> bool:
        return True

    @property
    def description(self) -> str:
        parts, device = self._parts, self._parts.device
        where = "on the device" if parts.heads is not None else f"on the host ({parts.no_heads})"
        return (
            f"{self._entry.name}: {parts.library.title} on GPU {device.index} ({device.name}, "
            f"sm_{device.sm}), {self._entry.precision}, heads {where}, tasks "
            f"{', '.join(self.adapters.names)}"
        )

    def batch_group(self, adapter: AdapterHandle) -> Hashable:
        return self._parts.decoders.batch_group(adapter)

    def forward_vision(self, inputs: VisionInputs) -> NDArray[np.float32]:
        with self._vision_lock:
            if self._vision is None:
                self._vision = self._parts.open_vision()
        program, images = self._vision, images_of(inputs)
        width = self._model.vision.out_hidden_size
        merged = self._model.vision.spatial_merge_size**2

        def starts() -> Iterator[tuple[None, Start]]:
            for members in split_run(images.parts, program.profiles):
                sizes, arrays = images.arrays(members)
                profile = program.profile(sizes)
                rows = sizes["images"] * sizes["patches"] // merged
                graph = _GraphRun(program, profile, arrays, {}, False)
                yield None, self._start(graph, IMAGE_TOKENS, (rows, width), None)

        found = [results[IMAGE_TOKENS] for _, results in run_all(self._parts.lanes, starts())]
        return np.concatenate(found)

    def forward_decoder(
        self, inputs: DecoderInputs, adapters: Sequence[AdapterHandle]
    ) -> NDArray[np.float32]:
        starts = (
            (None, self._decoder_start(inputs, adapters, members, None))
            for members in self._split(inputs, adapters)
        )
        return np.concatenate([rows[HIDDEN] for _, rows in run_all(self._parts.lanes, starts)])

    def forward_vectors(self, runs: Iterable[DecoderBatch]) -> Iterator[HeadVectors]:
        found: list[HeadVectors] = []
        for (part, last), results in run_all(self._parts.lanes, self._vector_starts(runs)):
            if self._parts.heads is None:
                found.append(host_vectors(results[HIDDEN], part))
            else:
                found.append(HeadVectors(results.get("single"), results.get("multi")))
            if last:
                yield HeadVectors(
                    _joined([vectors.single for vectors in found]),
                    _joined([vectors.multi for vectors in found]),
                )
                found = []

    def _vector_starts(
        self, runs: Iterable[DecoderBatch]
    ) -> Iterator[tuple[tuple[HeadPart, bool], Start]]:
        """Yield each part of each run with whether it is its run's last, and what queues it."""
        for run in runs:
            lengths = run.inputs.lengths
            ends = np.cumsum(lengths)
            for members in self._split(run.inputs, run.adapters):
                first, end = members.start, members.stop
                part = HeadPart(
                    lengths=lengths[members],
                    adapters=run.adapters[members],
                    pooled=run.pooled[ends[first] - lengths[first] : ends[end - 1]],
                    single=run.single,
                    multi=run.multi,
                    dim=run.dim,
                )
                start = self._decoder_start(run.inputs, run.adapters, members, part)
                yield (part, end == len(lengths)), start

    def _split(self, inputs: DecoderInputs, adapters: Sequence[AdapterHandle]) -> list[slice]:
        alone = [decoder_sizes(length) for length in inputs.lengths[:, None]]
        return split_run(alone, self._parts.decoders.program(adapters).profiles)

    def _decoder_start(
        self,
        inputs: DecoderInputs,
        adapters: Sequence[AdapterHandle],
        members: slice,
        part: HeadPart | None,
    ) -> Start:
        """Return what queues some sequences of a run.

        Args:
            inputs, adapters: of the run.
            members: of its sequences.
            part: what the heads are to make of them; None for their hidden states.

        Raises:
            EngineError: they fit no bucket.
        """
        decoders, chosen = self._parts.decoders, adapters[members]
        program = decoders.program(chosen)
        lengths = inputs.lengths[members]
        own = decoder_sizes(lengths)
        profile = program.profile(own)
        sizes = self._padding.sizes(own, program.profiles[profile])
        arrays = decoder_arrays(inputs, members, sizes)
        of_adapters = decoders.inputs(chosen, lengths, sizes["tokens"])
        arrays.update(of_adapters.masks)
        best = program.profiles[profile]
        padded = all(best[dim].best == size for dim, size in sizes.items())
        graph = _GraphRun(program, profile, arrays, of_adapters.resident, padded)
        shape = (own["tokens"], self._model.decoder.hidden_size)
        return self._start(graph, HIDDEN, shape, part, sizes["tokens"])

    def _start(
        self,
        graph: "_GraphRun",
        name: str,
        shape: tuple[int, int],
        part: HeadPart | None,
        num_rows: int | None = None,
    ) -> Start:
        """Return what queues a run of a graph and the heads behind it.

        Args:
            graph: with its inputs.
            name: of its output.
            shape: of the output's rows that are wanted, float32.
            part: of the heads; None to have the output itself.
            num_rows: of the whole output; None for those that are wanted.
        """
        heads = self._parts.heads if part is not None else None
        more = {} if heads is None or part is None else heads.inputs(part)
        whole = (num_rows or shape[0], shape[1])
        out_bytes = whole[0] * whole[1] * np.dtype(np.float32).itemsize

        def start(lane: Lane) -> PendingBatch:
            def compute(addresses: Mapping[str, int]) -> list[Output]:
                place = lane.reserve(name, out_bytes)
                graph.program.run(graph.binding(addresses, (name, whole), place))
                if heads is None or part is None:
                    return [Output(name=name, address=place, shape=shape)]
                return heads.queue(part, place, addresses, lane)

            return self._parts.lanes.submit(lane, {**graph.arrays, **more}, compute)

        return start


@dataclass(frozen=True, slots=True)
class _GraphRun:
    """A run of a program.

    Attributes:
        program: to run.
        profile: its bucket.
        arrays: inputs to be copied.
        resident: address and shape of inputs that are on the device.
        padded: whether its sizes are the bucket's own.
    """

    program: Program
    profile: int
    arrays: Mapping[str, GraphInput]
    resident: Mapping[str, tuple[int, tuple[int, ...]]]
    padded: bool

    def binding(
        self, addresses: Mapping[str, int], output: tuple[str, tuple[int, ...]], place: int
    ) -> Binding:
        """Return what the program runs on.

        Args:
            addresses: of the inputs that were copied.
            output: name and shape of the output.
            place: its address.
        """
        shapes = {name: value.shape for name, value in self.arrays.items()}
        places = {name: addresses[name] for name in self.arrays}
        for name, (address, shape) in self.resident.items():
            shapes[name], places[name] = shape, address
        places[output[0]] = place
        return Binding(
            profile=self.profile,
            shapes=shapes,
            output=output,
            addresses=places,
            expected=self.padded,
        )


def _joined(parts: Sequence[NDArray[np.float32] | None]) -> NDArray[np.float32] | None:
    rows = [part for part in parts if part is not None]
    return np.concatenate(rows) if rows else None
