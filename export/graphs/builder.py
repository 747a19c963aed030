"""Builds an ONNX graph node by node, with weights that are read only when the file is written.

A thin layer over onnx-ir: names for everything, float32 unless a dtype is said, and a model at the
end. Tensors stay unread in a `Weight` until `save_graph` streams them, one at a time, into the
external data file, so that writing a graph takes the memory of its largest tensor.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trine.kernels.rotation import rotate_weight, rotated_width
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
        shape: of the tensor in the graph.
        read: returns its values in C-order, in the dtype that onnx-ir has for `dtype` (4-bit
            integers packed two to a byte).
        dtype: of the tensor in the graph.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[], NDArray[np.generic]]
    dtype: ir.DataType = ir.DataType.FLOAT

    def to(self, dtype: ir.DataType) -> "Weight":
        """Return this weight rounded to `dtype`."""
        if dtype == self.dtype:
            return self
        return Weight(
            self.name, self.shape, lambda: self.read().astype(dtype.numpy(), copy=False), dtype
        )

    def taken(self, indices: NDArray[np.int64], axis: int, name: str) -> "Weight":
        """Return the float32 slices at `indices` of an axis, as a weight called `name`."""
        shape = list(self.shape)
        shape[axis] = len(indices)
        return Weight(
            name, tuple(shape), lambda: np.ascontiguousarray(self.read().take(indices, axis))
        )

    def part(self, suffix: str, span: slice, axis: int) -> "Weight":
        """Return a span of an axis of this weight, as one whose name ends in `suffix`."""
        shape = list(self.shape)
        shape[axis] = span.stop - span.start
        places = (slice(None),) * axis + (span,)
        return Weight(
            f"{self.name}.{suffix}",
            tuple(shape),
            lambda: np.ascontiguousarray(self.read()[places]),
            self.dtype,
        )

    def without(self, indices: NDArray[np.int64], axis: int) -> "Weight":
        """Return this weight with zeros at `indices` of an axis."""

        def read() -> NDArray[np.generic]:
            values = self.read().copy()
            values.swapaxes(0, axis)[indices] = 0
            return values

        return Weight(self.name, self.shape, read, self.dtype)

    def rotated(self) -> "Weight":
        """Return this float32 [in, out] with its input channels rotated (`rotate_weight`)."""
        num_in, num_out = self.shape
        return Weight(
            self.name,
            (rotated_width(num_in), num_out),
            lambda: rotate_weight(np.asarray(self.read(), np.float32)),
        )


class GraphBuilder:
    """Collects inputs, weights and nodes of one graph."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tape = ir.tape.Tape()
        self._inputs: list[ir.Value] = []
        self._defaults: list[ir.Value] = []
        self._constants: dict[str, ir.Value] = {}
        self._casts: dict[str, ir.Value] = {}

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
        return self._constant(name, np.array(number, np.float32))

    def byte(self, name: str, number: int) -> ir.Value:
        """Return a uint8 scalar stored in the graph; the same name gives the same scalar."""
        return self._constant(name, np.array(number, np.uint8))

    def whole_number(self, name: str, number: int) -> ir.Value:
        """Return an int64 scalar stored in the graph; the same name gives the same scalar."""
        return self._constant(name, np.array(number, np.int64))

    def constant(self, name: str, values: Sequence[int]) -> ir.Value:
        """Return an int64 vector stored in the graph; the same name gives the same vector."""
        return self._constant(name, np.array(values, np.int64))

    def matrix(self, name: str, values: NDArray[np.float32]) -> ir.Value:
        """Return a float32 matrix stored in the graph; the same name gives the same matrix."""
        return self._constant(name, values)

    def _constant(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        if name not in self._constants:
            tensor = ir.tensor(array, name=name)
            value = self._tape.initializer(tensor, name=name)
            value.type = ir.TensorType(tensor.dtype)
            self._constants[name] = value
        return self._constants[name]

    def weight(self, weight: Weight) -> ir.Value:
        """Declare an initializer that is read when the graph is saved."""
        lazy = ir.LazyTensor(
            lambda: ir.Tensor(weight.read(), dtype=weight.dtype, name=weight.name),
            dtype=weight.dtype,
            shape=ir.Shape(weight.shape),
            name=weight.name,
        )
        value = self._tape.initializer(lazy, name=weight.name)
        value.type = ir.TensorType(weight.dtype)
        return value

    def node(
        self,
        name: str,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Attributes | None = None,
        domain: str = "",
        dtype: ir.DataType | None = None,
    ) -> ir.Value:
        """Append a node with one output, of the node's name, and return it.

        Its dtype is the first input's unless `dtype` says otherwise.
        """
        output = ir.Value(name=name, type=_tensor_type(inputs, dtype))
        return self._tape.op(op_type, inputs, attributes, domain=domain, name=name, output=output)

    def nodes(
        self,
        names: Sequence[str],
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Attributes | None = None,
        domain: str = "",
        dtype: ir.DataType | None = None,
    ) -> tuple[ir.Value, ...]:
        """Append a node with an output for each of `names` ("" for one that is not used).

        All have the first input's dtype unless `dtype` says otherwise.
        """
        outputs = [ir.Value(name=name, type=_tensor_type(inputs, dtype)) for name in names]
        self._tape.op_multi_out(
            op_type, inputs, attributes, domain=domain, name=names[0], outputs=outputs
        )
        return tuple(outputs)

    def cast(self, x: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Return `x` in `dtype`: itself if it has it, else the one Cast that all users share."""
        if x.dtype == dtype:
            return x
        name = f"{x.name}.{dtype.short_name()}"
        if name not in self._casts:
            self._casts[name] = self.node(name, "Cast", [x], {"to": int(dtype)}, dtype=dtype)
        return self._casts[name]

    def row_numbers(self, name: str, like: ir.Value) -> ir.Value:
        """Return int64 [1, n] = 0…n-1, where n is the length of the vector `like`."""
        zero, one = (
            self.node(f"{name}.{value}", "Squeeze", [self.constant(f"{value}_vector", [value])])
            for value in (0, 1)
        )
        shape = self.node(f"{name}.shape", "Shape", [like], dtype=ir.DataType.INT64)
        rows = self.node(
            f"{name}.range", "Range", [zero, self.node(f"{name}.count", "Squeeze", [shape]), one]
        )
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


def _tensor_type(inputs: Sequence[ir.Value | None], dtype: ir.DataType | None) -> ir.TensorType:
    if dtype is None and inputs and inputs[0] is not None:
        dtype = inputs[0].dtype
    if dtype is None:
        raise ValueError("the dtype of the first input is not known")
    return ir.TensorType(dtype)


def save_graph(
    model: ir.Model, path: Path, written: Callable[[int], None], suffix: str = ".data"
) -> None:
    """Write `model` to `path` and its weights to the same name with another suffix.

    Args:
        model: its weights are read here, one by one, in the order of their declaration.
        path: of the .onnx file.
        written: called with the size in bytes of each tensor that is about to be written.
        suffix: of the weights' file.

    Raises:
        TrineError: what a weight's `read` raised.
    """
    try:
        ir.save(
            model,
            path,
            external_data=path.with_suffix(suffix).name,
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
