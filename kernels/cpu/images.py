"""The compiled kernels for images, called on numpy arrays."""

import ctypes
from ctypes import c_int32, c_int64, c_void_p
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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


class _AxisCall(ctypes.Structure):
    """`Axis` of images.cpp."""

    _fields_ = [
        ("starts", c_void_p),
        ("weights", c_void_p),
        ("inputs", c_int64),
        ("outputs", c_int64),
        ("taps", c_int64),
        ("precision", c_int64),
    ]


class _ResizeCall(ctypes.Structure):
    """`Resize` of images.cpp."""

    _fields_ = [
        ("input", c_void_p),
        ("in_stride", c_int64),
        ("out", c_void_p),
        ("channels", c_int64),
        ("columns", _AxisCall),
        ("rows", _AxisCall),
        ("resize_columns", c_int32),
        ("resize_rows", c_int32),
        ("threads", c_int32),
        ("reserved", c_int32),
    ]


class _PatchifyCall(ctypes.Structure):
    """`Patchify` of images.cpp."""

    _fields_ = [
        ("pixels", c_void_p),
        ("mean", c_void_p),
        ("deviation", c_void_p),
        ("order", c_void_p),
        ("out", c_void_p),
        ("width", c_int64),
        ("tokens", c_int64),
        ("patch", c_int32),
        ("merge", c_int32),
        ("frames", c_int32),
        ("threads", c_int32),
    ]


def resize(
    library: ctypes.CDLL,
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
    call = _ResizeCall(
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
    library.trine_resize(ctypes.byref(call))
    return out


def _axis_call(axis: Axis | None, size: int) -> _AxisCall:
    if axis is None:
        return _AxisCall(inputs=size, outputs=size)
    return _AxisCall(
        starts=axis.starts.ctypes.data,
        weights=axis.weights.ctypes.data,
        inputs=axis.num_inputs,
        outputs=len(axis.starts),
        taps=axis.weights.shape[1],
        precision=axis.precision,
    )


def patchify(  # noqa: PLR0913 - the kernel's own parameters
    library: ctypes.CDLL,
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
    call = _PatchifyCall(
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
    library.trine_patchify(ctypes.byref(call))
