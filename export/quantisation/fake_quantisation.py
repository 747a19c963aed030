"""Fake quantisation: an engine's formats tried inside the float32 reference.

What a plan would do to a layer is done to the reference's own arrays: values are rounded to the
format's grid and multiplied in float32, so that formats no processor at hand can multiply, such as
bfloat16, are tried as well as those it can.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from trine.export.graphs.ort.linears import GraphPlan
from trine.export.quantisation.observer import linear_name
from trine.export.quantisation.weights import (
    INT8_MAX,
    quantise_blocks,
    round_channels,
    unpack_blocks,
)
from trine.export.reference.model import Rounding
from trine.kernels.rotation import rotate_rows
from trine.runtime.bundle.precision import GraphPrecision

__all__ = ["HALVES", "BothStacks", "OrtRounding", "StackRounding", "round_half"]

Array = NDArray[np.float32]
#: numpy's types of the 16-bit formats.
HALVES: dict[str, type] = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}


class GraphWithPrecision(Protocol):
    """The plan of one graph, of whatever target."""

    @property
    def precision(self) -> GraphPrecision: ...


GraphPlanT = TypeVar("GraphPlanT", bound=GraphWithPrecision)


class StackRounding(ABC, Generic[GraphPlanT]):
    """Fake-quantises layers of one stack as planned (`trine.export.reference.model.Rounding`).

    Args:
        plan: of the graph that the layers are of.
        names: the layers and operations to round, as the graphs call them; None for all.
    """

    def __init__(self, plan: GraphPlanT, names: Set[str] | None) -> None:
        self._plan = plan
        self._names = names
        self._weight: tuple[str, Array] | None = None

    def _includes(self, name: str) -> bool:
        return self._names is None or name in self._names

    def covers(self, module: str) -> bool:
        return self._includes(linear_name(module))

    @abstractmethod
    def linear(self, module: str, x: Array, weight: Array, bias: Array | np.float32) -> Array:
        """Return a layer's product as the target computes it."""

    def attention(self, prefix: str, x: Array) -> Array:
        stack = "attn" if prefix.startswith("visual.") else "self_attn"
        name = f"{linear_name(prefix)}.{stack}.attended"
        number = self._plan.precision.of(name).activation
        return round_half(x, number) if number in HALVES and self._includes(name) else x

    def _cached(self, key: str, quantise: Callable[[], Array]) -> Array:
        """Return a weight [out, in] on its grid; the last one is kept for the next input."""
        if self._weight is None or self._weight[0] != key:
            self._weight = (key, quantise())
        return self._weight[1]


class OrtRounding(StackRounding[GraphPlan]):
    """Rounds as the graphs for ONNX Runtime do: 8 bits have a scale for each row of inputs."""

    def linear(self, module: str, x: Array, weight: Array, bias: Array | np.float32) -> Array:
        name = linear_name(module)
        precision = self._plan.precision.of(name)
        if precision.weight == "fp32":
            return x @ weight.T + bias
        if precision.weight in HALVES:
            half = precision.weight
            product = round_half(x, half) @ self._rounded(module, weight, half).T
            return round_half(product + round_half(np.asarray(bias, np.float32), half), half)
        if precision.block is not None:
            return x @ self._rounded(module, weight, "int4").T + bias
        return self._int8(name, module, x, weight) + bias

    def _int8(self, name: str, module: str, x: Array, weight: Array) -> Array:
        inliers = self._inliers(name, x)
        steps = np.maximum(np.abs(inliers).max(axis=1, keepdims=True) / INT8_MAX, 1e-30)
        rounded = (np.rint(inliers / steps) * steps).astype(np.float32)
        result = rounded @ self._rounded(module, weight, "int8").T
        outliers = self._plan.float32_inputs.get(name)
        if outliers is not None:
            result += x[:, outliers] @ weight[:, outliers].T
        made = self._exact_outputs(name)
        if made is not None:
            result[:, made] = x @ weight[made].T
        return result

    def _exact_outputs(self, name: str) -> NDArray[np.int64] | None:
        """Return the outputs of gate and up that are computed in float32 for down."""
        for part in ("gate", "up"):
            if name.endswith((f"mlp.{part}", f"mlp.{part}_proj")):
                down = name.replace(f"mlp.{part}", "mlp.down")
                return self._plan.float32_inputs.get(down)
        return None

    def _rounded(self, module: str, weight: Array, number: str) -> Array:
        return self._cached(
            f"{module} {number}", lambda: self._round(linear_name(module), weight, number)
        )

    def _round(self, name: str, weight: Array, number: str) -> Array:
        if number in HALVES:
            return round_half(weight, number)
        if number == "int4":
            block = self._plan.precision.of(name).block or 0
            importance = self._plan.importance.get(name)
            return unpack_blocks(quantise_blocks(weight.T, block, importance), weight.shape[1])
        return round_channels(self._inliers(name, weight))

    def _inliers(self, name: str, rows: Array) -> Array:
        """Return rows of inputs, or of the weight that reads them, as they are rounded to 8 bits:
        without the layer's outliers, and rotated where the plan has it."""
        outliers = self._plan.float32_inputs.get(name)
        if outliers is not None:
            rows = rows.copy()
            rows[:, outliers] = 0
        return rows if self._plan.precision.of(name).rotation is None else rotate_rows(rows)


@dataclass(frozen=True, slots=True)
class BothStacks:
    """Rounds the vision tower in one way and the decoder in another."""

    vision: Rounding
    decoder: Rounding

    def _of(self, module: str) -> Rounding:
        return self.vision if module.startswith("visual.") else self.decoder

    def covers(self, module: str) -> bool:
        is_in_stack = module.startswith(("visual.", "layers."))
        return is_in_stack and self._of(module).covers(module)

    def linear(self, module: str, x: Array, weight: Array, bias: Array | np.float32) -> Array:
        return self._of(module).linear(module, x, weight, bias)

    def attention(self, prefix: str, x: Array) -> Array:
        return self._of(prefix).attention(prefix, x)


def round_half(x: Array, number: str) -> Array:
    """Return float32 values on the grid of "fp16" or "bf16"; too large ones become infinite."""
    with np.errstate(over="ignore"):  # what overflows must show as infinity
        return x.astype(HALVES[number]).astype(np.float32)
