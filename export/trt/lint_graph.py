"""An ONNX graph as the lint reads it: who makes a value, who reads it, types and constants."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper, shape_inference

__all__ = ["Finding", "LintGraph", "attribute"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing in a graph that is wrong.

    Attributes:
        rule: short name of the rule.
        node: name of the node or graph input.
        sentence: what is wrong.
        remedy: what to do.
        silent: whether the builder accepts it without a word, and makes a wrong or slow engine.
        kind: an "error" makes the graph unfit; a "warning" makes the engine slower than expected.
    """

    rule: str
    node: str
    sentence: str
    remedy: str
    silent: bool = False
    kind: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.node}: {self.sentence}; {self.remedy}"


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """Return a whole-number attribute."""
    return next((a.i for a in node.attribute if a.name == name), default)


class LintGraph:
    """Look-ups over a model; external data are not read.

    Args:
        model: with or without its external data.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self.producers = {name: node for node in self.nodes for name in node.output if name}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.types = self._types()
        self._shapes: dict[str, tuple[int | None, ...]] | None = None

    def constant(self, name: str) -> NDArray[np.generic] | None:
        """Return an initializer's values; None if there are none, or they are in another file."""
        tensor = self.initializers.get(name)
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            return None
        return np.asarray(numpy_helper.to_array(tensor))

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """Return a value's shape, None for what is not known."""
        if name in self.initializers:
            return tuple(self.initializers[name].dims)
        if self._shapes is None:
            self._shapes = _inferred_shapes(self.model)
        return self._shapes.get(name)

    def _types(self) -> dict[str, int]:
        """Return the element type of every value, by the rules of strongly typed networks."""
        types = {v.name: v.type.tensor_type.elem_type for v in self.model.graph.input}
        types |= {tensor.name: tensor.data_type for tensor in self.model.graph.initializer}
        for node in self.nodes:
            for name in node.output:
                types[name] = _result_type(node, types)
        return types


#: Operators whose result has a type of its own.
FIXED_TYPES: Mapping[str, int] = {
    "Shape": TensorProto.INT64,
    "Less": TensorProto.BOOL,
    "And": TensorProto.BOOL,
    "Equal": TensorProto.BOOL,
}


def _result_type(node: onnx.NodeProto, types: Mapping[str, int]) -> int:
    if node.op_type in FIXED_TYPES:
        return FIXED_TYPES[node.op_type]
    if node.op_type == "Cast":
        return attribute(node, "to", TensorProto.UNDEFINED)
    if node.op_type == "QuantizeLinear":
        stated = attribute(node, "output_dtype", TensorProto.UNDEFINED)
        zero = types.get(node.input[2]) if len(node.input) > 2 else None
        return zero or stated or TensorProto.UINT8
    # A dequantised tensor has the type of its scale, a selection that of its branches.
    place = 1 if node.op_type in ("DequantizeLinear", "Where") else 0
    if len(node.input) <= place:
        return TensorProto.UNDEFINED
    return types.get(node.input[place], TensorProto.UNDEFINED)


def _inferred_shapes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    try:
        graph = shape_inference.infer_shapes(model, data_prop=True).graph
    except (shape_inference.InferenceError, RuntimeError, ValueError):
        return {}  # a graph so wrong has other findings
    return {
        value.name: tuple(
            d.dim_value if d.HasField("dim_value") else None
            for d in value.type.tensor_type.shape.dim
        )
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
