"""The operations both graphs share, in standard ONNX that TensorRT turns into its own layers.

Operators of ONNX 23: RMSNormalization, RotaryEmbedding and Attention. TensorRT reads precision from
the types, so every change of type is a Cast, and every operand of an operator has the same type.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from trine.export.graphs.builder import GraphBuilder, Weight

__all__ = ["IR_VERSION", "OPSET", "TrtOperators", "trt_model"]

#: First version of the standard with RMSNormalization, RotaryEmbedding and Attention.
OPSET = 23
#: The file format that goes with it.
IR_VERSION = 11


class TrtOperators:
    """Adds operations to a graph.

    Args:
        graph: to add to.
    """

    def __init__(self, graph: GraphBuilder) -> None:
        self._graph = graph

    def norm(self, name: str, x: ir.Value, weight: Weight, epsilon: float) -> ir.Value:
        """Return the RMS norm of float32 `x` over its last axis, in float32."""
        inputs = [x, self._graph.weight(weight)]
        return self._graph.node(
            name, "RMSNormalization", inputs, {"axis": -1, "epsilon": epsilon, "stash_type": 1}
        )

    def add(self, name: str, branch: ir.Value, residual: ir.Value) -> ir.Value:
        """Return the sum in float32."""
        branch = self._graph.cast(branch, ir.DataType.FLOAT)
        return self._graph.node(name, "Add", [residual, branch])

    def rotate(
        self, name: str, x: ir.Value, cos: ir.Value, sin: ir.Value, num_heads: int
    ) -> ir.Value:
        """Return [B, S, heads × head_dim] rotated in float32 by tables [B, S, head_dim / 2]."""
        x = self._graph.cast(x, ir.DataType.FLOAT)
        return self._graph.node(
            f"{name}.rotated", "RotaryEmbedding", [x, cos, sin], {"num_heads": num_heads}
        )

    def heads(self, name: str, x: ir.Value, num_heads: int, head_dim: int) -> ir.Value:
        """Return [B, heads, S, head_dim] of [B, S, heads × head_dim]."""
        shape = self._graph.constant(f"heads_{num_heads}", [0, 0, num_heads, head_dim])
        split = self._graph.node(f"{name}.split", "Reshape", [x, shape])
        return self._graph.node(f"{name}.heads", "Transpose", [split], {"perm": [0, 2, 1, 3]})

    def attend(
        self,
        name: str,
        qkv: Sequence[ir.Value],
        mask: ir.Value | None,
        causal: bool,
    ) -> ir.Value:
        """Return [B, S, heads × head_dim] of queries, keys and values [B, heads, S, head_dim].

        Args:
            name: of the layer.
            qkv: of one type; keys and values may have fewer heads.
            mask: bool, which keys are seen; None with `causal`, as TensorRT takes only one of both.
            causal: whether a query sees no later key.
        """
        graph = self._graph
        attributes = {"is_causal": 1} if causal else None
        attended = graph.node(
            f"{name}.attended", "Attention", [*qkv, *([] if mask is None else [mask])], attributes
        )
        rows = graph.node(f"{name}.rows", "Transpose", [attended], {"perm": [0, 2, 1, 3]})
        shape = graph.constant("flat_heads", [0, 0, -1])
        return graph.node(f"{name}.flat", "Reshape", [rows, shape])

    def swiglu(self, name: str, gate: ir.Value, up: ir.Value) -> ir.Value:
        """Return silu(gate) · up, in the type that both have."""
        sigmoid = self._graph.node(f"{name}.sigmoid", "Sigmoid", [gate])
        active = self._graph.node(f"{name}.silu", "Mul", [gate, sigmoid])
        return self._graph.node(name, "Mul", [active, up])

    def after(self, name: str, x: ir.Value, other: ir.Value) -> ir.Value:
        """Return `x`, in a way that makes the builder compute `other` first.

        Parts that could be computed in any order it computes side by side, and has the memory of
        all of them. Zero is added, taken from `other` so that no compiler knows that it is.

        Args:
            name: of what is to wait.
            x: [N, P, ...], float32 or 16 bits.
            other: three axes, finite but where the result is lost anyway.
        """
        graph, dtype = self._graph, x.dtype or ir.DataType.FLOAT
        bounds = [
            graph.constant(f"first_{what}", values)
            for what, values in (("start", [0, 0, 0]), ("end", [1, 1, 1]), ("axes", [0, 1, 2]))
        ]
        first = graph.node(f"{name}.first", "Slice", [graph.cast(other, dtype), *bounds])
        magnitude = graph.node(f"{name}.first_magnitude", "Abs", [first])
        nothing = graph.cast(graph.scalar("zero_float", 0.0), dtype)
        zero = graph.node(f"{name}.zero", "Min", [magnitude, nothing])
        return graph.node(f"{name}.ordered_input", "Add", [x, zero])

    def key_mask(self, name: str, lengths: ir.Value, gather: ir.Value) -> ir.Value:
        """Return bool [W, 1, 1, L]: whether a slot of a window is used.

        Args:
            name: of the mask.
            lengths: int32 [W], used slots.
            gather: [W, L], whose shape is read.
        """
        graph = self._graph
        shape = graph.node(f"{name}.shape", "Shape", [gather], dtype=ir.DataType.INT64)
        length = graph.node(f"{name}.length", "Gather", [shape, graph.weight(_one(name))])
        zero, one = (
            graph.node(f"{name}.{value}", "Squeeze", [graph.constant(f"{value}_vector", [value])])
            for value in (0, 1)
        )
        slots = graph.node(f"{name}.slots", "Range", [zero, length, one])
        ends = graph.node(
            f"{name}.ends",
            "Unsqueeze",
            [graph.cast(lengths, ir.DataType.INT64), graph.constant("after_window", [1, 2, 3])],
        )
        return graph.node(name, "Less", [slots, ends], dtype=ir.DataType.BOOL)


def _one(name: str) -> Weight:
    return Weight(f"{name}.axis", (), lambda: np.array(1, np.int64), ir.DataType.INT64)


def trt_model(graph: GraphBuilder, output: ir.Value, name: str, shape: list[int | str]) -> ir.Model:
    """Return the model whose one output, float32, is `output` under another name."""
    model = graph.build([(output, name, shape)])
    model.graph.opset_imports.clear()
    model.graph.opset_imports[""] = OPSET
    model.ir_version = IR_VERSION
    return model
