"""Antialiased bicubic resize of 8-bit images, the same to the last bit as the published one.

The published image processor resizes uint8 tensors with torchvision, that is with PyTorch's
`interpolate(mode="bicubic", antialias=True)`. That is a separable filter (Keys' cubic with
a = -0.5, stretched when shrinking): first along the width, then along the height, in integers,
with an 8-bit image in between. Weights are int16 with as many fraction bits as fit, results are
rounded half up and clamped. Source of the arithmetic: ATen's UpSampleKernel.

Integers are computed as matrix products of floats over blocks of outputs. With pixels shifted to
-128…127 and weights scaled to fractions, every product and partial sum is a whole number of the
last fraction bit and fits the float's mantissa, so the result is exact, in float32 up to a
shrinking by about four and in float64 beyond, and it runs at BLAS speed. Where the compiled kernels
can be used they do the same in integers, many times faster.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.kernels.cpu import images
from trine.kernels.cpu.library import native_library

__all__ = ["resize_bicubic", "resize_with_numpy"]

#: Outputs per matrix product: few enough that few zero weights are multiplied.
BLOCK = 16
#: Rows widened at a time, to keep them in the processor's cache.
CHUNK = 128
#: Fraction bits up to which float32 is exact: 8 bits before the point and these fill its mantissa.
FLOAT32_BITS = 16

Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class _Block:
    """Neighbouring outputs of the filter and the inputs they are made of.

    Attributes:
        first, last: outputs, the last excluded.
        begin, end: inputs, the end excluded.
        matrix: [inputs, outputs], weights as fractions.
        offset: [outputs], what the shift of the pixels by 128 took away, and a half for rounding.
    """

    first: int
    last: int
    begin: int
    end: int
    matrix: Floats
    offset: Floats


def resize_bicubic(
    image: NDArray[np.uint8], height: int, width: int, *, threads: int = 1
) -> NDArray[np.uint8]:
    """Return `image` resized to `height` × `width` pixels.

    Args:
        image: uint8 [h, w, c], any strides.
        height: of the result in pixels, at least 1.
        width: of the result in pixels, at least 1.
        threads: that share the rows, where the compiled kernels do it.

    Returns:
        uint8 [height, width, c], C-order. The input itself if it already has that size.
    """
    library = native_library()
    if library is None:
        return resize_with_numpy(image, height, width)
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    columns = None if image.shape[1] == width else _axis(image.shape[1], width)
    rows = None if image.shape[0] == height else _axis(image.shape[0], height)
    return images.resize(library, image, columns, rows, threads)


def _axis(num_in: int, num_out: int) -> images.Axis:
    starts, weights, precision = _filter_weights(num_in, num_out)
    num_taps = weights.shape[1]
    even = np.zeros((num_out, num_taps + num_taps % 2), np.int16)
    even[:, :num_taps] = weights
    return images.Axis(num_in, starts, even, precision)


def resize_with_numpy(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Do the same as `resize_bicubic` without the compiled kernels."""
    if image.shape[1] != width:
        image = _resize_rows(image, width)
    if image.shape[0] != height:
        image = _resize_columns(image, height)
    return np.ascontiguousarray(image)


def _resize_rows(image: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Return uint8 [h, width, c]: every row filtered."""
    height, num_in, channels = image.shape
    result = np.empty((height, width, channels), np.uint8)
    blocks = _blocks(num_in, width)
    # One product for all channels: a pair of pixels has their weights on a diagonal.
    identity = np.eye(channels, dtype=blocks[0].matrix.dtype)
    matrices = [np.kron(block.matrix, identity) for block in blocks]
    for top in range(0, height, CHUNK):
        rows = _shifted(image[top : top + CHUNK], blocks[0].matrix.dtype)
        for block, matrix in zip(blocks, matrices, strict=True):
            total = rows[:, block.begin * channels : block.end * channels] @ matrix
            values = total.reshape(len(rows), -1, channels)
            values += block.offset[:, None]
            _store(values, result[top : top + CHUNK, block.first : block.last])
    return result


def _resize_columns(image: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    """Return uint8 [height, w, c]: every column filtered."""
    num_in, width, channels = image.shape
    result = np.empty((height, width, channels), np.uint8)
    for block in _blocks(num_in, height):
        rows = _shifted(image[block.begin : block.end], block.matrix.dtype)
        values = block.matrix.T @ rows
        values += block.offset[:, None]
        _store(values.reshape(-1, width, channels), result[block.first : block.last])
    return result


def _shifted(rows: NDArray[np.uint8], dtype: np.dtype[np.floating]) -> Floats:
    """Return [h, w × c] of uint8 [h, w, c], less 128."""
    signed = np.bitwise_xor(rows, 128).view(np.int8)
    return signed.reshape(len(rows), -1).astype(dtype)


def _store(values: Floats, out: NDArray[np.uint8]) -> None:
    """Write `values`, of which the fraction is cut off, clamped to 8 bits; overwrites `values`."""
    np.clip(values, 0, 255, out=values)
    out[...] = values


def _blocks(num_in: int, num_out: int) -> list[_Block]:
    starts, weights, precision = _filter_weights(num_in, num_out)
    num_taps = weights.shape[1]
    dtype = np.float32 if precision <= FLOAT32_BITS else np.float64
    scale = 1.0 / (1 << precision)
    offset = ((128.0 * weights.sum(axis=1) + (1 << (precision - 1))) * scale).astype(dtype)
    blocks = []
    for first in range(0, num_out, BLOCK):
        last = min(first + BLOCK, num_out)
        begin = int(starts[first])
        end = min(int(starts[last - 1]) + num_taps, num_in)
        matrix = np.zeros((end - begin + num_taps, last - first), dtype)
        for column in range(first, last):
            row = int(starts[column]) - begin
            matrix[row : row + num_taps, column - first] = weights[column] * scale
        blocks.append(_Block(first, last, begin, end, matrix[: end - begin], offset[first:last]))
    return blocks


def _filter_weights(
    num_in: int, num_out: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
    """Return (first input index [num_out], integer weights [num_out, taps], fraction bits).

    Weights behind an output's last tap are 0. All values are whole numbers held as float64.
    """
    scale = num_in / num_out
    support = 2.0 * max(scale, 1.0)
    inverse = 1.0 / scale if scale >= 1.0 else 1.0
    centre = scale * (np.arange(num_out) + 0.5)
    starts = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    counts = np.minimum((centre + support + 0.5).astype(np.int64), num_in) - starts
    taps = np.arange(int(counts.max()))
    distance = np.abs((taps[None] + starts[:, None] - centre[:, None] + 0.5) * inverse)
    weights = np.where(taps[None] < counts[:, None], _cubic(distance), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    largest = float(weights.max())
    precision = 0
    while precision < 22 and int(0.5 + largest * (1 << (precision + 1))) < (1 << 15):
        precision += 1
    scaled = weights * (1 << precision)
    # Rounded half away from zero, as the C cast of value ± 0.5 does.
    return starts, np.trunc(scaled + np.copysign(0.5, scaled)), precision


def _cubic(distance: NDArray[np.float64], a: float = -0.5) -> NDArray[np.float64]:
    """Return Keys' cubic convolution kernel at non-negative distances in pixels."""
    near = ((a + 2.0) * distance - (a + 3.0)) * distance * distance + 1.0
    far = (((distance - 5.0) * distance + 8.0) * distance - 4.0) * a
    return np.where(distance < 1.0, near, np.where(distance < 2.0, far, 0.0))
