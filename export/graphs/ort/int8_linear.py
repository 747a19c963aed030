"""A linear layer in 8 bits for ONNX Runtime on the CPU: W8A8, a scale for each token.

Scales belong to one row each, so a token's result does not depend on what shares its batch.
Activations are unsigned with zero point 128 and weights signed: the one combination for which
ONNX Runtime uses VNNI and AMX. Input channels whose magnitude would leave the others no bits are
taken out and multiplied in float32 (the decomposition of LLM.int8(), arXiv 2208.07339, with
channels fixed at export). Layers may have their inputs rotated first (`trine.kernels.rotation`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trine.export.graphs.builder import CONTRIB, GraphBuilder, Weight
from trine.export.graphs.ort.rotated_input import add_rotation
from trine.export.quantisation.weights import ChannelWeights, quantise_channels
from trine.kernels.rotation import hadamard

__all__ = ["Outliers", "RowQuantiser", "add_int8_linear"]

#: What stands for 0 among unsigned activations.
ZERO_POINT = 128
#: Largest magnitude of a quantised activation, on both sides of the zero point.
ACTIVATION_MAX = 127
#: Least scale of a row, so that a row of zeros is divided by no zero.
LEAST_SCALE = 1e-30


@dataclass(frozen=True, slots=True)
class Outliers:
    """Input channels that are multiplied in float32.

    Attributes:
        channels: int64 [n], their indices.
        exact: float32 [T, n], their values where they were computed apart; None to take them from
            the input.
    """

    channels: NDArray[np.int64]
    exact: ir.Value | None = None

    def values(self, graph: GraphBuilder, name: str, x: ir.Value) -> ir.Value:
        """Return float32 [T, n]."""
        if self.exact is not None:
            return self.exact
        indices = graph.constant(f"{name}.outlier_channels", self.channels.tolist())
        return graph.node(f"{name}.outliers", "Gather", [x, indices], {"axis": 1})


class RowQuantiser:
    """Quantises the rows of activations; layers that share an input share its integers.

    Args:
        graph: to add to.
        standard: whether products are made of standard operators alone, at some cost in speed.
    """

    def __init__(self, graph: GraphBuilder, standard: bool = False) -> None:
        self.graph = graph
        self.standard = standard
        self._done: dict[tuple[str, tuple[int, ...], str], tuple[ir.Value, ir.Value]] = {}

    def quantised(
        self, x: ir.Value, num_in: int, outliers: NDArray[np.int64] | None, rotated_for: str = ""
    ) -> tuple[ir.Value, ir.Value]:
        """Return (uint8 [T, in], float32 [T, 1] scales) of float32 `x` [T, in].

        Args:
            x: the activations.
            num_in: their channels.
            outliers: channels that have no say in the scales, and saturate.
            rotated_for: the layer whose rotation they get first, which fills the last block and
                takes the outliers out; "" for none.
        """
        key = (str(x.name), () if outliers is None else tuple(outliers.tolist()), rotated_for)
        if key not in self._done:
            self._done[key] = self._quantise(x, num_in, key[1], rotated_for)
        return self._done[key]

    def _quantise(
        self, x: ir.Value, num_in: int, outliers: Sequence[int], rotated_for: str
    ) -> tuple[ir.Value, ir.Value]:
        graph, name = self.graph, f"{x.name}.int8"
        if any(key[0] == x.name for key in self._done):
            name += f".{len(self._done)}"
        source = x
        if outliers:
            mask = np.ones(num_in, np.float32)
            mask[list(outliers)] = 0
            inliers = graph.weight(Weight(f"{name}.mask", mask.shape, lambda: mask))
            source = graph.node(f"{name}.inliers", "Mul", [x, inliers])
        if rotated_for:
            matrix = graph.matrix("hadamard", hadamard())
            x = source = add_rotation(graph, rotated_for, source, num_in, matrix)
        magnitude = graph.node(f"{name}.magnitude", "Abs", [source])
        largest = graph.node(
            f"{name}.largest",
            "ReduceMax",
            [magnitude, graph.constant("last_axis", [-1])],
            {"keepdims": 1},
        )
        least = graph.node(
            f"{name}.nonzero",
            "Max",
            [largest, graph.scalar("least_magnitude", ACTIVATION_MAX * LEAST_SCALE)],
        )
        scales = graph.node(
            f"{name}.scales", "Mul", [least, graph.scalar("activation_step", 1 / ACTIVATION_MAX)]
        )
        inverse = graph.node(f"{name}.scaled", "Div", [x, scales])
        values = graph.node(
            name,
            "QuantizeLinear",
            [inverse, graph.scalar("one_float", 1.0), graph.byte("zero_point", ZERO_POINT)],
            dtype=ir.DataType.UINT8,
        )
        return values, scales


class _Quantised:
    """The tensors of one quantised weight; read once for both, of which only the scales stay."""

    def __init__(self, weight: Weight) -> None:
        self._weight = weight
        self._scales: NDArray[np.float32] | None = None

    def values(self) -> NDArray[np.int8]:
        quantised = self._quantise()
        self._scales = quantised.scales
        return quantised.values

    def scales(self) -> NDArray[np.float32]:
        if self._scales is None:
            self._scales = self._quantise().scales
        return self._scales

    def _quantise(self) -> ChannelWeights:
        return quantise_channels(np.asarray(self._weight.read(), np.float32))


def add_int8_linear(
    rows: RowQuantiser,
    name: str,
    x: ir.Value,
    weight: Weight,
    outliers: Outliers | None,
    rotated: bool,
) -> ir.Value:
    """Return float32 [T, out]: `x` · `weight`, both quantised.

    Args:
        rows: of the graph to add to.
        name: of the layer.
        x: float32 [T, in].
        weight: float32 [in, out], unread.
        outliers: input channels that are multiplied in float32; None for none.
        rotated: whether `x` and `weight` are rotated before they are.
    """
    graph = rows.graph
    channels = None if outliers is None else outliers.channels
    values, scales = rows.quantised(x, weight.shape[0], channels, name if rotated else "")
    inliers = weight if channels is None else weight.without(channels, 0)
    if rotated:
        inliers = inliers.rotated()
    quantised = _Quantised(inliers)
    num_in, num_out = inliers.shape
    stored = Weight(f"{name}.int8", (num_in, num_out), quantised.values, ir.DataType.INT8)
    columns = Weight(f"{name}.scales", (num_out,), quantised.scales)
    product = _product(rows, name, values, graph.weight(stored), graph.weight(columns))
    result = graph.node(name, "Mul", [product, scales])
    if outliers is None:
        return result
    rest = graph.weight(weight.taken(outliers.channels, 0, f"{name}.outlier_weight"))
    return graph.node(f"{name}.whole", "Gemm", [outliers.values(graph, name, x), rest, result])


def _product(
    rows: RowQuantiser, name: str, values: ir.Value, weight: ir.Value, scales: ir.Value
) -> ir.Value:
    """Return float32 [T, out]: the product of integers, by the scale of each column."""
    graph, zero_point = rows.graph, rows.graph.byte("zero_point", ZERO_POINT)
    if not rows.standard:
        return graph.node(
            f"{name}.product_int8",
            "MatMulIntegerToFloat",
            [values, weight, graph.scalar("one_float", 1.0), scales, zero_point],
            domain=CONTRIB,
            dtype=ir.DataType.FLOAT,
        )
    product = graph.node(
        f"{name}.product_int8",
        "MatMulInteger",
        [values, weight, zero_point],
        dtype=ir.DataType.INT32,
    )
    product = graph.cast(product, ir.DataType.FLOAT)
    return graph.node(f"{name}.product_scaled", "Mul", [product, scales])
