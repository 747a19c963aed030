"""Describes what a strongly typed graph computes each operation in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trine.export.graphs.layers import DECODER_ROLES, HALF_DTYPES, VISION_ROLES
from trine.runtime.bundle.precision import GraphPrecision, LinearPrecision

__all__ = [
    "Half",
    "Quantisation",
    "TensorRtPrecision",
    "TrtPlan",
    "WeightQuantisation",
    "uniform_plan",
]

#: Precisions of graphs for TensorRT; fp8 needs compute capability 8.9.
TensorRtPrecision = Literal["bf16", "fp16", "int8", "fp8", "int4"]
#: Formats of products that are not quantised.
Half = Literal["fp32", "fp16", "bf16"]
FLOAT_DTYPES = {"fp32": ir.DataType.FLOAT, **HALF_DTYPES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantisation:
    """How one linear layer is quantised: symmetric, with fixed scales, as TensorRT has it.

    Attributes:
        kind: "int8" or "fp8" (E4M3).
        input_max: largest magnitude of the input that is not clipped, as it is quantised.
        smoothing: float32 [in], what each input channel is divided by, and its row of the weight
            multiplied by; None for ones. Of rotated channels, where they are.
        rotated: whether channels, and the weight's rows, are rotated first
            (`trine.kernels.rotation`).
    """

    kind: Literal["int8", "fp8"]
    input_max: float
    smoothing: NDArray[np.float32] | None = None
    rotated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightQuantisation:
    """How the weight alone of one linear layer is quantised: 4 bits, symmetric, by blocks.

    Attributes:
        block: inputs that share a scale; their number is a multiple of it.
        importance: float32 [in], weight of each input channel's error, the mean square of the
            activation; None for all alike.
    """

    block: int
    importance: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrtPlan:
    """The precision of one graph.

    Attributes:
        precision: of layers that are not quantised, and of attention and SwiGLU; "fp32", "fp16"
            and "bf16" only.
        half: format of adapters, and of what quantised layers give out.
        quantised: layers in 8 bits by name.
        weight_only: layers whose weights alone are narrower, by name.
    """

    precision: GraphPrecision
    half: Half
    quantised: Mapping[str, Quantisation] = field(default_factory=dict)
    weight_only: Mapping[str, WeightQuantisation] = field(default_factory=dict)

    def is_quantised(self, name: str) -> bool:
        """Return whether a layer has fewer than 16 bits."""
        return name in self.quantised or name in self.weight_only

    def dtype(self, name: str) -> ir.DataType:
        """Return the type in which the layer or operation `name` computes.

        Raises:
            ValueError: it is planned in a format that has no products in this dialect.
        """
        number = self.precision.of(name).activation
        if number not in FLOAT_DTYPES:
            raise ValueError(f"{name}: {number} is not a type of TensorRT's float products")
        return FLOAT_DTYPES[number]

    def unquantised(self, name: str) -> ir.DataType:
        """Return the type of a layer's output, and of what adapters add to it."""
        return FLOAT_DTYPES[self.half] if self.is_quantised(name) else self.dtype(name)


def uniform_plan(half: Half, quantised: Mapping[str, Quantisation] | None = None) -> TrtPlan:
    """Return the plan of a graph all of whose products are in `half`, but for `quantised` layers.

    Args:
        half: format of weights, products, attention and SwiGLU.
        quantised: by layer name.
    """
    linear = LinearPrecision(weight=half, activation=half)
    return TrtPlan(
        precision=GraphPrecision(
            linears=dict.fromkeys((*DECODER_ROLES, *VISION_ROLES), linear),
            attention=half,
            swiglu=half,
        ),
        half=half,
        quantised=quantised or {},
    )
