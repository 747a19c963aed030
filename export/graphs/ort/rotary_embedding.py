"""The rotary embedding of both stacks, by ONNX Runtime's operator."""

from dataclasses import dataclass

import onnx_ir as ir

from trine.export.graphs.builder import CONTRIB, GraphBuilder

__all__ = ["RotaryEmbedding"]


@dataclass(frozen=True, slots=True)
class RotaryEmbedding:
    """Turns heads by each row's angles.

    Attributes:
        graph: where the nodes go.
        rows: int64 [1, T], the rows of `cos` and `sin` that rows of x take.
        cos: float32 [T, head_dim / 2].
        sin: float32 [T, head_dim / 2].
    """

    graph: GraphBuilder
    rows: ir.Value
    cos: ir.Value
    sin: ir.Value

    def rotate(self, name: str, x: ir.Value, num_heads: int) -> ir.Value:
        """Return x, [T, num_heads * head_dim], rotated in float32."""
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
