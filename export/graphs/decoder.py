"""The decoder's graph: packed token embeddings in, hidden states out, in either dialect.

Tokens of all sequences lie behind one another, without padding; only attention sees a padded view,
made by one Gather before and one after it. Rotary tables come from the host, which alone knows the
positions of image tokens. Architecture: Qwen2.5 (pre-norm RMSNorm, grouped-query causal attention
with biases on q, k and v, SwiGLU).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import onnx_ir as ir

from trine.export.graphs.builder import GraphBuilder, Weight
from trine.export.graphs.decoder_weights import DecoderWeights
from trine.export.graphs.layers import LORA_DTYPES
from trine.runtime.adapters.layout import LoraGroup, lora_groups
from trine.runtime.bundle.manifest import AdapterLayout
from trine.runtime.bundle.model_config import DecoderConfig

__all__ = ["DecoderGraph"]


class LinearLayers(Protocol):
    """Adds linear layers in the precision a plan has for them."""

    def add(self, name: str, x: ir.Value, weight: Weight, bias: Weight | None = None) -> ir.Value:
        """Return x · weight + bias."""
        ...

    def dtype(self, name: str) -> ir.DataType:
        """Return the type in which the operation `name` computes."""
        ...


class DecoderGraph(ABC):
    """Builds the graph; a dialect adds its operators.

    Inputs: `embeddings` float32 [T, hidden]; `rope_cos`, `rope_sin` float32 [T, head_dim / 2];
    `pad_index` int64 [B, S], the token in each slot of the padded view; `unpad_index` int64 [T],
    the slot of each token in the flattened padded view; then the dialect's own.
    With adapters also: `lora_mask` bool [T, ranks] and `lora_mask_qkv` bool [T, 3 · ranks], the
    ranks of each token's own adapter; `<group>.lora_a` [ranks, in] and `<group>.lora_b` [ranks,
    out] of each group of `trine.runtime.adapters.layout`, in the layout's dtype.

    Args:
        config: of the decoder.
        weights: unread.
        adapters: layout of adapters as inputs; None for none.
    """

    linears: LinearLayers

    def __init__(
        self, config: DecoderConfig, weights: DecoderWeights, adapters: AdapterLayout | None
    ) -> None:
        self.config = config
        self.weights = weights
        self.graph = graph = GraphBuilder("decoder")
        self.declare_inputs()
        self.groups: dict[str, LoraGroup] = {}
        if adapters is not None:
            self.groups = {group.name: group for group in lora_groups(config)}
            self.lora_dtype = LORA_DTYPES[adapters.dtype]
            self.masks = {
                1: graph.input("lora_mask", ir.DataType.BOOL, ["tokens", "ranks"]),
                3: graph.input("lora_mask_qkv", ir.DataType.BOOL, ["tokens", "ranks_qkv"]),
            }

    def declare_inputs(self) -> None:
        """Declare the packed inputs; a dialect adds its own, or computes these from others."""
        graph, config = self.graph, self.config
        self.embeddings = graph.input(
            "embeddings", ir.DataType.FLOAT, ["tokens", config.hidden_size]
        )
        self.cos, self.sin = (
            graph.input(name, ir.DataType.FLOAT, ["tokens", config.head_dim // 2])
            for name in ("rope_cos", "rope_sin")
        )
        self.pad_index = graph.input("pad_index", ir.DataType.INT64, ["sequences", "length"])
        self.unpad_index = graph.input("unpad_index", ir.DataType.INT64, ["tokens"])

    def hidden_states(self) -> ir.Value:
        """Add all layers; return float32 [T, hidden], after the final norm."""
        residual = self.embeddings
        normed = self.norm("layers.0.input_norm", residual, "layers.0.input_layernorm")
        for layer in range(self.config.num_layers):
            prefix, following = f"layers.{layer}", f"layers.{layer + 1}"
            normed, residual = self.add_norm(
                f"{prefix}.post_norm",
                (f"{prefix}.attention_sum", self._attention(f"{prefix}.self_attn", normed)),
                residual,
                f"{prefix}.post_attention_layernorm",
            )
            last = layer + 1 == self.config.num_layers
            normed, residual = self.add_norm(
                "norm" if last else f"{following}.input_norm",
                (f"{prefix}.mlp_sum", self.mlp(f"{prefix}.mlp", normed)),
                residual,
                "norm" if last else f"{following}.input_layernorm",
            )
        return normed

    def linear(self, name: str, x: ir.Value, module: str) -> ir.Value:
        """Return a layer without biases, with what adapters add to it."""
        base = self.linears.add(name, x, self.weights.linear(name, [module]))
        return self.with_delta(name, x, base)

    def norm_weight(self, stored: str) -> Weight:
        """Return the weight of a norm by the checkpoint's name for it."""
        return self.weights.vector(f"{stored}.weight")

    def _attention(self, name: str, x: ir.Value) -> ir.Value:
        config, graph = self.config, self.graph
        modules = [f"{name}.{part}_proj" for part in "qkv"]
        base = self.linears.add(
            f"{name}.qkv",
            x,
            self.weights.linear(f"{name}.qkv", modules),
            self.weights.bias(f"{name}.qkv", modules),
        )
        projected = self.with_delta(f"{name}.qkv", x, base)
        kv_size = config.num_kv_heads * config.head_dim
        sizes = graph.constant("qkv_sizes", [config.hidden_size, kv_size, kv_size])
        q, k, v = graph.nodes(
            [f"{name}.q", f"{name}.k", f"{name}.v"], "Split", [projected, sizes], {"axis": 1}
        )
        q = self.rotate(f"{name}.q", q, config.num_heads)
        k = self.rotate(f"{name}.k", k, config.num_kv_heads)
        dtype = self.linears.dtype(f"{name}.attended")
        padded = [
            self.padded(f"{name}.{part}", graph.cast(value, dtype), heads)
            for part, value, heads in (
                ("q", q, config.num_heads),
                ("k", k, config.num_kv_heads),
                ("v", v, config.num_kv_heads),
            )
        ]
        attended = self.unpadded(name, self.attend(name, padded))
        return self.linear(f"{name}.o", attended, f"{name}.o_proj")

    @property
    def attended_width(self) -> int:
        """The last axis of what `attend` returns."""
        return self.config.hidden_size

    def unpadded(self, name: str, attended: ir.Value) -> ir.Value:
        """Return packed [T, hidden] of what `attend` returns."""
        slots = self.graph.constant("slots", [-1, self.attended_width])
        flat = self.graph.node(f"{name}.slots", "Reshape", [attended, slots])
        return self.graph.node(f"{name}.packed", "Gather", [flat, self.unpad_index])

    # What differs between the dialects

    @abstractmethod
    def norm(self, name: str, x: ir.Value, stored: str) -> ir.Value:
        """Return the RMS norm of float32 `x`."""

    @abstractmethod
    def add_norm(
        self, name: str, branch: tuple[str, ir.Value], residual: ir.Value, stored: str
    ) -> tuple[ir.Value, ir.Value]:
        """Return (norm of the sum, the sum) of a residual and a branch, given with its sum's name.

        Both are float32.
        """

    @abstractmethod
    def with_delta(self, name: str, x: ir.Value, base: ir.Value) -> ir.Value:
        """Return `base`, plus the adapters' deltas where the group `name` has inputs."""

    @abstractmethod
    def rotate(self, name: str, x: ir.Value, num_heads: int) -> ir.Value:
        """Return [T, heads × head_dim] with each head rotated by its token's row of the tables."""

    @abstractmethod
    def padded(self, name: str, x: ir.Value, num_heads: int) -> ir.Value:
        """Return the padded view of packed [T, heads × head_dim], as `attend` takes it."""

    @abstractmethod
    def attend(self, name: str, qkv: Sequence[ir.Value]) -> ir.Value:
        """Return [B, S, attended_width] of padded queries, keys and values."""

    @abstractmethod
    def mlp(self, name: str, x: ir.Value) -> ir.Value:
        """Return the gated MLP of normed `x`."""
