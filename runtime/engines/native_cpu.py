"""The engine of 8-bit graphs on processors with AVX-512 and VNNI: Trine's own kernels."""

import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.kernels.cpu.kernels import CpuKernels
from trine.runtime.adapter_bank import SLOTS_PER_RUN, AdapterBank
from trine.runtime.adapters import AdapterHandle, AdapterSource, MergedAdapters
from trine.runtime.bundle import HEADS_NAME, Bundle
from trine.runtime.engine import DecoderInputs, EngineOptions
from trine.runtime.engines.graph_weights import GraphWeights
from trine.runtime.engines.native_deltas import RunDeltas
from trine.runtime.engines.native_layers import LayerNames, LayerReader
from trine.runtime.engines.native_linear import Floats, Linear, Rows
from trine.runtime.engines.native_stack import AttentionLayout, StackInputs, TransformerStack
from trine.runtime.engines.ort_decoders import open_bank
from trine.runtime.engines.ort_session import num_cores
from trine.runtime.engines.workspace import Workspace
from trine.runtime.heads import load_projectors
from trine.runtime.manifest import EngineEntry
from trine.runtime.model_config import VISION_NORM_EPS, DecoderConfig, VisionConfig
from trine.runtime.vision_layout import VisionInputs

__all__ = ["NativeCpuEngine"]

#: Scalars and index vectors of the graphs, which carry no weights.
GRAPH_CONSTANTS = frozenset({"zero", "slots", "qkv_sizes"})


class NativeCpuEngine:
    """Decoders packed at load, the vision tower at its first picture. One run at a time.

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
        self._kernels = CpuKernels(options.threads or num_cores())
        self._workspace = Workspace()
        self._lock = threading.Lock()
        self._bank: AdapterBank | None = None
        model = bundle.manifest.model
        if entry.adapters == "merged":
            self._adapters: AdapterSource = MergedAdapters(
                load_projectors(bundle.path(HEADS_NAME), options.tasks, model)
            )
        else:
            self._bank = open_bank(bundle, entry, options.tasks)
            self._adapters = self._bank
        paths = {task: entry.decoders[task] for task in options.tasks}
        stacks = {path: self._open_decoder(path) for path in dict.fromkeys(paths.values())}
        self._decoders = {task: stacks[path] for task, path in paths.items()}
        self._shared = stacks[next(iter(paths.values()))]
        self._vision: _VisionTower | None = None

    @property
    def adapters(self) -> AdapterSource:
        return self._adapters

    @property
    def weights_in_memory(self) -> bool:
        return True

    @property
    def description(self) -> str:
        return (
            f"{self._entry.name}: native kernels (AVX-512 VNNI), {self._entry.precision}, "
            f"{self._kernels.threads} threads, tasks {', '.join(self.adapters.names)}"
        )

    def run_vision(self, inputs: VisionInputs) -> NDArray[np.float32]:
        with self._lock:
            if self._vision is None:
                self._vision = _VisionTower.open(self._kernels, self._bundle, self._entry.vision)
            try:
                return self._vision.run(inputs, self._workspace)
            finally:
                self._workspace.trim()

    def run_group(self, adapter: AdapterHandle) -> Hashable:
        return adapter.name if self._bank is None else adapter.slot // SLOTS_PER_RUN

    def run_decoder(
        self, inputs: DecoderInputs, adapters: Sequence[AdapterHandle]
    ) -> NDArray[np.float32]:
        lengths = inputs.last_index.astype(np.int64) + 1
        starts = np.concatenate([[0], np.cumsum(lengths)])
        stack = self._shared if self._bank is not None else self._decoders[adapters[0].name]
        with self._lock:
            try:
                return stack.run(
                    np.array(inputs.embeddings, np.float32, order="C"),
                    StackInputs(
                        rope_cos=np.ascontiguousarray(inputs.rope_cos),
                        rope_sin=np.ascontiguousarray(inputs.rope_sin),
                        starts=lambda layer: starts,
                        deltas=self._deltas(adapters, lengths),
                    ),
                    self._workspace,
                )
            finally:
                self._workspace.trim()

    def _deltas(
        self, adapters: Sequence[AdapterHandle], lengths: NDArray[np.int64]
    ) -> RunDeltas | None:
        if self._bank is None:
            return None
        slots = np.array([adapter.slot for adapter in adapters])
        view = self._bank.view(slots.tolist())
        return RunDeltas(
            self._kernels,
            self._workspace,
            view.arrays,
            np.repeat(slots - view.first, lengths).astype(np.int32),
            view.last - view.first + 1,
        )

    def _open_decoder(self, path: str) -> TransformerStack:
        config = self._bundle.manifest.model.decoder
        reader = _reader(self._kernels, self._bundle, path)
        stack = TransformerStack(
            self._kernels,
            [reader.layer(_decoder_names(layer)) for layer in range(config.num_layers)],
            reader.vector("norm.weight"),
            config.rms_norm_eps,
            _decoder_attention(config),
        )
        reader.refuse_rest(GRAPH_CONSTANTS)
        return stack


@dataclass(frozen=True, slots=True, eq=False)
class _VisionTower:
    kernels: CpuKernels
    config: VisionConfig
    patch_embed: Linear
    stack: TransformerStack
    merger: tuple[Linear, Linear]

    @classmethod
    def open(cls, kernels: CpuKernels, bundle: Bundle, path: str) -> "_VisionTower":
        config = bundle.manifest.model.vision
        reader = _reader(kernels, bundle, path)
        stack = TransformerStack(
            kernels,
            [reader.layer(_vision_names(block)) for block in range(config.depth)],
            reader.vector("merger.ln_q.weight"),
            VISION_NORM_EPS,
            AttentionLayout(
                heads=(config.num_heads, config.num_heads), head_dim=config.head_dim, causal=False
            ),
        )
        tower = cls(
            kernels,
            config,
            reader.linear("patch_embed"),
            stack,
            (reader.linear("merger.mlp.0"), reader.linear("merger.mlp.2")),
        )
        reader.refuse_rest(GRAPH_CONSTANTS)
        return tower

    def run(self, inputs: VisionInputs, workspace: Workspace) -> Floats:
        """Return image tokens, float32 [N, hidden] in window order."""
        config, patches = self.config, np.ascontiguousarray(inputs.patches)
        num_images = int(inputs.num_images[0])
        windows = np.concatenate([[0], np.cumsum(inputs.window_lengths, dtype=np.int64)])
        pictures = np.linspace(0, len(patches), num_images + 1).astype(np.int64)
        residual = self._through(self.patch_embed, patches, config.hidden_size, workspace)
        normed = self.stack.run(
            residual,
            StackInputs(
                rope_cos=np.ascontiguousarray(inputs.rope_cos),
                rope_sin=np.ascontiguousarray(inputs.rope_sin),
                starts=lambda b: pictures if b in config.full_attention_blocks else windows,
                deltas=None,
            ),
            workspace,
        )
        width = config.hidden_size * config.spatial_merge_size**2
        inner = self._through(self.merger[0], normed.reshape(-1, width), width, workspace)
        self.kernels.gelu(inner)
        return self._through(self.merger[1], inner, config.out_hidden_size, workspace)

    def _through(self, layer: Linear, x: Floats, width: int, workspace: Workspace) -> Floats:
        """Return the output of a layer, float32 [T, width]."""
        out = np.empty((len(x), width), np.float32)
        layer.add_to(self.kernels, Rows(self.kernels, workspace, x), out)
        return out


def _reader(kernels: CpuKernels, bundle: Bundle, path: str) -> LayerReader:
    return LayerReader(kernels, GraphWeights(bundle.path(path)), path)


def _decoder_attention(config: DecoderConfig) -> AttentionLayout:
    return AttentionLayout(
        heads=(config.num_heads, config.num_kv_heads), head_dim=config.head_dim, causal=True
    )


def _decoder_names(layer: int) -> LayerNames:
    prefix = f"layers.{layer}"
    return LayerNames(
        input_norm=f"{prefix}.input_layernorm.weight",
        qkv=f"{prefix}.self_attn.qkv",
        o=f"{prefix}.self_attn.o",
        post_norm=f"{prefix}.post_attention_layernorm.weight",
        gate=f"{prefix}.mlp.gate",
        up=f"{prefix}.mlp.up",
        down=f"{prefix}.mlp.down",
    )


def _vision_names(block: int) -> LayerNames:
    prefix = f"blocks.{block}"
    return LayerNames(
        input_norm=f"{prefix}.norm1.weight",
        qkv=f"{prefix}.attn.qkv",
        o=f"{prefix}.attn.proj",
        post_norm=f"{prefix}.norm2.weight",
        gate=f"{prefix}.mlp.gate_proj",
        up=f"{prefix}.mlp.up_proj",
        down=f"{prefix}.mlp.down_proj",
    )
