"""The vision tower's graph for TensorRT: patches in window order in, image tokens out.

Pictures of equal size are a batch, windows of all pictures another one, so every shape follows from
the inputs' shapes. Blocks with windows see them padded to the longest, with a mask of keys; blocks
with full attention need none.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trine.export.checkpoint import Checkpoint
from trine.export.graph_builder import GraphBuilder, Weight
from trine.export.trt.linears import TrtLinears
from trine.export.trt.operators import TrtOperators, trt_model
from trine.export.trt.plan import TrtPlan
from trine.runtime.model_config import VISION_NORM_EPS, VisionConfig

__all__ = ["build_trt_vision"]


def build_trt_vision(config: VisionConfig, checkpoint: Checkpoint, plan: TrtPlan) -> ir.Model:
    """Return the graph with the checkpoint's `visual.…` weights, unread, typed by `plan`.

    Inputs: `patches` float32 [N, P, features], pictures of P patches each; `rope_cos`, `rope_sin`
    float32 [N, P, head_dim / 2], both in window order; `window_gather` int64 [W, L], the patch in
    each slot of the windows, counted through all pictures (any patch in unused slots);
    `window_scatter` int64 [N, P], the slot of each patch; `window_lengths` int32 [W].
    Output: `image_tokens` float32 [N · P / merge², out_hidden_size], in window order.
    """
    return _Vision(config, checkpoint, plan).build()


class _Vision:
    def __init__(self, config: VisionConfig, checkpoint: Checkpoint, plan: TrtPlan) -> None:
        self.config = config
        self.checkpoint = checkpoint
        self.plan = plan
        self.graph = graph = GraphBuilder("vision")
        self.linears = TrtLinears(graph, plan, leading_axes=2)
        self.operators = TrtOperators(graph)
        rows = ["images", "patches"]
        self.patches = graph.input("patches", ir.DataType.FLOAT, [*rows, config.patch_features])
        self.cos, self.sin = (
            graph.input(name, ir.DataType.FLOAT, [*rows, config.head_dim // 2])
            for name in ("rope_cos", "rope_sin")
        )
        self.window_gather = graph.input(
            "window_gather", ir.DataType.INT64, ["windows", "window_length"]
        )
        self.window_scatter = graph.input("window_scatter", ir.DataType.INT64, rows)
        self.window_lengths = graph.input("window_lengths", ir.DataType.INT32, ["windows"])

    def build(self) -> ir.Model:
        graph, config = self.graph, self.config
        self.mask = self.operators.key_mask("window_mask", self.window_lengths, self.window_gather)
        embedded = self.linears.add("patch_embed", self.patches, self._patch_weight())
        residual = graph.cast(embedded, ir.DataType.FLOAT)
        for block in range(config.depth):
            name = f"blocks.{block}"
            normed = self._norm(f"{name}.norm1", residual)
            full = block in config.full_attention_blocks
            attended = self._attention(f"{name}.attn", normed, full)
            residual = self.operators.add(f"{name}.attention_sum", attended, residual)
            normed = self._norm(f"{name}.norm2", residual)
            residual = self.operators.add(
                f"{name}.mlp_sum", self._mlp(f"{name}.mlp", normed), residual
            )
        merged = self._merge(self._norm("merger.ln_q", residual))
        return trt_model(graph, merged, "image_tokens", ["image_tokens", config.out_hidden_size])

    def _norm(self, name: str, x: ir.Value) -> ir.Value:
        return self.operators.norm(name, x, self._vector(f"{name}.weight"), VISION_NORM_EPS)

    def _patch_weight(self) -> Weight:
        """Return the patch convolution, whose stride is its size, as [features, hidden]."""
        features, hidden = self.config.patch_features, self.config.hidden_size

        def read() -> NDArray[np.float32]:
            kernel = self.checkpoint.float32("visual.patch_embed.proj.weight")
            return np.ascontiguousarray(kernel.reshape(hidden, features).T)

        return Weight("patch_embed.weight", (features, hidden), read)

    def _vector(self, name: str) -> Weight:
        stored = f"visual.{name}"
        shape = self.checkpoint.info(stored).shape
        return Weight(name, shape, lambda: self.checkpoint.float32(stored))

    def _linear(self, name: str, x: ir.Value) -> ir.Value:
        stored = f"visual.{name}.weight"
        num_out, num_in = self.checkpoint.info(stored).shape
        weight = Weight(
            f"{name}.weight",
            (num_in, num_out),
            lambda: np.ascontiguousarray(self.checkpoint.float32(stored).T),
        )
        return self.linears.add(name, x, weight, self._vector(f"{name}.bias"))

    def _attention(self, name: str, x: ir.Value, full: bool) -> ir.Value:
        graph, config = self.graph, self.config
        q, k, v = graph.nodes(
            [f"{name}.q", f"{name}.k", f"{name}.v"],
            "Split",
            [self._linear(f"{name}.qkv", x)],
            {"axis": 2, "num_outputs": 3},
        )
        q, k = (
            self.operators.rotate(str(value.name), value, self.cos, self.sin, config.num_heads)
            for value in (q, k)
        )
        heads = [
            self._heads(f"{name}.{part}", value, full)
            for part, value in (("q", q), ("k", k), ("v", v))
        ]
        mask = None if full else self.mask
        attended = self.operators.attend(name, heads, mask, causal=False)
        if not full:
            attended = self._gathered(f"{name}.ordered", attended, self.window_scatter)
        return self._linear(f"{name}.proj", attended)

    def _heads(self, name: str, x: ir.Value, full: bool) -> ir.Value:
        """Return [groups, heads, rows, head_dim] of [N, P, hidden], in attention's type."""
        x = self.graph.cast(x, self.plan.dtype(f"{name.rpartition('.')[0]}.attended"))
        if not full:
            x = self._gathered(f"{name}.windows", x, self.window_gather)
        return self.operators.heads(name, x, self.config.num_heads, self.config.head_dim)

    def _gathered(self, name: str, x: ir.Value, index: ir.Value) -> ir.Value:
        """Return the rows `index` [A, B] of [groups, rows, hidden], counted through all groups."""
        width = self.graph.constant("rows", [-1, self.config.hidden_size])
        return self.graph.node(
            name, "Gather", [self.graph.node(f"{name}.rows", "Reshape", [x, width]), index]
        )

    def _mlp(self, name: str, x: ir.Value) -> ir.Value:
        dtype = self.plan.dtype(f"{name}.product")
        gate, up = (
            self.graph.cast(self._linear(f"{name}.{part}_proj", x), dtype)
            for part in ("gate", "up")
        )
        return self._linear(f"{name}.down_proj", self.operators.swiglu(f"{name}.product", gate, up))

    def _merge(self, normed: ir.Value) -> ir.Value:
        """Return [N · P / merge², out_hidden]: each group of merge² patches through the merger."""
        width = self.config.hidden_size * self.config.spatial_merge_size**2
        shape = self.graph.constant("merged", [-1, width])
        grouped = self.graph.node("merger.grouped", "Reshape", [normed, shape])
        # The merger's GELU is the exact one, with erf.
        inner = self.graph.cast(self._linear("merger.mlp.0", grouped), ir.DataType.FLOAT)
        active = self.graph.node("merger.gelu", "Gelu", [inner])
        return self.graph.cast(self._linear("merger.mlp.2", active), ir.DataType.FLOAT)
