"""Linear layers of a graph in the precision each is planned to have.

A layer takes its input in float32 or 16 bits and gives its output in what its precision computes
in; who needs another dtype casts (`GraphBuilder.cast`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trine.export.graphs.builder import GraphBuilder, Weight
from trine.export.graphs.layers import HALF_DTYPES
from trine.export.graphs.ort.int4_linear import add_int4_linear
from trine.export.graphs.ort.int8_linear import Outliers, RowQuantiser, add_int8_linear
from trine.runtime.bundle.precision import GraphPrecision, LinearPrecision

__all__ = ["GraphPlan", "Linears"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPlan:
    """The precision of a graph with the arrays that carry it out.

    Attributes:
        precision: of every layer.
        float32_inputs: int64 input channels by layer name, as many as its precision says.
        importance: float32 [in] by layer name, the mean square of each input channel; layers that
            are not there have all channels alike.
    """

    precision: GraphPrecision
    float32_inputs: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    importance: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


class Linears:
    """Adds linear layers to a graph.

    Args:
        graph: to add to.
        plan: of its precision.
        standard: whether to use standard operators alone; for precisions up to 8 bits.
    """

    def __init__(self, graph: GraphBuilder, plan: GraphPlan, standard: bool = False) -> None:
        self._graph = graph
        self._plan = plan
        self._rows = RowQuantiser(graph, standard)
        self.standard = standard

    def dtype(self, name: str) -> ir.DataType:
        """Return the dtype in which the operation `name` computes: float32 or a 16-bit one."""
        return HALF_DTYPES.get(self._plan.precision.of(name).activation, ir.DataType.FLOAT)

    def float32_inputs(self, name: str) -> NDArray[np.int64] | None:
        """Return the input channels of a layer that are multiplied in float32; None for none."""
        return self._plan.float32_inputs.get(name)

    def add(
        self,
        name: str,
        x: ir.Value,
        weight: Weight,
        bias: Weight | None = None,
        exact: ir.Value | None = None,
    ) -> ir.Value:
        """Return x · weight + bias.

        Args:
            name: of the layer.
            x: [T, in].
            weight: float32 [in, out], unread.
            bias: float32 [out], unread.
            exact: float32 [T, n], values of the n channels that are multiplied in float32, where
                they were computed apart.
        """
        precision = self._plan.precision.of(name)
        if precision.weight not in ("int8", "int4"):
            return self._float(name, x, weight, bias, precision)
        x = self._graph.cast(x, ir.DataType.FLOAT)
        if precision.block is not None:
            importance = self._plan.importance.get(name)
            result = add_int4_linear(self._graph, name, x, weight, precision.block, importance)
        else:
            channels = self.float32_inputs(name)
            outliers = None if channels is None else Outliers(channels, exact)
            rotated = precision.rotation is not None
            result = add_int8_linear(self._rows, name, x, weight, outliers, rotated)
        return self._with_bias(name, result, bias)

    def _with_bias(self, name: str, x: ir.Value, bias: Weight | None) -> ir.Value:
        if bias is None:
            return x
        return self._graph.node(f"{name}.biased", "Add", [x, self._graph.weight(bias)])

    def _float(
        self,
        name: str,
        x: ir.Value,
        weight: Weight,
        bias: Weight | None,
        precision: LinearPrecision,
    ) -> ir.Value:
        dtype = HALF_DTYPES.get(precision.weight, ir.DataType.FLOAT)
        inputs = [self._graph.cast(x, dtype), self._graph.weight(weight.to(dtype))]
        if bias is None:
            return self._graph.node(name, "MatMul", inputs, dtype=dtype)
        inputs.append(self._graph.weight(bias.to(dtype)))
        return self._graph.node(name, "Gemm", inputs, dtype=dtype)
