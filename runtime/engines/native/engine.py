"""Runs int8 and bf16 graphs on Trine's own kernels of the processor."""

import dataclasses
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from trine.kernels.cpu.kernels import CpuKernels
from trine.kernels.cpu.packed import PackedValues
from trine.runtime.adapters.base import AdapterHandle, AdapterSource, MergedAdapters
from trine.runtime.adapters.projector import load_projectors
from trine.runtime.adapters.store import SLOTS_PER_RUN, AdapterBank
from trine.runtime.bundle.bundle import HEADS_NAME, Bundle
from trine.runtime.bundle.manifest import EngineEntry
from trine.runtime.engines.base import DecoderInputs, EngineOptions
from trine.runtime.engines.memory_check import (
    native_decoder_bytes,
    native_vision_bytes,
    require_decoder_memory,
    require_vision_memory,
)
from trine.runtime.engines.native.decoder import forward_decoder, read_decoder
from trine.runtime.engines.native.deltas import RunDeltas
from trine.runtime.engines.native.graph_weights import GraphWeights
from trine.runtime.engines.native.layers import LayerReader
from trine.runtime.engines.native.packed_file import open_store
from trine.runtime.engines.native.profile import ProfilingKernels
from trine.runtime.engines.native.stack import TransformerStack
from trine.runtime.engines.native.vision import VisionTower
from trine.runtime.engines.native.workspace import Workspace
from trine.runtime.engines.ort.decoders import open_bank
from trine.runtime.engines.profile import OperatorTime
from trine.runtime.hardware.processors import num_processors
from trine.runtime.preprocessing.vision_inputs import VisionInputs

__all__ = ["NativeCpuEngine"]

Model = TypeVar("Model")


class NativeCpuEngine:
    """Decoders opened at once, the vision tower at its first image. One run at a time.

    Weights are packed at load, or mapped where `trine tune` wrote them packed.

    Args:
        bundle: the bundle.
        entry: of the engine, whose runner is "native".
        options: threads and tasks.

    Raises:
        BundleError: a graph has weights this code does not know.
        NativeLibraryError: the kernels cannot be used here.
    """

    def __init__(self, bundle: Bundle, entry: EngineEntry, options: EngineOptions) -> None:
        self._bundle = bundle
        self._entry = entry
        self._kernels = CpuKernels(options.threads or num_processors())
        self._workspace = Workspace()
        self._lock = threading.Lock()
        self._packed: dict[str, Mapping[str, PackedValues]] = {}
        self._mapped = True
        self._bank: AdapterBank | None = None
        if entry.adapters == "merged":
            self._adapters: AdapterSource = MergedAdapters(
                load_projectors(bundle.path(HEADS_NAME), options.tasks, bundle.manifest.model)
            )
        else:
            self._bank = open_bank(bundle, entry, options.tasks)
            self._adapters = self._bank
        paths = {task: entry.decoders[task] for task in options.tasks}
        stacks = {path: self._open_decoder(path) for path in dict.fromkeys(paths.values())}
        self._decoders = {task: stacks[path] for task, path in paths.items()}
        self._vision: VisionTower | None = None

    @property
    def adapters(self) -> AdapterSource:
        return self._adapters

    @property
    def pads_attention(self) -> bool:
        return False

    @property
    def weights_in_memory(self) -> bool:
        return not self._mapped

    @property
    def description(self) -> str:
        weights = "memory-mapped" if self._mapped else "repacked"
        return (
            f"{self._entry.name}: native kernels ({self._kernels.level}), {self._entry.precision}, "
            f"{self._kernels.threads} threads, {weights} weights, "
            f"tasks {', '.join(self.adapters.names)}"
        )

    @property
    def packed(self) -> Mapping[str, Mapping[str, PackedValues]]:
        """Weights as packed, of each graph opened so far, by its path and the layers' names."""
        return self._packed

    def open_vision(self) -> None:
        """Read the vision tower's weights now, not at the first image."""
        with self._lock:
            self._vision_tower()

    def forward_vision(self, inputs: VisionInputs) -> NDArray[np.float32]:
        require_vision_memory(
            native_vision_bytes(self._bundle.manifest.model.vision, len(inputs.patches)),
            len(inputs.patches),
        )
        return self._forward_vision(inputs, self._kernels)

    def batch_group(self, adapter: AdapterHandle) -> Hashable:
        return adapter.name if self._bank is None else adapter.slot // SLOTS_PER_RUN

    def forward_decoder(
        self, inputs: DecoderInputs, adapters: Sequence[AdapterHandle]
    ) -> NDArray[np.float32]:
        require_decoder_memory(
            native_decoder_bytes(self._bundle.manifest.model.decoder, len(inputs.embeddings)),
            len(inputs.embeddings),
        )
        return self._forward_decoder(inputs, adapters, self._kernels)

    def profile_vision(self, inputs: VisionInputs, runs: int) -> Sequence[OperatorTime]:
        self.forward_vision(inputs)
        return self._profile(lambda kernels: self._forward_vision(inputs, kernels), runs)

    def profile_decoder(
        self, inputs: DecoderInputs, adapters: Sequence[AdapterHandle], runs: int
    ) -> Sequence[OperatorTime]:
        def run(kernels: CpuKernels) -> None:
            # A run overwrites what it is given.
            own = dataclasses.replace(inputs, embeddings=inputs.embeddings.copy())
            self._forward_decoder(own, adapters, kernels)

        run(self._kernels)
        return self._profile(run, runs)

    def _profile(self, run: Callable[[CpuKernels], object], runs: int) -> list[OperatorTime]:
        kernels = ProfilingKernels(self._kernels.threads)
        for _ in range(runs):
            run(kernels)
        return kernels.operator_times(runs)

    def _forward_vision(self, inputs: VisionInputs, kernels: CpuKernels) -> NDArray[np.float32]:
        with self._lock:
            tower = self._vision_tower()
            try:
                return tower.run(inputs, kernels, self._workspace)
            finally:
                self._workspace.trim()

    def _forward_decoder(
        self, inputs: DecoderInputs, adapters: Sequence[AdapterHandle], kernels: CpuKernels
    ) -> NDArray[np.float32]:
        # One decoder serves all where adapters are not merged, those that came later too.
        stack = self._decoders.get(adapters[0].name) or next(iter(self._decoders.values()))
        with self._lock:
            deltas = self._deltas(adapters, inputs.lengths, kernels)
            try:
                return forward_decoder(stack, inputs, kernels, self._workspace, deltas)
            finally:
                self._workspace.trim()

    def _deltas(
        self,
        adapters: Sequence[AdapterHandle],
        lengths: NDArray[np.int64],
        kernels: CpuKernels,
    ) -> RunDeltas | None:
        if self._bank is None:
            return None
        slots = np.array([adapter.slot for adapter in adapters])
        view = self._bank.view(slots.tolist())
        return RunDeltas(
            kernels,
            self._workspace,
            view.arrays,
            np.repeat(slots - view.first, lengths).astype(np.int32),
            view.last - view.first + 1,
        )

    def _open_decoder(self, path: str) -> TransformerStack:
        config = self._bundle.manifest.model.decoder
        return self._read(path, lambda reader: read_decoder(reader, config))

    def _vision_tower(self) -> VisionTower:
        """Return the vision tower, read if it was not yet. Called with the lock held."""
        if self._vision is None:
            config = self._bundle.manifest.model.vision
            read = partial(VisionTower.read, config=config)
            self._vision = self._read(self._entry.vision, read)
        return self._vision

    def _read(self, path: str, read: Callable[[LayerReader], Model]) -> Model:
        """Return what `read` makes of the graph at `path`, all of whose weights it must use."""
        store = open_store(self._bundle, path)
        self._mapped &= store.mapped
        weights = GraphWeights(self._bundle.path(path))
        reader = LayerReader(self._kernels, weights, path, store)
        model = read(reader)
        reader.refuse_rest()
        self._packed[path] = reader.packed
        return model
