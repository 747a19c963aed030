"""Runs engines in bounded memory, to measure those that are larger than an export."""

import threading
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trine.runtime.adapters.base import AdapterHandle, AdapterSource
from trine.runtime.bundle.bundle import Bundle
from trine.runtime.bundle.manifest import EngineEntry
from trine.runtime.engines.base import DecoderInputs, EngineOptions
from trine.runtime.engines.ort.engine import OrtCpuEngine
from trine.runtime.hardware.memory import release_mapped, resident_bytes
from trine.runtime.preprocessing.vision_inputs import VisionInputs

__all__ = ["LowMemoryEngine"]

#: Pages of weights are given back when a run has made the process larger by this much.
HELD_BYTES = 1 << 30
#: Between two looks at the process's size: a run maps some hundred megabytes meanwhile.
LOOK_SECONDS = 0.1


class LowMemoryEngine:
    """An engine whose weights stay in their files, and whose pages are given back as it runs.

    Slow where runs are many and small: every run reads its graph's weights from the page cache.

    Args:
        bundle: the bundle.
        entry: of an engine whose runner is "onnxruntime".
        tasks: whose decoders to load.

    Attributes:
        peak_bytes: the largest resident memory of the process that was seen in a run.
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

    def batch_group(self, adapter: AdapterHandle) -> Hashable:
        return self._engine.batch_group(adapter)

    def forward_vision(self, inputs: VisionInputs) -> NDArray[np.float32]:
        with self._giving_back([self._vision]):
            return self._engine.forward_vision(inputs)

    def forward_decoder(
        self, inputs: DecoderInputs, adapters: Sequence[AdapterHandle]
    ) -> NDArray[np.float32]:
        with self._giving_back(self._decoders):
            return self._engine.forward_decoder(inputs, adapters)

    @contextmanager
    def _giving_back(self, files: Sequence[Path]) -> Iterator[None]:
        """Give back the files' pages at the end, and whenever there are too many of them."""
        limit, ended = resident_bytes() + HELD_BYTES, threading.Event()

        def watch() -> None:
            while not ended.wait(LOOK_SECONDS):
                if self._look() > limit:
                    self._release(files)

        watcher = threading.Thread(target=watch, name="trine-give-back")
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            self._look()
            self._release(files)

    def _look(self) -> int:
        held = resident_bytes()
        self.peak_bytes = max(self.peak_bytes, held)
        return held

    def _release(self, files: Sequence[Path]) -> None:
        for file in files:
            release_mapped(file)
