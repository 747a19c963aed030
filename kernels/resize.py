"""Antialiased bicubic resize of 8-bit pictures, the same to the last bit as the published one.

The published image processor resizes uint8 tensors with torchvision, that is with PyTorch's
`interpolate(mode="bicubic", antialias=True)`. That is a separable filter (Keys' cubic with
a = -0.5, stretched when shrinking): first along the width, then along the height, in integers,
with an 8-bit picture in between. Weights are int16 with as many fraction bits as fit, results are
rounded half up and clamped. Source of the arithmetic: ATen's UpSampleKernel.

Integers are computed as float64 matrix products over blocks of output columns: every product and
partial sum stays below 2**53, so the result is exact, and it runs at BLAS speed.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["resize_bicubic"]

#: Output columns per matrix product: small enough that few zero weights are multiplied.
BLOCK = 32
#: Input rows handled at a time, to bound the memory of the widened copy.
CHUNK = 256


def resize_bicubic(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Return `image` resized to `height` × `width` pixels.

    Args:
        image: uint8 [h, w, c], any strides.
        height: of the result in pixels, at least 1.
        width: of the result in pixels, at least 1.

    Returns:
        uint8 [height, width, c], C-order. The input itself if it already has that size.
    """
    if image.shape[1] != width:
        # [h, w, c] -> rows of the product are (row, channel), columns are input columns.
        image = _resize_last(image.transpose(0, 2, 1), width).transpose(0, 2, 1)
    if image.shape[0] != height:
        image = _resize_last(image.transpose(1, 2, 0), height).transpose(2, 0, 1)
    return np.ascontiguousarray(image)


def _resize_last(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return uint8 [a, b, size] from uint8 [a, b, n], filtered along the last axis."""
    starts, weights, precision = _filter_weights(image.shape[2], size)
    num_taps = weights.shape[1]
    result = np.empty((*image.shape[:2], size), np.uint8)
    half = float(1 << (precision - 1))
    scale = 1.0 / (1 << precision)
    blocks = []
    for first in range(0, size, BLOCK):
        last = min(first + BLOCK, size)
        begin = int(starts[first])
        end = min(int(starts[last - 1]) + num_taps, image.shape[2])
        matrix = np.zeros((end - begin + num_taps, last - first))
        for column in range(first, last):
            offset = int(starts[column]) - begin
            matrix[offset : offset + num_taps, column - first] = weights[column]
        blocks.append((first, last, begin, end, matrix[: end - begin]))
    for top in range(0, image.shape[0], CHUNK):
        rows = image[top : top + CHUNK].astype(np.float64)
        for first, last, begin, end, matrix in blocks:
            total = rows[:, :, begin:end] @ matrix
            total += half
            total *= scale
            np.floor(total, out=total)
            np.clip(total, 0, 255, out=total)
            result[top : top + CHUNK, :, first:last] = total
    return result


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
