"""Trine's own kernels for 8-bit products on the CPU, for `int8_options`."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from trine.kernels.cpu.kernels import CpuKernels, Quantised, Side

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
    whole, without = (kernels.pack([part], [steps], [None]) for part in (values, rest))
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

    return {
        "Trine's kernels, a scale for each token": by_token,
        "Trine's kernels, large channels in float32": split,
    }
