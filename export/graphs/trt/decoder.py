"""The decoder's graph in standard operators, which TensorRT turns into its own layers.

Padding lies behind each sequence, where the causal rule alone keeps queries of real tokens from
seeing it, and what padded queries see is dropped. So no mask is stored: one of causality and
padding together would have B · S² bytes, and TensorRT refuses a mask beside `is_causal`.
"""

from collections.abc import Sequence

import onnx_ir as ir

from trine.export.graphs.decoder import DecoderGraph
from trine.export.graphs.decoder_weights import DecoderWeights
from trine.export.graphs.trt.linears import TrtLinears
from trine.export.graphs.trt.operators import TrtOperators, trt_model
from trine.export.graphs.trt.precision import TrtPlan
from trine.runtime.bundle.manifest import AdapterLayout
from trine.runtime.bundle.model_config import DecoderConfig

__all__ = ["StandardDecoder", "build_trt_decoder"]


def build_trt_decoder(
    config: DecoderConfig,
    weights: DecoderWeights,
    plan: TrtPlan,
    adapters: AdapterLayout | None = None,
) -> ir.Model:
    """Return the graph with `weights`, unread, typed by `plan`.

    With `adapters`, each adapted product y = x·W gets ((x·Aᵀ) where the mask is set, else 0) · B,
    in the layer's own float format, of the input as it is before quantisation.

    Inputs: those of `DecoderGraph`; unused slots of the padded view must lie behind the used ones.
    Output: `hidden` float32 [T, hidden], after the final norm.
    """
    graph = _TrtDecoder(config, weights, plan, adapters)
    return trt_model(graph.graph, graph.hidden_states(), "hidden", ["tokens", config.hidden_size])


class StandardDecoder(DecoderGraph):
    """A decoder of standard operators, but for its linear layers, which a subclass adds."""

    def __init__(
        self, config: DecoderConfig, weights: DecoderWeights, adapters: AdapterLayout | None
    ) -> None:
        super().__init__(config, weights, adapters)
        self.operators = TrtOperators(self.graph)
        zero = self.graph.constant("zero", [0])
        self.cos, self.sin = (
            self.graph.node(f"{table.name}.3d", "Unsqueeze", [table, zero])
            for table in (self.cos, self.sin)
        )

    def norm(self, name: str, x: ir.Value, stored: str) -> ir.Value:
        return self.operators.norm(name, x, self.norm_weight(stored), self.config.rms_norm_eps)

    def add_norm(
        self, name: str, branch: tuple[str, ir.Value], residual: ir.Value, stored: str
    ) -> tuple[ir.Value, ir.Value]:
        total = self.operators.add(*branch, residual)
        return self.norm(name, total, stored), total

    def rotate(self, name: str, x: ir.Value, num_heads: int) -> ir.Value:
        zero = self.graph.constant("zero", [0])
        whole = self.graph.node(f"{name}.3d", "Unsqueeze", [x, zero])
        rotated = self.operators.rotate(name, whole, self.cos, self.sin, num_heads)
        return self.graph.node(f"{name}.2d", "Squeeze", [rotated, zero])

    def padded(self, name: str, x: ir.Value, num_heads: int) -> ir.Value:
        rows = self.graph.node(f"{name}.padded", "Gather", [x, self.pad_index])
        return self.operators.heads(name, rows, num_heads, self.config.head_dim)

    def attend(self, name: str, qkv: Sequence[ir.Value]) -> ir.Value:
        return self.operators.attend(name, qkv, None, causal=True)


class _TrtDecoder(StandardDecoder):
    def __init__(
        self,
        config: DecoderConfig,
        weights: DecoderWeights,
        plan: TrtPlan,
        adapters: AdapterLayout | None,
    ) -> None:
        super().__init__(config, weights, adapters)
        self.linears: TrtLinears = TrtLinears(self.graph, plan, leading_axes=1)
        self.plan = plan

    def with_delta(self, name: str, x: ir.Value, base: ir.Value) -> ir.Value:
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

    def mlp(self, name: str, x: ir.Value) -> ir.Value:
        dtype = self.linears.dtype(f"{name}.product")
        gate, up = (
            self.graph.cast(self.linear(f"{name}.{part}", x, f"{name}.{part}_proj"), dtype)
            for part in ("gate", "up")
        )
        product = self.operators.swiglu(f"{name}.product", gate, up)
        return self.linear(f"{name}.down", product, f"{name}.down_proj")
