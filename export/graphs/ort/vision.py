"""The vision tower's graph for ONNX Runtime: patches in window order in, image tokens out.

The host orders the patches by attention window, so the graph needs no permutation, no loop and no
data-dependent shape. Windowed blocks see the windows as a batch, padded to the longest; blocks with
full attention see the images as a batch, which is why one run takes images of equal size only.
Architecture: Qwen2.5-VL's vision tower (RMSNorm, SwiGLU with biases, 2-D rotary positions, merger).
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.graphs.builder import CONTRIB, GraphBuilder, Weight
from trine.export.graphs.ort.gated_mlp import MlpLayer, MlpLayers, add_gated_mlp
from trine.export.graphs.ort.linears import GraphPlan, Linears
from trine.runtime.bundle.model_config import VISION_NORM_EPS, VisionConfig

__all__ = ["build_vision"]


def build_vision(config: VisionConfig, checkpoint: Checkpoint, plan: GraphPlan) -> ir.Model:
    """Return the graph with the checkpoint's `visual.…` weights, unread, as `plan` has them.

    Inputs: `patches` float32 [P, features]; `rope_cos`, `rope_sin` float32 [P, head_dim / 2], both
    in window order; `window_gather` int64 [W, L], the patch in each slot of the windows (any patch
    in unused slots); `window_scatter` int64 [P], the slot of each patch; `window_lengths` int32
    [W]; `num_images` int64 [1], images of P / num_images patches each.
    Output: `image_tokens` float32 [P / merge², out_hidden_size], in window order.
    """
    return _VisionGraph(config, checkpoint, plan).build()


class _VisionGraph:
    def __init__(self, config: VisionConfig, checkpoint: Checkpoint, plan: GraphPlan) -> None:
        self.config = config
        self.checkpoint = checkpoint
        self.graph = graph = GraphBuilder("vision")
        self.linears = Linears(graph, plan)
        half = config.head_dim // 2
        self.patches = graph.input("patches", ir.DataType.FLOAT, ["patches", config.patch_features])
        self.cos = graph.input("rope_cos", ir.DataType.FLOAT, ["patches", half])
        self.sin = graph.input("rope_sin", ir.DataType.FLOAT, ["patches", half])
        self.window_gather = graph.input(
            "window_gather", ir.DataType.INT64, ["windows", "window_length"]
        )
        self.window_scatter = graph.input("window_scatter", ir.DataType.INT64, ["patches"])
        self.window_lengths = graph.input("window_lengths", ir.DataType.INT32, ["windows"])
        self.num_images = graph.input("num_images", ir.DataType.INT64, [1])

    def build(self) -> ir.Model:
        graph, config = self.graph, self.config
        self.image_shape = graph.node(
            "image_shape",
            "Concat",
            [self.num_images, graph.constant("rest_hidden", [-1, config.hidden_size])],
            {"axis": 0},
        )
        self.rows = graph.row_numbers("patch_rows", self.window_scatter)
        residual = graph.cast(
            self.linears.add("patch_embed", self.patches, self._patch_weight()), ir.DataType.FLOAT
        )
        normed = graph.node(
            "blocks.0.norm1",
            "SimplifiedLayerNormalization",
            [residual, self._vector("blocks.0.norm1.weight")],
            {"epsilon": VISION_NORM_EPS, "axis": -1},
        )
        for block in range(config.depth):
            name = f"blocks.{block}"
            full = block in config.full_attention_blocks
            attended = self._attention(f"{name}.attn", normed, full)
            normed, residual = self._add_norm(f"{name}.norm2", attended, residual)
            last = block + 1 == config.depth
            normed, residual = self._add_norm(
                "merger.ln_q" if last else f"blocks.{block + 1}.norm1",
                self._mlp(f"{name}.mlp", normed),
                residual,
            )
        return graph.build([(self._merge(normed), "image_tokens", ["image_tokens", "hidden"])])

    def _patch_weight(self) -> Weight:
        """Return the patch convolution, whose stride is its size, as [features, hidden]."""
        features, hidden = self.config.patch_features, self.config.hidden_size

        def read() -> NDArray[np.float32]:
            kernel = self.checkpoint.float32("visual.patch_embed.proj.weight")
            return np.ascontiguousarray(kernel.reshape(hidden, features).T)

        return Weight("patch_embed.weight", (features, hidden), read)

    def _vector_weight(self, name: str) -> Weight:
        stored = f"visual.{name}"
        shape = self.checkpoint.info(stored).shape
        return Weight(name, shape, lambda: self.checkpoint.float32(stored))

    def _vector(self, name: str) -> ir.Value:
        return self.graph.weight(self._vector_weight(name))

    def _linear_weight(self, name: str) -> Weight:
        stored = f"visual.{name}.weight"
        num_out, num_in = self.checkpoint.info(stored).shape
        return Weight(
            f"{name}.weight",
            (num_in, num_out),
            lambda: np.ascontiguousarray(self.checkpoint.float32(stored).T),
        )

    def _linear(self, name: str, x: ir.Value) -> ir.Value:
        bias = self._vector_weight(f"{name}.bias")
        return self.linears.add(name, x, self._linear_weight(name), bias)

    def _add_norm(
        self, name: str, branch: ir.Value, residual: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        """Return (norm of the sum, the sum)."""
        normed, _, _, total = self.graph.nodes(
            [name, "", "", f"{name}.residual"],
            "SkipSimplifiedLayerNormalization",
            [
                self.graph.cast(branch, ir.DataType.FLOAT),
                residual,
                self._vector(f"{name}.weight"),
            ],
            {"epsilon": VISION_NORM_EPS},
            CONTRIB,
        )
        return normed, total

    def _attention(self, name: str, x: ir.Value, full: bool) -> ir.Value:
        graph, config = self.graph, self.config
        projected = self._linear(f"{name}.qkv", x)
        q, k, v = graph.nodes(
            [f"{name}.q", f"{name}.k", f"{name}.v"],
            "Split",
            [projected],
            {"axis": 1, "num_outputs": 3},
        )
        dtype = self.linears.dtype(f"{name}.attended")
        q, k = self._rotate(f"{name}.q", q), self._rotate(f"{name}.k", k)
        q, k, v = graph.cast(q, dtype), graph.cast(k, dtype), graph.cast(v, dtype)
        if full:
            q, k, v = (
                graph.node(f"{name}.{part}.images", "Reshape", [value, self.image_shape])
                for part, value in (("q", q), ("k", k), ("v", v))
            )
        else:
            q, k, v = (
                graph.node(f"{name}.{part}.windows", "Gather", [value, self.window_gather])
                for part, value in (("q", q), ("k", k), ("v", v))
            )
        attended = graph.node(
            f"{name}.attended",
            "MultiHeadAttention",
            [q, k, v] if full else [q, k, v, None, self.window_lengths],
            {"num_heads": config.num_heads},
            CONTRIB,
        )
        flat_shape = graph.constant("flat_hidden", [-1, config.hidden_size])
        flat = graph.node(f"{name}.flat", "Reshape", [attended, flat_shape])
        if not full:
            flat = graph.node(f"{name}.ordered", "Gather", [flat, self.window_scatter])
        return self._linear(f"{name}.proj", flat)

    def _rotate(self, name: str, x: ir.Value) -> ir.Value:
        graph, axis = self.graph, self.graph.constant("zero", [0])
        x = graph.cast(x, ir.DataType.FLOAT)
        rotated = graph.node(
            f"{name}.rotated",
            "RotaryEmbedding",
            [graph.node(f"{name}.3d", "Unsqueeze", [x, axis]), self.rows, self.cos, self.sin],
            {"num_heads": self.config.num_heads},
            CONTRIB,
        )
        return graph.node(f"{name}.2d", "Squeeze", [rotated, axis])

    def _mlp(self, name: str, x: ir.Value) -> ir.Value:
        gate, up, down = (
            MlpLayer(
                f"{name}.{part}_proj",
                self._linear_weight(f"{name}.{part}_proj"),
                self._vector_weight(f"{name}.{part}_proj.bias"),
            )
            for part in ("gate", "up", "down")
        )
        layers = MlpLayers(gate=gate, up=up, down=down, product=f"{name}.product")
        return add_gated_mlp(self.graph, self.linears, x, layers)

    def _merge(self, normed: ir.Value) -> ir.Value:
        """Return [P / merge², out_hidden]: each group of merge² patches through the merger."""
        width = self.config.hidden_size * self.config.spatial_merge_size**2
        grouped = self.graph.node(
            "merger.grouped", "Reshape", [normed, self.graph.constant("merged", [-1, width])]
        )
        # The merger's GELU is the exact one, with erf.
        inner = self.graph.cast(self._linear("merger.mlp.0", grouped), ir.DataType.FLOAT)
        active = self.graph.node("merger.gelu", "Gelu", [inner])
        return self.graph.cast(self._linear("merger.mlp.2", active), ir.DataType.FLOAT)
