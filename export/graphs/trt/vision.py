"""The vision tower's graph for TensorRT: patches in window order in, image tokens out.

Images of equal size are a batch, windows of all images another one, so every shape follows from
the inputs' shapes. Blocks with windows see them padded to the longest, with a mask of keys; blocks
with full attention need none. An image cannot be divided into passes, so the widest tensors, of a
block's heads and of its MLP, are made in parts.
"""

from math import gcd

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.graphs.builder import Weight
from trine.export.graphs.trt.linears import LayerPart, TrtLinears
from trine.export.graphs.trt.operators import TrtOperators, trt_model
from trine.export.graphs.trt.precision import TrtPlan
from trine.export.graphs.vision import VisionGraph
from trine.kernels.rotation import ROTATION
from trine.runtime.bundle.model_config import VISION_NORM_EPS, VisionConfig

__all__ = ["build_trt_vision"]

#: Parts of a block's heads, and of its MLP's channels, that are computed one after the other. A
#: image of 16,384 patches takes 290 MiB beside the weights so, and 526 MiB in one part. Parts of
#: the patches would take more than the whole, whose size the builder knows.
HEAD_PARTS = 4
MLP_PARTS = 3


def build_trt_vision(
    config: VisionConfig, checkpoint: Checkpoint, plan: TrtPlan, whole_mask: bool = False
) -> ir.Model:
    """Return the graph with the checkpoint's `visual.…` weights, unread, typed by `plan`.

    Inputs: `patches` float32 [N, P, features], images of P patches each; `rope_cos`, `rope_sin`
    float32 [N, P, head_dim / 2], both in window order; `window_gather` int64 [W, L], the patch in
    each slot of the windows, counted through all images (any patch in unused slots);
    `window_scatter` int64 [N, P], the slot of each patch; `window_lengths` int32 [W].
    Output: `image_tokens` float32 [N · P / merge², out_hidden_size], in window order.

    Args:
        config: of the tower.
        checkpoint: of the weights.
        plan: of the types.
        whole_mask: whether the windows' mask has a row for every query, as ONNX Runtime on the CPU
            wants it; TensorRT takes one row for all, which is smaller.
    """
    return _TrtVision(config, checkpoint, plan, whole_mask).build()


class _TrtVision(VisionGraph):
    def __init__(
        self, config: VisionConfig, checkpoint: Checkpoint, plan: TrtPlan, whole_mask: bool
    ) -> None:
        super().__init__(config, checkpoint)
        graph = self.graph
        self.whole_mask = whole_mask
        self.plan = plan
        self.linears: TrtLinears = TrtLinears(graph, plan, leading_axes=2)
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
        if self.whole_mask:
            self.mask = self._whole(self.mask)
        residual = self.embed(self.patches)
        for block in range(config.depth):
            name = f"blocks.{block}"
            normed = self._norm(f"{name}.norm1", residual)
            full = block in config.full_attention_blocks
            residual = self._attention_added(f"{name}.attn", normed, residual, full)
            normed = self._norm(f"{name}.norm2", residual)
            residual = self._mlp_added(f"{name}.mlp", normed, residual)
        merged = self.merge(self._norm("merger.ln_q", residual))
        return trt_model(graph, merged, "image_tokens", ["image_tokens", config.out_hidden_size])

    def _whole(self, mask: ir.Value) -> ir.Value:
        """Return bool [W, 1, L, L] of [W, 1, 1, L]."""
        graph = self.graph
        length = graph.node("windows.length", "Shape", [self.window_gather], {"start": 1, "end": 2})
        one, ones = graph.constant("one", [1]), graph.constant("ones", [1, 1])
        shape = graph.node("windows.shape", "Concat", [ones, length, one], {"axis": 0})
        return graph.node("window_mask.whole", "Expand", [mask, shape])

    def _norm(self, name: str, x: ir.Value) -> ir.Value:
        return self.operators.norm(name, x, self.vector(f"{name}.weight"), VISION_NORM_EPS)

    def _attention_added(self, name: str, x: ir.Value, residual: ir.Value, full: bool) -> ir.Value:
        """Return `residual` plus the attention of normed `x`, some heads after the others."""
        layer, hidden = f"{name}.proj", self.config.hidden_size
        # There is no fused attention for one head alone.
        parts = max(1, gcd(self.config.num_heads, 2 * HEAD_PARTS) // 2)
        x = self.graph.cast(x, self.plan.unquantised(f"{name}.qkv"))
        for number in range(parts):
            part = f"{name}.{number}"
            normed = self.operators.after(part, x, residual) if number else x
            attended = self._attended(name, normed, full, number, parts)
            channels = slice(number * hidden // parts, (number + 1) * hidden // parts)
            weight = self.weight(layer).part(f"{number}", channels, 0)
            bias = None if number else self.vector(f"{layer}.bias")
            branch = self.linears.add(layer, attended, weight, bias, LayerPart(number, channels))
            residual = self.operators.add(f"{part}.sum", branch, residual)
        return residual

    def _attended(self, name: str, x: ir.Value, full: bool, number: int, parts: int) -> ir.Value:
        """Return [N, P, hidden / parts], what the heads of one part attend to."""
        graph, config = self.graph, self.config
        part, num_heads = f"{name}.{number}", config.num_heads // parts
        q, k, v = graph.nodes(
            [f"{part}.q", f"{part}.k", f"{part}.v"],
            "Split",
            [self._qkv(name, x, number, parts)],
            {"axis": 2, "num_outputs": 3},
        )
        q, k = (
            self.operators.rotate(str(value.name), value, self.cos, self.sin, num_heads)
            for value in (q, k)
        )
        dtype = self.plan.dtype(f"{name}.attended")
        heads = []
        for which, value in (("q", q), ("k", k), ("v", v)):
            rows = graph.cast(value, dtype)
            if not full:
                rows = self._gathered(
                    f"{part}.{which}.windows", rows, self.window_gather, num_heads
                )
            heads.append(self.operators.heads(f"{part}.{which}", rows, num_heads, config.head_dim))
        attended = self.operators.attend(part, heads, None if full else self.mask, causal=False)
        if full:
            return attended
        return self._gathered(f"{part}.ordered", attended, self.window_scatter, num_heads)

    def _qkv(self, name: str, x: ir.Value, number: int, parts: int) -> ir.Value:
        """Return queries, keys and values [N, P, 3 · hidden / parts] of one part's heads."""
        hidden = self.config.hidden_size
        layer, width = f"{name}.qkv", 3 * hidden // parts

        def mine(stored: str) -> NDArray[np.float32]:
            rows = self.checkpoint.float32(f"visual.{layer}.{stored}")
            whole = rows.reshape(3, parts, hidden // parts, -1)
            return whole[:, number].reshape(width, -1)

        weight = Weight(
            f"{layer}.{number}.weight",
            (hidden, width),
            lambda: np.ascontiguousarray(mine("weight").T),
        )
        bias = Weight(f"{layer}.{number}.bias", (width,), lambda: mine("bias").reshape(width))
        return self.linears.add(layer, x, weight, bias, LayerPart(number))

    def _gathered(self, name: str, x: ir.Value, index: ir.Value, num_heads: int) -> ir.Value:
        """Return the rows `index` [A, B] of [groups, rows, ...], counted through all groups."""
        width = num_heads * self.config.head_dim
        shape = self.graph.constant(f"rows_{num_heads}", [-1, width])
        return self.graph.node(
            name, "Gather", [self.graph.node(f"{name}.rows", "Reshape", [x, shape]), index]
        )

    def _mlp_added(self, name: str, x: ir.Value, residual: ir.Value) -> ir.Value:
        """Return `residual` plus the MLP of normed `x`, some of its channels after the others."""
        gate, up, down = (f"{name}.{part}_proj" for part in ("gate", "up", "down"))
        dtypes = {self.plan.unquantised(layer) for layer in (gate, up)}
        if len(dtypes) == 1:
            x = self.graph.cast(x, dtypes.pop())
        width = self.config.intermediate_size
        step = -(-width // (MLP_PARTS * ROTATION)) * ROTATION
        for number, start in enumerate(range(0, width, step)):
            channels, part = slice(start, min(start + step, width)), f"{name}.{number}"
            normed = self.operators.after(part, x, residual) if number else x
            product = self._product(name, normed, channels, number)
            weight = self.weight(down).part(f"{number}", channels, 0)
            bias = None if number else self.vector(f"{down}.bias")
            branch = self.linears.add(down, product, weight, bias, LayerPart(number, channels))
            residual = self.operators.add(f"{part}.sum", branch, residual)
        return residual

    def _product(self, name: str, x: ir.Value, channels: slice, number: int) -> ir.Value:
        """Return silu(gate) · up [N, P, channels] of some channels of an MLP."""
        dtype = self.plan.dtype(f"{name}.product")
        gate, up = (
            self.graph.cast(
                self.linears.add(
                    f"{name}.{which}_proj",
                    x,
                    self.weight(f"{name}.{which}_proj").part(f"{number}", channels, 1),
                    self.vector(f"{name}.{which}_proj.bias").part(f"{number}", channels, 0),
                    LayerPart(number),
                ),
                dtype,
            )
            for which in ("gate", "up")
        )
        return self.operators.swiglu(f"{name}.{number}.product", gate, up)
