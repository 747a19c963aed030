"""The decoder's graph for ONNX Runtime: packed token embeddings in, hidden states out.

Tokens of all sequences lie behind one another, without padding; only attention sees a padded view,
made by one Gather before and one after it. Rotary tables come from the host, which alone knows the
positions of image tokens. Architecture: Qwen2.5 (pre-norm RMSNorm, grouped-query causal attention
with biases on q, k and v, SwiGLU).
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trine.export.graphs.builder import CONTRIB, GraphBuilder
from trine.export.graphs.decoder_weights import DecoderWeights
from trine.export.graphs.layers import LORA_DTYPES
from trine.export.graphs.ort.gated_mlp import MlpLayer, MlpLayers, add_gated_mlp
from trine.export.graphs.ort.linears import GraphPlan, Linears
from trine.runtime.adapters.layout import LoraGroup, lora_groups
from trine.runtime.bundle.manifest import AdapterLayout
from trine.runtime.bundle.model_config import DecoderConfig

__all__ = ["build_decoder"]

#: ONNX Runtime's GroupQueryAttention takes heads of a multiple of this; others are padded with
#: zeros.
HEAD_MULTIPLE = 8


def build_decoder(
    config: DecoderConfig,
    weights: DecoderWeights,
    plan: GraphPlan,
    adapters: AdapterLayout | None = None,
) -> ir.Model:
    """Return the graph with `weights`, unread, in the precision of `plan`.

    With `adapters`, each adapted product y = x·W gets ((x·Aᵀ) where the mask is set, else 0) · B.

    Inputs: `embeddings` float32 [T, hidden]; `rope_cos`, `rope_sin` float32 [T, head_dim / 2];
    `pad_index` int64 [B, S], the token in each slot of the padded view (any token in unused slots);
    `unpad_index` int64 [T], the slot of each token in the flattened padded view; `last_index` int32
    [B], sequence lengths minus one; `padded_length` int32 [], S.
    With `adapters` also: `<group>.lora_a` [ranks, in] and `<group>.lora_b` [ranks, out] of each
    group of `trine.runtime.adapters.layout`, in the layout's dtype, by default without rows, that
    is without an adapter; `lora_mask` bool [T, ranks] and `lora_mask_qkv` bool [T, 3 · ranks], the
    ranks of each token's own adapter.
    Output: `hidden` float32 [T, hidden], after the final norm.
    """
    return _DecoderGraph(config, weights, plan, adapters).build()


def _no_rows(dtype: ir.DataType, width: int) -> NDArray[np.generic]:
    return np.empty((0, width), dtype.numpy())


class _DecoderGraph:
    def __init__(
        self,
        config: DecoderConfig,
        weights: DecoderWeights,
        plan: GraphPlan,
        adapters: AdapterLayout | None,
    ) -> None:
        self.config = config
        self.weights = weights
        self.graph = graph = GraphBuilder("decoder")
        self.linears = Linears(graph, plan)
        half = config.head_dim // 2
        self.embeddings = graph.input(
            "embeddings", ir.DataType.FLOAT, ["tokens", config.hidden_size]
        )
        self.cos = graph.input("rope_cos", ir.DataType.FLOAT, ["tokens", half])
        self.sin = graph.input("rope_sin", ir.DataType.FLOAT, ["tokens", half])
        self.pad_index = graph.input("pad_index", ir.DataType.INT64, ["sequences", "length"])
        self.unpad_index = graph.input("unpad_index", ir.DataType.INT64, ["tokens"])
        self.last_index = graph.input("last_index", ir.DataType.INT32, ["sequences"])
        self.padded_length = graph.input("padded_length", ir.DataType.INT32, [])
        self.groups: dict[str, LoraGroup] = {}
        if adapters is not None:
            self.groups = {group.name: group for group in lora_groups(config)}
            self.lora_dtype = LORA_DTYPES[adapters.dtype]
            self.masks = {
                1: graph.input("lora_mask", ir.DataType.BOOL, ["tokens", "ranks"]),
                3: graph.input("lora_mask_qkv", ir.DataType.BOOL, ["tokens", "ranks_qkv"]),
            }

    def build(self) -> ir.Model:
        self.rows = self.graph.row_numbers("token_rows", self.unpad_index)
        residual = self.embeddings
        normed = self.graph.node(
            "layers.0.input_norm",
            "SimplifiedLayerNormalization",
            [residual, self.graph.weight(self.weights.vector("layers.0.input_layernorm.weight"))],
            {"epsilon": self.config.rms_norm_eps, "axis": -1},
        )
        for layer in range(self.config.num_layers):
            prefix = f"layers.{layer}"
            attended = self._attention(prefix, normed)
            normed, residual = self._add_norm(
                f"{prefix}.post_norm",
                attended,
                residual,
                f"{prefix}.post_attention_layernorm.weight",
            )
            last = layer + 1 == self.config.num_layers
            normed, residual = self._add_norm(
                "norm" if last else f"layers.{layer + 1}.input_norm",
                self._mlp(prefix, normed),
                residual,
                "norm.weight" if last else f"layers.{layer + 1}.input_layernorm.weight",
            )
        return self.graph.build([(normed, "hidden", ["tokens", self.config.hidden_size])])

    def _linear(self, name: str, x: ir.Value, *modules: str) -> ir.Value:
        return self._with_delta(
            name, x, self.linears.add(name, x, self.weights.linear(name, modules))
        )

    def _with_delta(self, name: str, x: ir.Value, base: ir.Value) -> ir.Value:
        """Return `base`, plus the active adapters' deltas where the group `name` has inputs."""
        group = self.groups.get(name)
        if group is None:
            return base
        graph, parts = self.graph, len(group.modules)
        x, base = graph.cast(x, ir.DataType.FLOAT), graph.cast(base, ir.DataType.FLOAT)
        ranks = "ranks_qkv" if parts == 3 else "ranks"
        a, b = (
            graph.cast(
                graph.optional_input(
                    f"{name}.lora_{half}",
                    self.lora_dtype,
                    [ranks, width],
                    ir.Tensor(_no_rows(self.lora_dtype, width), dtype=self.lora_dtype),
                ),
                ir.DataType.FLOAT,
            )
            for half, width in (("a", group.num_in), ("b", group.num_out))
        )
        low = graph.node(f"{name}.lora_low", "Gemm", [x, a], {"transB": 1})
        # A selection, not a product with 0 and 1: other adapters' values cannot reach this token.
        kept = graph.node(
            f"{name}.lora_kept",
            "Where",
            [self.masks[parts], low, graph.scalar("zero_float", 0.0)],
            dtype=ir.DataType.FLOAT,
        )
        return graph.node(f"{name}.adapted", "Gemm", [kept, b, base])

    def _add_norm(
        self, name: str, branch: ir.Value, residual: ir.Value, weight: str
    ) -> tuple[ir.Value, ir.Value]:
        """Return (norm of the sum, the sum)."""
        normed, _, _, total = self.graph.nodes(
            [name, "", "", f"{name}.residual"],
            "SkipSimplifiedLayerNormalization",
            [
                self.graph.cast(branch, ir.DataType.FLOAT),
                residual,
                self.graph.weight(self.weights.vector(weight)),
            ],
            {"epsilon": self.config.rms_norm_eps},
            CONTRIB,
        )
        return normed, total

    def _attention(self, prefix: str, x: ir.Value) -> ir.Value:
        config, graph = self.config, self.graph
        name = f"{prefix}.self_attn"
        modules = [f"{name}.{part}_proj" for part in "qkv"]
        base = self.linears.add(
            f"{name}.qkv",
            x,
            self.weights.linear(f"{name}.qkv", modules),
            self.weights.bias(f"{name}.qkv", modules),
        )
        projected = self._with_delta(f"{name}.qkv", x, base)
        q_size, kv_size = config.hidden_size, config.num_kv_heads * config.head_dim
        q, k, v = graph.nodes(
            [f"{name}.q", f"{name}.k", f"{name}.v"],
            "Split",
            [projected, graph.constant("qkv_sizes", [q_size, kv_size, kv_size])],
            {"axis": 1},
        )
        q = self._rotate(f"{name}.q", q, config.num_heads)
        k = self._rotate(f"{name}.k", k, config.num_kv_heads)
        dtype = self.linears.dtype(f"{name}.attended")
        padded = [
            self._padded(f"{name}.{part}", graph.cast(value, dtype), heads)
            for part, value, heads in (
                ("q", q, config.num_heads),
                ("k", k, config.num_kv_heads),
                ("v", v, config.num_kv_heads),
            )
        ]
        attended, _, _ = graph.nodes(
            [f"{name}.attended", f"{name}.present_k", f"{name}.present_v"],
            "GroupQueryAttention",
            [*padded, None, None, self.last_index, self.padded_length],
            {
                "num_heads": config.num_heads,
                "kv_num_heads": config.num_kv_heads,
                "scale": config.head_dim**-0.5,
            },
            CONTRIB,
        )
        return self._linear(
            f"{name}.o", self._unpadded(name, attended), f"{prefix}.self_attn.o_proj"
        )

    def _rotate(self, name: str, x: ir.Value, num_heads: int) -> ir.Value:
        """Return [T, heads × head_dim] with each head rotated by its token's row of the tables."""
        graph, axis = self.graph, self.graph.constant("zero", [0])
        x = graph.cast(x, ir.DataType.FLOAT)
        rotated = graph.node(
            f"{name}.rotated",
            "RotaryEmbedding",
            [graph.node(f"{name}.3d", "Unsqueeze", [x, axis]), self.rows, self.cos, self.sin],
            {"num_heads": num_heads},
            CONTRIB,
        )
        return graph.node(f"{name}.2d", "Squeeze", [rotated, axis])

    @property
    def _head_padding(self) -> int:
        return -self.config.head_dim % HEAD_MULTIPLE

    def _padded(self, name: str, x: ir.Value, num_heads: int) -> ir.Value:
        """Return [B, S, heads × head size] of packed [T, heads × head_dim]."""
        graph, config = self.graph, self.config
        if self._head_padding:
            heads = graph.constant(f"heads_{num_heads}", [0, num_heads, config.head_dim])
            x = graph.node(f"{name}.heads", "Reshape", [x, heads])
            pads = graph.constant("head_pads", [0, 0, 0, 0, 0, self._head_padding])
            x = graph.node(f"{name}.wide", "Pad", [x, pads])
            wide = num_heads * (config.head_dim + self._head_padding)
            x = graph.node(
                f"{name}.flat", "Reshape", [x, graph.constant(f"wide_{num_heads}", [0, wide])]
            )
        return graph.node(f"{name}.padded", "Gather", [x, self.pad_index])

    def _unpadded(self, name: str, attended: ir.Value) -> ir.Value:
        """Return packed [T, heads × head_dim] of [B, S, heads × head size]."""
        graph, config = self.graph, self.config
        width = config.num_heads * (config.head_dim + self._head_padding)
        flat = graph.node(
            f"{name}.slots", "Reshape", [attended, graph.constant("slots", [-1, width])]
        )
        x = graph.node(f"{name}.packed", "Gather", [flat, self.unpad_index])
        if self._head_padding:
            heads = [0, config.num_heads, config.head_dim + self._head_padding]
            x = graph.node(f"{name}.o_heads", "Reshape", [x, graph.constant("wide_heads", heads)])
            x = graph.node(
                f"{name}.o_narrow",
                "Slice",
                [
                    x,
                    graph.constant("zero", [0]),
                    graph.constant("head_end", [config.head_dim]),
                    graph.constant("head_axis", [2]),
                ],
            )
            flat_width = graph.constant("flat_width", [0, config.hidden_size])
            x = graph.node(f"{name}.o_flat", "Reshape", [x, flat_width])
        return x

    def _mlp(self, prefix: str, x: ir.Value) -> ir.Value:
        name = f"{prefix}.mlp"
        layers = MlpLayers(
            gate=MlpLayer(
                f"{name}.gate", self.weights.linear(f"{name}.gate", [f"{name}.gate_proj"])
            ),
            up=MlpLayer(f"{name}.up", self.weights.linear(f"{name}.up", [f"{name}.up_proj"])),
            down=MlpLayer(
                f"{name}.down", self.weights.linear(f"{name}.down", [f"{name}.down_proj"])
            ),
            product=f"{name}.product",
        )
        return add_gated_mlp(self.graph, self.linears, x, layers, self._with_delta)
