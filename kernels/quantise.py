"""Vectors in fewer bytes, as vector databases take them, and the way back.

All follows `quantize_embeddings` of sentence-transformers, which the published API's `binary` and
`ubinary` agree with (https://sbert.net/docs/package_reference/util/quantization.html). For a value
x of a dimension with the range [low, high], and step = (high - low) / 255:

int8      trunc((x - low) / step - 128), where trunc drops the digits behind the point
ubinary   bit x > 0, eight to a byte, the first dimension in the most significant bit
binary    ubinary - 128: the same bytes moved into int8, *not* their two's complement

Three things differ where the original gives no usable answer: values outside a range are clipped
(there they wrap around to the other end), a dimension whose range is empty has the code 0 (there:
0 / 0), and dimensions that do not fill the last byte are padded with 0 bits vector by vector
(there: the bits of neighbours run into each other).
"""

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "dequantise_int8",
    "hamming_distances",
    "pack_binary",
    "pack_ubinary",
    "quantise_int8",
    "to_float16",
    "unpack_signs",
]

#: Codes are -128 to 127: 255 steps from the low to the high end of a range.
NUM_STEPS = 255
OFFSET = 128


def to_float16(vectors: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return float16 [..., D] of normalised float32 [..., D], each value to the nearest.

    The length of a vector stays 1 within 2^-11.
    """
    return vectors.astype(np.float16)


def quantise_int8(vectors: NDArray[np.float32], ranges: NDArray[np.float32]) -> NDArray[np.int8]:
    """Return int8 [..., D], the step of its dimension's range that each value lies on.

    Args:
        vectors: float32 [..., D].
        ranges: float32 [2, D], the lowest and the highest value of each dimension; values outside
            get the code of the nearer end.
    """
    low, step = _steps(ranges)
    # Clipped after the division: its rounding may put a value at an end a little beyond it.
    steps = (vectors - low) / np.where(step > 0, step, np.float32(1)) - np.float32(OFFSET)
    codes = np.clip(steps, -OFFSET, NUM_STEPS - OFFSET)
    return np.where(step > 0, codes, np.float32(0)).astype(np.int8)


def dequantise_int8(codes: NDArray[np.int8], ranges: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return float32 [..., D], for each code the middle of the values that have it; not normalised.

    The code 0 stands for two steps (from -1 to 1, because digits are dropped towards 0), and each
    other code for one. So a value inside its range comes back within one step at the code 0, and
    within half a step elsewhere.

    Args:
        codes: int8 [..., D] of `quantise_int8`.
        ranges: float32 [2, D] that made them.
    """
    low, step = _steps(ranges)
    exact = codes.astype(np.float32)
    middle = exact + np.sign(exact) * np.float32(0.5)
    inside = np.clip(middle, -OFFSET, NUM_STEPS - OFFSET).astype(np.float32, copy=False)
    return low + (inside + np.float32(OFFSET)) * step


def pack_ubinary(vectors: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return uint8 [..., ceil(D / 8)], a bit for each dimension: whether its value is above 0.

    The first dimension is the most significant bit of the first byte; bits behind the last
    dimension are 0.

    Args:
        vectors: float32 [..., D], normalised or not.
    """
    return np.packbits(vectors > 0, axis=-1)


def pack_binary(vectors: NDArray[np.float32]) -> NDArray[np.int8]:
    """Return int8 [..., ceil(D / 8)], the bytes of `pack_ubinary` less 128.

    Args:
        vectors: float32 [..., D], normalised or not.
    """
    return _move(pack_ubinary(vectors)).view(np.int8)


def unpack_signs(packed: NDArray[np.uint8] | NDArray[np.int8], dim: int) -> NDArray[np.float32]:
    """Return float32 [..., dim], 1 for each bit that is set and -1 for each other.

    A dot product with these ranks bit vectors against a query that was kept in float32.

    Args:
        packed: uint8 [..., ceil(dim / 8)] of `pack_ubinary`, or int8 of `pack_binary`.
        dim: dimensions before they were packed.
    """
    bits = np.unpackbits(_bytes(packed), axis=-1, count=dim)
    return np.where(bits, np.float32(1), np.float32(-1))


def hamming_distances(
    queries: NDArray[np.uint8] | NDArray[np.int8], candidates: NDArray[np.uint8] | NDArray[np.int8]
) -> NDArray[np.float32]:
    """Return float32 [Q, C], the number of bits in which packed vectors differ; whole numbers.

    Args:
        queries: uint8 [Q, n] of `pack_ubinary`, or int8 of `pack_binary`.
        candidates: [C, n] of the same.
    """
    # With signs s, t of ±1 the products sum to (bits alike) - (bits not alike): a matrix product,
    # exact in float32 for up to 2^24 bits.
    num_bits = queries.shape[-1] * 8
    alike = unpack_signs(queries, num_bits) @ unpack_signs(candidates, num_bits).T
    return (np.float32(num_bits) - alike) * np.float32(0.5)


def _steps(ranges: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return float32 [D] twice: the low ends, and the steps."""
    return ranges[0], (ranges[1] - ranges[0]) / np.float32(NUM_STEPS)


def _bytes(packed: NDArray[np.uint8] | NDArray[np.int8]) -> NDArray[np.uint8]:
    """Return the uint8 bytes of `pack_ubinary`, also of what `pack_binary` made."""
    values = packed.view(np.uint8)
    return values if packed.dtype == np.uint8 else _move(values)


def _move(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return uint8 bytes with 128 added or taken away, which modulo 256 is the same."""
    return values ^ np.uint8(OFFSET)
