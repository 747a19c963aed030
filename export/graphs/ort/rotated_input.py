"""Rotates what a layer reads before it is rounded to 8 bits (`trine.kernels.rotation`)."""

import onnx_ir as ir

from trine.export.graphs.builder import GraphBuilder
from trine.kernels.rotation import ROTATION, rotated_width

__all__ = ["add_rotation"]


def add_rotation(
    graph: GraphBuilder,
    layer: str,
    x: ir.Value,
    num_in: int,
    matrix: ir.Value,
    leading_axes: int = 1,
) -> ir.Value:
    """Return [..., `rotated_width`] of `x` [..., in], in the dtype of the matrix.

    Args:
        graph: to add to.
        layer: that reads it.
        x: in the dtype of the matrix.
        num_in: its channels.
        matrix: `hadamard`, whose numbers are ±1/8, so that 16 bits lose nothing of it.
        leading_axes: of `x`, before that of channels.
    """
    name, kept = f"{layer}.rotation", [0] * leading_axes  # zeros keep an axis as it is
    missing = rotated_width(num_in) - num_in
    if missing:
        pads = graph.constant(f"fill_{missing}", [0] * (2 * leading_axes + 1) + [missing])
        x = graph.node(f"{name}.filled", "Pad", [x, pads])
    # The name of this constant tells readers of the graph that the layer's inputs are rotated.
    blocks = graph.constant(name, [*kept, -1, ROTATION])
    x = graph.node(f"{name}.blocks", "Reshape", [x, blocks])
    x = graph.node(f"{name}.turned", "MatMul", [x, matrix], dtype=matrix.dtype)
    return graph.node(f"{name}.rows", "Reshape", [x, graph.constant("whole_rows", [*kept, -1])])
