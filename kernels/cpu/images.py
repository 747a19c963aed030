"""The compiled kernels for images, called on numpy arrays."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.kernels.cpu.library import NativeLibrary
from trine.kernels.cpu.structures import AxisCall, PatchifyCall, ResizeCall

__all__ = ["Axis", "patchify", "resize"]


@dataclass(frozen=True, slots=True)
class Axis:
    """A filter along one axis: output i is Σ_t weights[i, t] · input[starts[i] + t] / 2^precision.

    Attributes:
        num_inputs: along the axis.
        starts: int64 [outputs], not decreasing.
        weights: int16 [outputs, taps], taps even; 0 behind an output's last tap.
        precision: fraction bits of the weights.
    """

    num_inputs: int
    starts: NDArray[np.int64]
    weights: NDArray[np.int16]
    precision: int


def resize(
    library: NativeLibrary,
    image: NDArray[np.uint8],
    columns: Axis | None,
    rows: Axis | None,
    threads: int,
) -> NDArray[np.uint8]:
    """Return uint8 [height, width, c], C-order: `image` filtered along its width, then its height.

    Args:
        library: the compiled kernels.
        image: uint8 [h, w, c]; pixels of a row behind one another.
        columns: along the width; None leaves it.
        rows: along the height, likewise. Not both are None.
        threads: that share the rows.
    """
    height, width, channels = image.shape
    if image.strides[1:] != (channels, 1):
        image = np.ascontiguousarray(image)
    out_height = height if rows is None else len(rows.starts)
    out_width = width if columns is None else len(columns.starts)
    out = np.empty((out_height, out_width, channels), np.uint8)
    call = ResizeCall(
        input=image.ctypes.data,
        in_stride=image.strides[0],
        out=out.ctypes.data,
        channels=channels,
        columns=_axis_call(columns, width),
        rows=_axis_call(rows, height),
        resize_columns=columns is not None,
        resize_rows=rows is not None,
        threads=threads,
    )
    library.run("resize", call)
    return out


def _axis_call(axis: Axis | None, size: int) -> AxisCall:
    if axis is None:
        return AxisCall(inputs=size, outputs=size)
    return AxisCall(
        starts=axis.starts.ctypes.data,
        weights=axis.weights.ctypes.data,
        inputs=axis.num_inputs,
        outputs=len(axis.starts),
        taps=axis.weights.shape[1],
        precision=axis.precision,
    )


def patchify(  # noqa: PLR0913 - the kernel's own parameters
    library: NativeLibrary,
    pixels: NDArray[np.uint8],
    mean: NDArray[np.float32],
    deviation: NDArray[np.float32],
    order: NDArray[np.int64],
    out: NDArray[np.float32],
    *,
    patch_size: int,
    merge_size: int,
    num_frames: int,
    threads: int,
) -> None:
    """Fill `out` as `trine.kernels.patchify.patchify` does.

    Args:
        library: the compiled kernels.
        pixels: uint8 [h, w, 3], C-order.
        mean, deviation: float32 [3].
        order: int64 [N], C-order.
        out: float32 [N · merge², 3 · frames · patch²], C-order.
        patch_size, merge_size, num_frames: as there.
        threads: that share the image tokens.
    """
    call = PatchifyCall(
        pixels=pixels.ctypes.data,
        mean=mean.ctypes.data,
        deviation=deviation.ctypes.data,
        order=order.ctypes.data,
        out=out.ctypes.data,
        width=pixels.shape[1],
        tokens=len(order),
        patch=patch_size,
        merge=merge_size,
        frames=num_frames,
        threads=threads,
    )
    library.run("patchify", call)
