"""Builds an ONNX graph node by node, with weights that are read only when the file is written.

A thin layer over onnx-ir: names for everything, float32 as the default dtype, and a model at the
end. Tensors stay unread in a `Weight` until `save_graph` streams them, one at a time, into the
external data file, so that writing a graph takes the memory of its largest tensor.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trine.runtime.errors import TrineError

__all__ = ["CONTRIB", "GraphBuilder", "Weight", "save_graph"]

#: Domain of ONNX Runtime's own operators.
CONTRIB = "com.microsoft"
#: Standard operators of this version are used; ONNX Runtime has had them since 1.20.
OPSET = 21
IR_VERSION = 10
#: External tensors start on pages, so that a memory map of one needs no copy.
PAGE_BYTES = 4096
#: Tensors below this stay inside the .onnx file, where shape inference can read them.
INLINE_BYTES = 1024

Attributes = Mapping[str, int | float | str | Sequence[int]]


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor that is read when it is written.

    Attributes:
        name: of the initializer.
        shape: of the array that `read` returns.
        read: returns it as float32, C-order.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[], NDArray[np.float32]]


class GraphBuilder:
    """Collects inputs, weights and nodes of one graph."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tape = ir.tape.Tape()
        self._inputs: list[ir.Value] = []
        self._defaults: list[ir.Value] = []
        self._constants: dict[str, ir.Value] = {}

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
        """Declare a graph input; a string is a symbolic dimension."""
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(list(shape)))
        self._inputs.append(value)
        return value

    def optional_input(
        self, name: str, dtype: ir.DataType, shape: Sequence[int | str], default: ir.TensorProtocol
    ) -> ir.Value:
        """Declare a graph input that has the value `default` where a run gives none."""
        value = self.input(name, dtype, shape)
        value.const_value = default
        self._defaults.append(value)
        return value

    def scalar(self, name: str, number: float) -> ir.Value:
        """Return a float32 scalar stored in the graph; the same name gives the same scalar."""
        if name not in self._constants:
            tensor = ir.tensor(np.array(number, np.float32), name=name)
            self._constants[name] = self._tape.initializer(tensor, name=name)
        return self._constants[name]

    def constant(self, name: str, values: Sequence[int]) -> ir.Value:
        """Return an int64 vector stored in the graph; the same name gives the same vector."""
        if name not in self._constants:
            tensor = ir.tensor(np.array(values, np.int64), name=name)
            self._constants[name] = self._tape.initializer(tensor, name=name)
        return self._constants[name]

    def weight(self, weight: Weight) -> ir.Value:
        """Declare an initializer that is read when the graph is saved."""
        lazy = ir.LazyTensor(
            lambda: ir.Tensor(weight.read(), name=weight.name),
            dtype=ir.DataType.FLOAT,
            shape=ir.Shape(weight.shape),
            name=weight.name,
        )
        return self._tape.initializer(lazy, name=weight.name)

    def node(
        self,
        name: str,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Attributes | None = None,
        domain: str = "",
    ) -> ir.Value:
        """Append a node with one output, which has the node's name, and return it."""
        output = ir.Value(name=name)
        return self._tape.op(op_type, inputs, attributes, domain=domain, name=name, output=output)

    def nodes(
        self,
        names: Sequence[str],
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Attributes | None = None,
        domain: str = "",
    ) -> tuple[ir.Value, ...]:
        """Append a node with an output for each of `names` ("" for one that is not used)."""
        outputs = [ir.Value(name=name) for name in names]
        self._tape.op_multi_out(
            op_type, inputs, attributes, domain=domain, name=names[0], outputs=outputs
        )
        return tuple(outputs)

    def row_numbers(self, name: str, like: ir.Value) -> ir.Value:
        """Return int64 [1, n] = 0…n-1, where n is the length of the vector `like`."""
        zero, one = (
            self.node(f"{name}.{value}", "Squeeze", [self.constant(f"{value}_vector", [value])])
            for value in (0, 1)
        )
        count = self.node(f"{name}.count", "Squeeze", [self.node(f"{name}.shape", "Shape", [like])])
        rows = self.node(f"{name}.range", "Range", [zero, count, one])
        return self.node(name, "Unsqueeze", [rows, self.constant("zero", [0])])

    def build(self, outputs: Sequence[tuple[ir.Value, str, Sequence[int | str]]]) -> ir.Model:
        """Return the model; `outputs` are (value, name, shape), all float32."""
        for value, name, shape in outputs:
            value.name, value.shape = name, ir.Shape(list(shape))
            value.type = ir.TensorType(ir.DataType.FLOAT)
        graph = ir.Graph(
            self._inputs,
            [value for value, _, _ in outputs],
            nodes=self._tape.nodes,
            initializers=[*self._tape.initializers, *self._defaults],
            opset_imports={"": OPSET, CONTRIB: 1},
            name=self._name,
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="trine")


def save_graph(model: ir.Model, path: Path, written: Callable[[int], None]) -> None:
    """Write `model` to `path` and its weights to the same name with the suffix `.data`.

    Args:
        model: its weights are read here, one by one, in the order of their declaration.
        path: of the .onnx file.
        written: called with the size in bytes of each tensor that is about to be written.

    Raises:
        TrineError: what a weight's `read` raised.
    """
    try:
        ir.save(
            model,
            path,
            external_data=path.with_suffix(".data").name,
            size_threshold_bytes=INLINE_BYTES,
            alignment=PAGE_BYTES,
            align_threshold=PAGE_BYTES,
            callback=lambda tensor, _: written(tensor.nbytes),
        )
    except ir.serde.SerdeError as error:  # onnx-ir wraps what is raised inside it
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, TrineError):
            cause = cause.__cause__
        raise cause or error from error.__cause__
