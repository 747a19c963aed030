"""ONNX Runtime on the CPU."""

import threading
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trine.runtime.adapters.base import AdapterHandle, AdapterSource
from trine.runtime.bundle.bundle import Bundle
from trine.runtime.bundle.manifest import EngineEntry
from trine.runtime.engines.base import DecoderInputs, EngineOptions
from trine.runtime.engines.memory_check import (
    ort_decoder_bytes,
    ort_vision_bytes,
    require_decoder_memory,
    require_vision_memory,
)
from trine.runtime.engines.ort.decoders import Decoders, MergedDecoders, SharedDecoder
from trine.runtime.engines.ort.profile import profile_graph
from trine.runtime.engines.ort.session import choose_settings, open_session, run_session
from trine.runtime.engines.profile import OperatorTime
from trine.runtime.preprocessing.vision_inputs import VisionInputs

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["OrtCpuEngine"]


class OrtCpuEngine:
    """Sessions of one engine entry: decoders at once, the vision tower at its first image.

    Args:
        bundle: the bundle.
        entry: of the engine, whose runner is "onnxruntime".
        options: threads and tasks.

    Raises:
        EngineError: ONNX Runtime refuses a graph.
        DependencyError: onnxruntime is not installed.
    """

    def __init__(self, bundle: Bundle, entry: EngineEntry, options: EngineOptions) -> None:
        num_decoders = len({entry.decoders[task] for task in options.tasks})
        self._settings = choose_settings(
            options.threads,
            entry.weight_bytes * num_decoders,
            options.share_weights,
            options.spin,
        )
        kind = MergedDecoders if entry.adapters == "merged" else SharedDecoder
        self._decoders: Decoders = kind(bundle, entry, options.tasks, self._settings)
        self._bundle, self._entry = bundle, entry
        self._model = bundle.manifest.model
        self._name = entry.name
        self._precision = entry.precision
        self._vision_path = bundle.path(entry.vision)
        self._vision: onnxruntime.InferenceSession | None = None
        self._vision_lock = threading.Lock()

    @property
    def adapters(self) -> AdapterSource:
        return self._decoders.adapters

    @property
    def pads_attention(self) -> bool:
        return True

    @property
    def weights_in_memory(self) -> bool:
        return self._settings.repack

    @property
    def description(self) -> str:
        weights = "repacked" if self._settings.repack else "memory-mapped"
        return (
            f"{self._name}: ONNX Runtime on the CPU, {self._precision}, {self._settings.threads} "
            f"threads, {weights} weights, tasks {', '.join(self.adapters.names)}"
        )

    def forward_vision(self, inputs: VisionInputs) -> NDArray[np.float32]:
        num_patches = len(inputs.patches)
        require_vision_memory(ort_vision_bytes(self._model.vision, num_patches), num_patches)
        with self._vision_lock:
            if self._vision is None:
                self._vision = open_session(self._vision_path, self._settings)
        return run_session(self._vision, inputs)

    def batch_group(self, adapter: AdapterHandle) -> Hashable:
        return self._decoders.batch_group(adapter)

    def forward_decoder(
        self, inputs: DecoderInputs, adapters: Sequence[AdapterHandle]
    ) -> NDArray[np.float32]:
        num_tokens = len(inputs.embeddings)
        require_decoder_memory(ort_decoder_bytes(self._model.decoder, num_tokens), num_tokens)
        return self._decoders.run(inputs, adapters)

    def profile_vision(self, inputs: VisionInputs, runs: int) -> Sequence[OperatorTime]:
        return profile_graph(self._vision_path, self._settings, inputs, {}, runs)

    def profile_decoder(
        self, inputs: DecoderInputs, adapters: Sequence[AdapterHandle], runs: int
    ) -> Sequence[OperatorTime]:
        decoders = self._entry.decoders
        # A decoder that takes its adapters as inputs is the same for every task.
        path = decoders.get(adapters[0].name) or next(iter(decoders.values()))
        more = self._decoders.adapter_inputs(inputs, adapters)
        return profile_graph(self._bundle.path(path), self._settings, inputs, more, runs)
