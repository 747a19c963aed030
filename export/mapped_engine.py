"""Runs engines in the memory of one graph, to measure those that are larger than an export."""

from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trine.runtime.adapters import AdapterHandle, AdapterSource
from trine.runtime.bundle import Bundle
from trine.runtime.engine import DecoderInputs, EngineOptions
from trine.runtime.engines.ort_cpu import OrtCpuEngine
from trine.runtime.manifest import EngineEntry
from trine.runtime.memory import release_mapped, resident_bytes
from trine.runtime.vision_layout import VisionInputs

__all__ = ["MappedEngine"]


class MappedEngine:
    """An engine whose weights stay in their files, and whose pages are given back after each run.

    Slow where runs are many and small: every run reads its graph's weights from the page cache.

    Args:
        bundle: the bundle.
        entry: of an engine whose runner is "onnxruntime".
        tasks: whose decoders to load.

    Attributes:
        peak_bytes: the largest resident memory of the process after a run.
    """

    def __init__(self, bundle: Bundle, entry: EngineEntry, tasks: tuple[str, ...]) -> None:
        options = EngineOptions(threads=None, tasks=tasks, share_weights=True)
        self._engine = OrtCpuEngine(bundle, entry, options)
        graphs = {entry.decoders[task] for task in tasks}
        self._decoders = [bundle.path(graph).with_suffix(".data") for graph in sorted(graphs)]
        self._vision = bundle.path(entry.vision).with_suffix(".data")
        self.peak_bytes = resident_bytes()

    @property
    def adapters(self) -> AdapterSource:
        return self._engine.adapters

    @property
    def pads_attention(self) -> bool:
        return self._engine.pads_attention

    @property
    def weights_in_memory(self) -> bool:
        return False

    @property
    def description(self) -> str:
        return self._engine.description

    def run_group(self, adapter: AdapterHandle) -> Hashable:
        return self._engine.run_group(adapter)

    def run_vision(self, inputs: VisionInputs) -> NDArray[np.float32]:
        tokens = self._engine.run_vision(inputs)
        self._release([self._vision])
        return tokens

    def run_decoder(
        self, inputs: DecoderInputs, adapters: Sequence[AdapterHandle]
    ) -> NDArray[np.float32]:
        hidden = self._engine.run_decoder(inputs, adapters)
        self._release(self._decoders)
        return hidden

    def _release(self, files: Sequence[Path]) -> None:
        self.peak_bytes = max(self.peak_bytes, resident_bytes())
        for file in files:
            release_mapped(file)
