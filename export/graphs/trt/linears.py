"""Linear layers of a strongly typed graph: 16 or 32 bits, 8 bits between Q/DQ pairs, or weights
alone in 4 bits.

Products are MatMul and Add, which take activations of any rank; TensorRT fuses both.
"""

import dataclasses
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trine.export.graphs.builder import GraphBuilder, Weight
from trine.export.graphs.ort.rotated_input import add_rotation
from trine.export.graphs.trt.precision import Quantisation, TrtPlan, WeightQuantisation
from trine.export.quantisation.weights import SymmetricBlocks, quantise_symmetric_blocks
from trine.kernels.rotation import ROTATION, hadamard, rotated_width

__all__ = ["FP8_MAX", "INT8_MAX", "LEAST_SCALE", "LayerPart", "TrtLinears"]

#: Largest magnitude of 8-bit integers; -128 is left out, so that signs are alike.
INT8_MAX = 127.0
#: Largest finite number of E4M3.
FP8_MAX = 448.0
#: Types and largest magnitudes of quantised tensors.
QUANTISED = {"int8": (ir.DataType.INT8, INT8_MAX), "fp8": (ir.DataType.FLOAT8E4M3FN, FP8_MAX)}
#: Least scale, so that a channel of zeros is divided by no zero; a normal number in 16 bits.
LEAST_SCALE = 2.0**-14


@dataclass(frozen=True, slots=True)
class LayerPart:
    """Some inputs or outputs of a layer, which are multiplied apart.

    Attributes:
        number: of the part, for names.
        inputs: of the layer; None for all. Where they are rotated, the first is the first of a
            block.
    """

    number: int
    inputs: slice | None = None

    def of(self, quantisation: Quantisation) -> Quantisation:
        """Return how this part of a quantised layer is quantised."""
        if quantisation.smoothing is None or self.inputs is None:
            return quantisation
        start, stop = self.inputs.start, self.inputs.stop
        if quantisation.rotated:
            stop = start + rotated_width(stop - start)
        return dataclasses.replace(quantisation, smoothing=quantisation.smoothing[start:stop])


class TrtLinears:
    """Adds linear layers to a graph.

    Args:
        graph: to add to.
        plan: of its precision.
        leading_axes: before that of channels, of activations that are rotated.
    """

    def __init__(self, graph: GraphBuilder, plan: TrtPlan, leading_axes: int) -> None:
        self._graph = graph
        self._plan = plan
        self._leading_axes = leading_axes
        self._inputs: dict[tuple[object, ...], ir.Value] = {}

    def dtype(self, name: str) -> ir.DataType:
        """Return the type in which the layer or operation `name` computes."""
        return self._plan.dtype(name)

    def add(
        self,
        name: str,
        x: ir.Value,
        weight: Weight,
        bias: Weight | None = None,
        part: LayerPart | None = None,
    ) -> ir.Value:
        """Return x · weight + bias in the type the plan has for `name`.

        Args:
            name: of the layer.
            x: [..., in], float32 or 16 bits.
            weight: float32 [in, out], unread.
            bias: float32 [out], unread.
            part: of the layer, whose `x`, `weight` and `bias` are given; None for the whole.
        """
        graph = self._graph
        quantisation = self._plan.quantised.get(name)
        weight_only = self._plan.weight_only.get(name)
        dtype = self._plan.unquantised(name)
        if part is not None:
            name = f"{name}.{part.number}"
            quantisation = None if quantisation is None else part.of(quantisation)
        if weight_only is not None:
            inputs = [graph.cast(x, dtype), self._block_weight(name, weight, dtype, weight_only)]
        elif quantisation is None:
            inputs = [graph.cast(x, dtype), graph.weight(weight.to(dtype))]
        else:
            inputs = [
                self._quantised_input(name, x, weight.shape[0], dtype, quantisation),
                self._quantised_weight(name, weight, dtype, quantisation),
            ]
        product = graph.node(name, "MatMul", inputs, dtype=dtype)
        if bias is None:
            return product
        return graph.node(f"{name}.biased", "Add", [product, graph.weight(bias.to(dtype))])

    def _quantised_input(
        self, name: str, x: ir.Value, num_in: int, dtype: ir.DataType, quantisation: Quantisation
    ) -> ir.Value:
        """Return `x` through a Q/DQ pair with one scale; layers with the same pair share it."""
        smoothing = quantisation.smoothing
        divided = None if smoothing is None else smoothing.tobytes()
        key = (x.name, quantisation.kind, quantisation.input_max, divided, quantisation.rotated)
        if key not in self._inputs:
            if quantisation.rotated:
                stored = Weight(f"{name}.hadamard", (ROTATION, ROTATION), hadamard)
                matrix, x = self._graph.weight(stored.to(dtype)), self._graph.cast(x, dtype)
                x = add_rotation(self._graph, name, x, num_in, matrix, self._leading_axes)
            self._inputs[key] = self._add_pair(name, x, dtype, quantisation)
        return self._inputs[key]

    def _add_pair(
        self, name: str, x: ir.Value, dtype: ir.DataType, quantisation: Quantisation
    ) -> ir.Value:
        graph = self._graph
        stored, largest = QUANTISED[quantisation.kind]
        if quantisation.smoothing is not None:
            inverse = (1 / quantisation.smoothing).astype(np.float32)
            smooth = graph.weight(Weight(f"{name}.unsmooth", inverse.shape, lambda: inverse))
            x = graph.node(f"{name}.smoothed", "Mul", [graph.cast(x, ir.DataType.FLOAT), smooth])
        step = np.array(max(quantisation.input_max / largest, LEAST_SCALE), np.float32)
        scale = graph.weight(Weight(f"{name}.input_scale", (), lambda: step).to(dtype))
        values = graph.node(
            f"{name}.input_q",
            "QuantizeLinear",
            [graph.cast(x, dtype), scale, self._zero(f"{name}.input_zero", (), stored)],
            dtype=stored,
        )
        return self._dequantised(f"{name}.input", values, scale, dtype)

    def _quantised_weight(
        self, name: str, weight: Weight, dtype: ir.DataType, quantisation: Quantisation
    ) -> ir.Value:
        """Return [in, out] dequantised from 8 bits with a scale for each output channel."""
        graph = self._graph
        stored, largest = QUANTISED[quantisation.kind]
        if quantisation.rotated:
            weight = weight.rotated()
        tensors = _ChannelWeight(weight, dtype, stored, largest, quantisation.smoothing)
        num_out = weight.shape[1]
        values = graph.weight(
            Weight(f"{name}.{quantisation.kind}", weight.shape, tensors.values, stored)
        )
        scales = graph.weight(Weight(f"{name}.scales", (num_out,), tensors.scales, dtype))
        return graph.node(
            f"{name}.weight_dq",
            "DequantizeLinear",
            [values, scales, self._zero(f"{name}.weight_zero", (num_out,), stored)],
            {"axis": 1},
            dtype=dtype,
        )

    def _block_weight(
        self, name: str, weight: Weight, dtype: ir.DataType, quantisation: WeightQuantisation
    ) -> ir.Value:
        """Return [in, out] dequantised from 4 bits with a scale for each block of inputs."""
        graph, block = self._graph, quantisation.block
        num_in, num_out = weight.shape
        tensors = _BlockWeight(weight, dtype, quantisation)
        inputs = [
            graph.weight(Weight(f"{name}.int4", weight.shape, tensors.values, ir.DataType.INT4)),
            graph.weight(
                Weight(f"{name}.scales", (num_in // block, num_out), tensors.scales, dtype)
            ),
        ]
        return graph.node(
            f"{name}.weight_dq",
            "DequantizeLinear",
            inputs,
            {"axis": 0, "block_size": block},
            dtype=dtype,
        )

    def _zero(self, name: str, shape: tuple[int, ...], dtype: ir.DataType) -> ir.Value:
        return self._graph.weight(
            Weight(name, shape, lambda: np.zeros(shape, dtype.numpy()), dtype)
        )

    def _dequantised(
        self, name: str, values: ir.Value, scale: ir.Value, dtype: ir.DataType
    ) -> ir.Value:
        zero = self._zero(f"{name}_dq_zero", (), values.dtype or ir.DataType.INT8)
        return self._graph.node(
            f"{name}_dq", "DequantizeLinear", [values, scale, zero], dtype=dtype
        )


class _ChannelWeight:
    """The tensors of one quantised weight; scales are rounded first, values to rounded scales."""

    def __init__(
        self,
        weight: Weight,
        dtype: ir.DataType,
        stored: ir.DataType,
        largest: float,
        smoothing: NDArray[np.float32] | None,
    ) -> None:
        self._weight = weight
        self._dtype = dtype
        self._stored = stored
        self._largest = largest
        self._smoothing = smoothing
        self._scales: NDArray[np.generic] | None = None

    def values(self) -> NDArray[np.generic]:
        weight = self._read()
        self._scales = self._scales_of(weight)
        scaled = weight / self._scales.astype(np.float32)
        clipped = np.clip(scaled, -self._largest, self._largest)
        if self._stored == ir.DataType.INT8:
            return np.rint(clipped).astype(np.int8)
        return clipped.astype(ml_dtypes.float8_e4m3fn)

    def scales(self) -> NDArray[np.generic]:
        if self._scales is None:
            self._scales = self._scales_of(self._read())
        return self._scales

    def _read(self) -> NDArray[np.float32]:
        weight = np.asarray(self._weight.read(), np.float32)
        return weight if self._smoothing is None else weight * self._smoothing[:, None]

    def _scales_of(self, weight: NDArray[np.float32]) -> NDArray[np.generic]:
        scales = np.maximum(np.abs(weight).max(axis=0) / self._largest, LEAST_SCALE)
        return scales.astype(self._dtype.numpy())


class _BlockWeight:
    """The tensors of one weight in 4 bits, which is read and searched once."""

    def __init__(
        self, weight: Weight, dtype: ir.DataType, quantisation: WeightQuantisation
    ) -> None:
        self._weight = weight
        self._dtype = dtype
        self._quantisation = quantisation
        self._scales: NDArray[np.float32] | None = None

    def values(self) -> NDArray[np.generic]:
        found = self._quantise()
        self._scales = found.scales  # which are written next
        return found.values.astype(ml_dtypes.int4)

    def scales(self) -> NDArray[np.generic]:
        scales = self._quantise().scales if self._scales is None else self._scales
        self._scales = None
        return scales.astype(self._dtype.numpy())

    def _quantise(self) -> SymmetricBlocks:
        weight = np.asarray(self._weight.read(), np.float32)
        how = self._quantisation
        return quantise_symmetric_blocks(
            weight, how.block, self._dtype.numpy().type, how.importance
        )
