"""The vision tower's graph in ONNX Runtime's operators: patches in window order in, tokens out.

Windowed blocks see the windows as a batch, padded to the longest; blocks with
full attention see the images as a batch, which is why one run takes images of equal size only.
"""

import onnx_ir as ir

from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.graphs.builder import CONTRIB
from trine.export.graphs.ort.gated_mlp import MlpLayer, MlpLayers, add_gated_mlp
from trine.export.graphs.ort.linears import GraphPlan, Linears
from trine.export.graphs.ort.rotary_embedding import RotaryEmbedding
from trine.export.graphs.vision import VisionGraph
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
    return _OrtVision(config, checkpoint, plan).build()


class _OrtVision(VisionGraph):
    def __init__(self, config: VisionConfig, checkpoint: Checkpoint, plan: GraphPlan) -> None:
        super().__init__(config, checkpoint)
        graph = self.graph
        self.linears: Linears = Linears(graph, plan)
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
        residual = self.embed(self.patches)
        normed = graph.node(
            "blocks.0.norm1",
            "SimplifiedLayerNormalization",
            [residual, graph.weight(self.vector("blocks.0.norm1.weight"))],
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
        return graph.build([(self.merge(normed), "image_tokens", ["image_tokens", "hidden"])])

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
                self.graph.weight(self.vector(f"{name}.weight")),
            ],
            {"epsilon": VISION_NORM_EPS},
            CONTRIB,
        )
        return normed, total

    def _attention(self, name: str, x: ir.Value, full: bool) -> ir.Value:
        graph, config = self.graph, self.config
        projected = self.linear(f"{name}.qkv", x)
        q, k, v = graph.nodes(
            [f"{name}.q", f"{name}.k", f"{name}.v"],
            "Split",
            [projected],
            {"axis": 1, "num_outputs": 3},
        )
        dtype = self.linears.dtype(f"{name}.attended")
        rotary = RotaryEmbedding(graph, self.rows, self.cos, self.sin)
        q = rotary.rotate(f"{name}.q", q, config.num_heads)
        k = rotary.rotate(f"{name}.k", k, config.num_heads)
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
        return self.linear(f"{name}.proj", flat)

    def _mlp(self, name: str, x: ir.Value) -> ir.Value:
        gate, up, down = (
            MlpLayer(
                f"{name}.{part}_proj",
                self.weight(f"{name}.{part}_proj"),
                self.vector(f"{name}.{part}_proj.bias"),
            )
            for part in ("gate", "up", "down")
        )
        layers = MlpLayers(gate=gate, up=up, down=down, product=f"{name}.product")
        return add_gated_mlp(self.graph, self.linears, x, layers)
