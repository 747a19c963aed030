"""Trine's own kernels for 8-bit products on the CPU, for `int8_options`."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from trine.export.quantisation.weights import quantise_channels
from trine.kernels.cpu.kernels import CpuKernels, Quantised, Side
from trine.kernels.cpu.packed import packed_layer
from trine.kernels.rotation import rotate_weight, rotated_width

__all__ = ["native_options"]

Array = NDArray[np.float32]
#: Large input channels that are multiplied in float32, as in the options of ONNX Runtime.
OUTLIERS = 8


def native_options(
    weight: Array, calibration: Array, threads: int
) -> dict[str, Callable[[Array], Array]]:
    """Return a product for each way.

    Args:
        weight: float32 [in, out].
        calibration: float32 [n, in], which shows the largest channels.
        threads: of a product.
    """
    num_in, num_out = weight.shape
    kernels = CpuKernels(threads)
    steps = (np.abs(weight).max(axis=0) / 127).astype(np.float32)
    values = np.rint(weight / steps).astype(np.int8)
    channels = np.sort(np.argsort(-np.abs(calibration).max(axis=0))[:OUTLIERS])
    inliers = np.ones(num_in, np.float32)
    inliers[channels] = 0
    rest = values.copy()
    rest[channels] = 0
    turned = quantise_channels(rotate_weight(weight))
    whole, without, rotated_layer = (
        packed_layer(kernels.pack(part), part.shape, [scales], [None])
        for part, scales in ((values, steps), (rest, steps), (turned.values, turned.scales))
    )
    exact = np.ascontiguousarray(weight[channels])

    def by_token(x: Array) -> Array:
        quantised, out = Quantised.empty(len(x), num_in), np.empty((len(x), num_out), np.float32)
        kernels.prepare_rows(x, quantised)
        kernels.linear_int8(quantised, whole, out)
        return out

    def split(x: Array) -> Array:
        quantised, out = Quantised.empty(len(x), num_in), np.empty((len(x), num_out), np.float32)
        kernels.prepare_rows(x, quantised, inliers=inliers)
        factors = np.ascontiguousarray(x[:, channels])
        kernels.linear_int8(quantised, without, out, [Side(factors, exact, None, OUTLIERS)])
        return out

    def rotated(x: Array) -> Array:
        quantised = Quantised.empty(len(x), rotated_width(num_in))
        out = np.empty((len(x), num_out), np.float32)
        kernels.prepare_rows(x, quantised, rotated=True)
        kernels.linear_int8(quantised, rotated_layer, out)
        return out

    return {
        "Trine's kernels, a scale for each token": by_token,
        "Trine's kernels, large channels in float32": split,
        "Trine's kernels, rotated in blocks of 64": rotated,
    }
