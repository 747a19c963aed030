"""Fake quantisation in TensorRT's formats: 16 bits, 8 with fixed scales, 4 for weights alone."""

from collections.abc import Set

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from trine.export.graphs.trt.linears import FP8_MAX, INT8_MAX, LEAST_SCALE
from trine.export.graphs.trt.precision import Quantisation, TrtPlan, WeightQuantisation
from trine.export.quantisation.fake_quantisation import HALVES, StackRounding, round_half
from trine.export.quantisation.observer import linear_name
from trine.export.quantisation.weights import quantise_symmetric_blocks
from trine.kernels.rotation import rotate_rows

__all__ = ["TrtRounding", "prepare_input", "round_input"]

Array = NDArray[np.float32]
#: Distance of two neighbouring values of a 16-bit format, relative to a value of 1.
RELATIVE_STEP = {"fp16": 2.0**-10, "bf16": 2.0**-7}


def prepare_input(x: Array, quantisation: Quantisation) -> Array:
    """Return float32 [T, in] of a layer's input as it is quantised: rotated, divided by smoothing.

    Rotated rows have `rotated_width` channels.
    """
    rows = rotate_rows(x) if quantisation.rotated else x
    return rows if quantisation.smoothing is None else rows / quantisation.smoothing


def round_input(x: Array, quantisation: Quantisation) -> Array:
    """Return what `prepare_input` does on its fixed grid."""
    largest = INT8_MAX if quantisation.kind == "int8" else FP8_MAX
    scale = np.float32(max(quantisation.input_max / largest, LEAST_SCALE))
    return _on_grid(prepare_input(x, quantisation), scale, quantisation.kind)


def _on_grid(x: Array, scale: Array | np.float32, kind: str) -> Array:
    if kind == "int8":
        return np.asarray(np.clip(np.rint(x / scale), -INT8_MAX, INT8_MAX) * scale, np.float32)
    narrow = np.clip(x / scale, -FP8_MAX, FP8_MAX).astype(ml_dtypes.float8_e4m3fn)
    return np.asarray(narrow.astype(np.float32) * scale, np.float32)


def _blocks(weight: Array, quantisation: WeightQuantisation, half: str) -> Array:
    """Return float32 [out, in], what 4-bit weights with scales in a 16-bit format stand for."""
    block = quantisation.block
    found = quantise_symmetric_blocks(weight.T, block, HALVES[half], quantisation.importance)
    return (found.values * found.scales.repeat(block, axis=0)).T


class TrtRounding(StackRounding[TrtPlan]):
    """Rounds as TensorRT's graphs do: 8 bits have one fixed scale for all inputs of a layer.

    Args:
        plan: of the graph that the layers are of.
        names: the layers and operations to round, as the graphs call them; None for all.
        dither: moves what enters a rounded layer by up to half a step, so that its values are
            rounded up where they else are rounded down; None leaves them as they are.
    """

    def __init__(
        self, plan: TrtPlan, names: Set[str] | None, dither: np.random.Generator | None = None
    ) -> None:
        super().__init__(plan, names)
        self._dither = dither

    def linear(self, module: str, x: Array, weight: Array, bias: Array | np.float32) -> Array:
        name = linear_name(module)
        quantisation = self._plan.quantised.get(name)
        half = self._plan.precision.of(name).activation
        if self._plan.is_quantised(name):
            half = self._plan.half
        if self._dither is not None and half in HALVES:
            noise = self._dither.uniform(-0.5, 0.5, x.shape).astype(np.float32)
            x = x * (1 + noise * RELATIVE_STEP[half])
        if quantisation is not None:
            inputs = round_input(round_half(x, half), quantisation)
        elif half in HALVES:
            inputs = round_half(x, half)
        else:
            return x @ weight.T + bias
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is judged by its result
            product = round_half(inputs @ self._rounded(module, weight, quantisation, half).T, half)
            return round_half(product + round_half(np.asarray(bias, np.float32), half), half)

    def _rounded(
        self, module: str, weight: Array, quantisation: Quantisation | None, half: str
    ) -> Array:
        return self._cached(module, lambda: self._round(module, weight, quantisation, half))

    def _round(
        self, module: str, weight: Array, quantisation: Quantisation | None, half: str
    ) -> Array:
        weight_only = self._plan.weight_only.get(linear_name(module))
        if weight_only is not None:
            return round_half(_blocks(weight, weight_only, half), half)
        if quantisation is None:
            return round_half(weight, half)
        if quantisation.rotated:
            weight = rotate_rows(weight)
        if quantisation.smoothing is not None:
            weight = weight * quantisation.smoothing
        largest = INT8_MAX if quantisation.kind == "int8" else FP8_MAX
        scales = np.maximum(np.abs(weight).max(axis=1) / largest, LEAST_SCALE)
        return _on_grid(weight, round_half(scales, half)[:, None], quantisation.kind)
