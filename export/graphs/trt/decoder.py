"""The decoder's graph for TensorRT: packed token embeddings in, hidden states out.

As in the graph for ONNX Runtime, only attention sees sequences padded to one length. Padding lies
behind each sequence, where the causal rule alone keeps queries of real tokens from seeing it, and
what padded queries see is dropped. So no mask is stored: one of causality and padding together
would have B · S² bytes, and TensorRT refuses a mask beside `is_causal`.
"""

import onnx_ir as ir

from trine.export.graphs.builder import GraphBuilder
from trine.export.graphs.decoder_weights import DecoderWeights
from trine.export.graphs.layers import LORA_DTYPES
from trine.export.graphs.trt.linears import TrtLinears
from trine.export.graphs.trt.operators import TrtOperators, trt_model
from trine.export.graphs.trt.precision import TrtPlan
from trine.runtime.adapters.layout import LoraGroup, lora_groups
from trine.runtime.bundle.manifest import AdapterLayout
from trine.runtime.bundle.model_config import DecoderConfig

__all__ = ["build_trt_decoder"]


def build_trt_decoder(
    config: DecoderConfig,
    weights: DecoderWeights,
    plan: TrtPlan,
    adapters: AdapterLayout | None = None,
) -> ir.Model:
    """Return the graph with `weights`, unread, typed by `plan`.

    With `adapters`, each adapted product y = x·W gets ((x·Aᵀ) where the mask is set, else 0) · B,
    in the layer's own float format, of the input as it is before quantisation.

    Inputs: `embeddings` float32 [T, hidden]; `rope_cos`, `rope_sin` float32 [T, head_dim / 2];
    `pad_index` int64 [B, S], the token in each slot of the padded view (any token in unused slots,
    which must lie behind the used ones); `unpad_index` int64 [T], the slot of each token in the
    flattened padded view.
    With `adapters` also: `<group>.lora_a` [ranks, in] and `<group>.lora_b` [ranks, out] of each
    group of `trine.runtime.adapters.layout`, in the layout's dtype; `lora_mask` bool [T, ranks] and
    `lora_mask_qkv` bool [T, 3 · ranks], the ranks of each token's own adapter.
    Output: `hidden` float32 [T, hidden], after the final norm.
    """
    return _Decoder(config, weights, plan, adapters).build()


class _Decoder:
    def __init__(
        self,
        config: DecoderConfig,
        weights: DecoderWeights,
        plan: TrtPlan,
        adapters: AdapterLayout | None,
    ) -> None:
        self.config = config
        self.weights = weights
        self.plan = plan
        self.graph = graph = GraphBuilder("decoder")
        self.linears = TrtLinears(graph, plan, leading_axes=1)
        self.operators = TrtOperators(graph)
        half = config.head_dim // 2
        self.embeddings = graph.input(
            "embeddings", ir.DataType.FLOAT, ["tokens", config.hidden_size]
        )
        self.tables = [
            graph.input(name, ir.DataType.FLOAT, ["tokens", half])
            for name in ("rope_cos", "rope_sin")
        ]
        self.pad_index = graph.input("pad_index", ir.DataType.INT64, ["sequences", "length"])
        self.unpad_index = graph.input("unpad_index", ir.DataType.INT64, ["tokens"])
        self.groups: dict[str, LoraGroup] = {}
        if adapters is not None:
            self.groups = {group.name: group for group in lora_groups(config)}
            self.lora_dtype = LORA_DTYPES[adapters.dtype]
            self.masks = {
                1: graph.input("lora_mask", ir.DataType.BOOL, ["tokens", "ranks"]),
                3: graph.input("lora_mask_qkv", ir.DataType.BOOL, ["tokens", "ranks_qkv"]),
            }

    def build(self) -> ir.Model:
        zero = self.graph.constant("zero", [0])
        self.cos, self.sin = (
            self.graph.node(f"{table.name}.3d", "Unsqueeze", [table, zero]) for table in self.tables
        )
        residual = self.embeddings
        for layer in range(self.config.num_layers):
            prefix = f"layers.{layer}"
            normed = self._norm(f"{prefix}.input_norm", residual, f"{prefix}.input_layernorm")
            attended = self._attention(f"{prefix}.self_attn", normed)
            residual = self.operators.add(f"{prefix}.attention_sum", attended, residual)
            stored = f"{prefix}.post_attention_layernorm"
            normed = self._norm(f"{prefix}.post_norm", residual, stored)
            residual = self.operators.add(
                f"{prefix}.mlp_sum", self._mlp(f"{prefix}.mlp", normed), residual
            )
        normed = self._norm("norm", residual, "norm")
        return trt_model(self.graph, normed, "hidden", ["tokens", self.config.hidden_size])

    def _norm(self, name: str, x: ir.Value, stored: str) -> ir.Value:
        weight = self.weights.vector(f"{stored}.weight")
        return self.operators.norm(name, x, weight, self.config.rms_norm_eps)

    def _linear(self, name: str, x: ir.Value, module: str) -> ir.Value:
        base = self.linears.add(name, x, self.weights.linear(name, [module]))
        return self._with_delta(name, x, base)

    def _with_delta(self, name: str, x: ir.Value, base: ir.Value) -> ir.Value:
        """Return `base`, or its sum with the adapters' deltas where the group `name` has inputs."""
        group = self.groups.get(name)
        if group is None:
            return base
        graph, parts, dtype = self.graph, len(group.modules), self.plan.unquantised(name)
        ranks = "ranks_qkv" if parts == 3 else "ranks"
        a, b = (
            graph.cast(graph.input(f"{name}.lora_{half}", self.lora_dtype, [ranks, width]), dtype)
            for half, width in (("a", group.num_in), ("b", group.num_out))
        )
        across = graph.node(f"{name}.lora_across", "Transpose", [a], {"perm": [1, 0]})
        low = graph.node(f"{name}.lora_low", "MatMul", [graph.cast(x, dtype), across])
        # A selection, not a product with 0 and 1: other adapters' values cannot reach this token.
        kept = graph.node(
            f"{name}.lora_kept",
            "Where",
            [self.masks[parts], low, graph.cast(graph.scalar("zero_float", 0.0), dtype)],
            dtype=dtype,
        )
        delta = graph.node(f"{name}.lora_delta", "MatMul", [kept, b])
        # In 16 bits where the layer has them: in float32 it would be the graph's largest tensor.
        return graph.node(f"{name}.adapted", "Add", [graph.cast(base, dtype), delta])

    def _attention(self, name: str, x: ir.Value) -> ir.Value:
        config, graph = self.config, self.graph
        modules = [f"{name}.{part}_proj" for part in "qkv"]
        base = self.linears.add(
            f"{name}.qkv",
            x,
            self.weights.linear(f"{name}.qkv", modules),
            self.weights.bias(f"{name}.qkv", modules),
        )
        projected = self._with_delta(f"{name}.qkv", x, base)
        kv_size = config.num_kv_heads * config.head_dim
        sizes = graph.constant("qkv_sizes", [config.hidden_size, kv_size, kv_size])
        q, k, v = graph.nodes(
            [f"{name}.q", f"{name}.k", f"{name}.v"], "Split", [projected, sizes], {"axis": 1}
        )
        q = self._rotate(f"{name}.q", q, config.num_heads)
        k = self._rotate(f"{name}.k", k, config.num_kv_heads)
        padded = [
            self._padded(f"{name}.{part}", value, heads)
            for part, value, heads in (
                ("q", q, config.num_heads),
                ("k", k, config.num_kv_heads),
                ("v", v, config.num_kv_heads),
            )
        ]
        attended = self.operators.attend(name, padded, None, causal=True)
        slots = graph.node(
            f"{name}.slots",
            "Reshape",
            [attended, graph.constant("slots", [-1, config.hidden_size])],
        )
        packed = graph.node(f"{name}.packed", "Gather", [slots, self.unpad_index])
        return self._linear(f"{name}.o", packed, f"{name}.o_proj")

    def _rotate(self, name: str, x: ir.Value, num_heads: int) -> ir.Value:
        """Return [T, heads × head_dim] with each head rotated by its token's row of the tables."""
        zero = self.graph.constant("zero", [0])
        whole = self.graph.node(f"{name}.3d", "Unsqueeze", [x, zero])
        rotated = self.operators.rotate(name, whole, self.cos, self.sin, num_heads)
        return self.graph.node(f"{name}.2d", "Squeeze", [rotated, zero])

    def _padded(self, name: str, x: ir.Value, num_heads: int) -> ir.Value:
        """Return [B, heads, S, head_dim] of packed [T, heads × head_dim], in attention's type."""
        x = self.graph.cast(x, self.plan.dtype(f"{name.rpartition('.')[0]}.attended"))
        rows = self.graph.node(f"{name}.padded", "Gather", [x, self.pad_index])
        return self.operators.heads(name, rows, num_heads, self.config.head_dim)

    def _mlp(self, name: str, x: ir.Value) -> ir.Value:
        dtype = self.plan.dtype(f"{name}.product")
        gate, up = (
            self.graph.cast(self._linear(f"{name}.{part}", x, f"{name}.{part}_proj"), dtype)
            for part in ("gate", "up")
        )
        product = self.operators.swiglu(f"{name}.product", gate, up)
        return self._linear(f"{name}.down", product, f"{name}.down_proj")
