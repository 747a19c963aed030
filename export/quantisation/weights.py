"""Weights in 8 and 4 bits: numpy arithmetic, without a model or a graph."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "INT8_MAX",
    "BlockWeights",
    "ChannelWeights",
    "SymmetricBlocks",
    "quantise_blocks",
    "quantise_channels",
    "quantise_symmetric_blocks",
    "round_channels",
    "unpack_blocks",
]

#: Largest magnitude of a symmetric 8-bit weight; -128 is left out, so that signs are alike.
INT8_MAX = 127
#: Least and largest 4-bit integer.
INT4_MIN, INT4_MAX = -8, 7
#: Factors tried on a block's range; shrinking it clips a few weights and refines all others.
RANGE_FACTORS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
#: Output channels quantised at a time, which bounds the memory of the search.
SEARCH_ROWS = 512
#: Inputs and outputs of 4-bit weights searched at a time, a megabyte.
SEARCH_INPUTS, SEARCH_OUTPUTS = 1024, 256
#: Output channels rounded at a time, half a megabyte of a large model.
ROUNDED_ROWS = 64


@dataclass(frozen=True, slots=True)
class ChannelWeights:
    """8-bit weights with a scale for each output channel.

    Attributes:
        values: int8 [in, out].
        scales: float32 [out]; weight = values · scales.
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class BlockWeights:
    """4-bit weights with a scale and a zero point for each block of inputs.

    Attributes:
        values: uint8 [out, blocks, block / 2], two to a byte, the lower index in the lower half.
        scales: float32 [out, blocks]; weight = (value - zero) · scale.
        zeros: uint8 [out, ceil(blocks / 2)], packed likewise.
    """

    values: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zeros: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class SymmetricBlocks:
    """4-bit weights with a scale, and no zero point, for each block of inputs.

    Attributes:
        values: int8 [in, out], from -8 to 7.
        scales: float32 [in / block, out]; weight = value · scale.
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float32]


def quantise_channels(weight: NDArray[np.float32]) -> ChannelWeights:
    """Return float32 [in, out] as 8-bit integers, symmetric, rounded half to even."""
    scales = _channel_scales(np.abs(weight).max(axis=0))
    values = np.rint(weight / scales)
    return ChannelWeights(values.astype(np.int8), scales)


def round_channels(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return float32 [out, in], the values that 8-bit weights stand for.

    The same as `quantise_channels` of the transpose, but in blocks of rows that stay in the
    processor's cache, shared out over its cores: models are rounded whole.

    Args:
        weight: float32 [out, in].
    """
    rounded = np.empty_like(weight)

    def work(start: int) -> None:
        part = weight[start : start + ROUNDED_ROWS]
        block = rounded[start : start + ROUNDED_ROWS]
        scales = _channel_scales(np.abs(part).max(axis=1, keepdims=True))
        np.divide(part, scales, out=block)
        np.rint(block, out=block)
        np.multiply(block, scales, out=block)

    with ThreadPoolExecutor() as pool:
        list(pool.map(work, range(0, len(weight), ROUNDED_ROWS)))
    return rounded


def _channel_scales(largest: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the scale of a channel by its largest magnitude."""
    return np.where(largest > 0, largest / INT8_MAX, 1).astype(np.float32)


def quantise_blocks(
    weight: NDArray[np.float32], block: int, importance: NDArray[np.float32] | None = None
) -> BlockWeights:
    """Return float32 [in, out] as 4-bit integers with the scales of least squared error.

    For each block the range is shrunk step by step, rounded, and the scale fitted to the rounded
    values by least squares; the best of all is kept.

    Args:
        weight: in need be no multiple of `block`; what is missing counts as 0.
        block: inputs that share a scale.
        importance: float32 [in], weight of each input channel's error, the mean square of the
            activation; None for all alike.
    """
    num_in, num_out = weight.shape
    blocks = -(-num_in // block)
    padded = np.zeros((num_out, blocks * block), np.float32)
    padded[:, :num_in] = weight.T
    weighing = np.zeros(blocks * block, np.float32)
    weighing[:num_in] = 1 if importance is None else importance / max(importance.mean(), 1e-30)
    rows = padded.reshape(num_out, blocks, block)
    weighing = weighing.reshape(blocks, block) + np.float32(1e-6)
    values = np.empty(rows.shape, np.uint8)
    scales = np.empty((num_out, blocks), np.float32)
    zeros = np.empty((num_out, blocks), np.uint8)
    for start in range(0, num_out, SEARCH_ROWS):
        part = slice(start, start + SEARCH_ROWS)
        values[part], scales[part], zeros[part] = _search(rows[part], weighing)
    even = np.zeros((num_out, blocks + blocks % 2), np.uint8)
    even[:, :blocks] = zeros
    return BlockWeights(_packed(values), scales, _packed(even))


def quantise_symmetric_blocks(
    weight: NDArray[np.float32],
    block: int,
    scale_dtype: type,
    importance: NDArray[np.float32] | None = None,
) -> SymmetricBlocks:
    """Return float32 [in, out] as 4-bit integers around 0 with the scales of least squared error.

    Ranges are searched as in `quantise_blocks`.

    Args:
        weight: in is a multiple of `block`.
        block: inputs that share a scale.
        scale_dtype: numpy's type of the scales, whose numbers alone are tried.
        importance: float32 [in], as `quantise_blocks` takes it.
    """
    num_in, num_out = weight.shape
    weighing = np.ones(num_in, np.float32)
    if importance is not None:
        weighing = importance / max(importance.mean(), 1e-30) + np.float32(1e-6)
    by_block = weighing.reshape(-1, block)
    values = np.empty((num_in // block, block, num_out), np.int8)
    scales = np.empty((num_in // block, num_out), np.float32)
    step = max(1, SEARCH_INPUTS // block)
    starts = itertools.product(range(0, len(scales), step), range(0, num_out, SEARCH_OUTPUTS))

    def work(start: tuple[int, int]) -> None:
        part = slice(start[0], start[0] + step)
        outputs = slice(start[1], start[1] + SEARCH_OUTPUTS)
        rows = weight[part.start * block : part.stop * block, outputs]
        rows = np.ascontiguousarray(rows).reshape(-1, block, rows.shape[1])
        found = _search_symmetric(rows, by_block[part], scale_dtype)
        values[part, :, outputs], scales[part, outputs] = found

    with ThreadPoolExecutor() as pool:
        list(pool.map(work, starts))
    return SymmetricBlocks(values.reshape(num_in, num_out), scales)


def _search_symmetric(
    rows: NDArray[np.float32], weighing: NDArray[np.float32], scale_dtype: type
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return (values, scales) of float32 [blocks, block, out], weighed by [blocks, block].

    Values that are rounded with some range have the scale of least error that is their product with
    the row by their product with themselves. What that takes from the error is compared.
    """
    largest = np.abs(rows).max(axis=1)
    weighed = rows * weighing[:, :, None]
    levels = np.empty_like(rows)
    best_gain = np.full(largest.shape, -1, np.float32)
    best_range = np.ones(largest.shape, np.float32)
    best_scale = np.ones(largest.shape, np.float32)
    least = np.float32(np.finfo(np.float16).tiny)  # normal in every 16-bit format
    for factor in RANGE_FACTORS:
        reach = np.maximum(largest * np.float32(factor / INT4_MAX), least)
        _round_to(levels, rows, reach)
        along = np.einsum("kbo,kbo->ko", weighed, levels)
        norm = np.einsum("kb,kbo,kbo->ko", weighing, levels, levels)
        scale = np.where(norm > 0, along / np.maximum(norm, np.float32(1e-30)), reach)
        gain = along * scale
        better = gain > best_gain
        best_gain = np.where(better, gain, best_gain)
        best_range = np.where(better, reach, best_range)
        best_scale = np.where(better, scale, best_scale)
    _round_to(levels, rows, best_range)
    stored: NDArray[np.generic] = np.maximum(best_scale, least).astype(scale_dtype)
    return levels, np.asarray(stored, np.float32)


def _round_to(
    levels: NDArray[np.float32], rows: NDArray[np.float32], scales: NDArray[np.float32]
) -> None:
    """Write rows [blocks, block, out] as 4-bit integers in steps of scales [blocks, out]."""
    np.divide(rows, scales[:, None], out=levels)
    np.rint(levels, out=levels)
    np.clip(levels, INT4_MIN, INT4_MAX, out=levels)


def _packed(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return 4-bit values two to a byte, along the last axis."""
    return (values[..., 0::2] | (values[..., 1::2] << 4)).astype(np.uint8)


def _search(
    rows: NDArray[np.float32], weighing: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
    """Return (values, scales, zeros) of float32 [out, blocks, block]."""
    low, high = np.minimum(rows.min(axis=2), 0), np.maximum(rows.max(axis=2), 0)
    best_error = np.full(low.shape, np.inf, np.float32)
    best_values = np.zeros(rows.shape, np.uint8)
    best_scales = np.ones(low.shape, np.float32)
    best_zeros = np.zeros(low.shape, np.uint8)
    for factor in RANGE_FACTORS:
        scale = np.maximum((high - low) * np.float32(factor / 15), np.float32(1e-30))
        zero = np.clip(np.rint(-low * np.float32(factor) / scale), 0, 15)
        levels = np.clip(np.rint(rows / scale[..., None]) + zero[..., None], 0, 15)
        signed = levels - zero[..., None]
        norm = (weighing * signed * signed).sum(axis=2)
        fitted = (weighing * rows * signed).sum(axis=2) / np.maximum(norm, np.float32(1e-30))
        scale = np.where((norm > 0) & (fitted > 0), fitted, scale).astype(np.float32)
        error = (weighing * np.square(rows - signed * scale[..., None])).sum(axis=2)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best_values[better] = levels[better]
        best_scales = np.where(better, scale, best_scales)
        best_zeros = np.where(better, zero, best_zeros).astype(np.uint8)
    return best_values, best_scales, best_zeros


def unpack_blocks(weights: BlockWeights, num_in: int) -> NDArray[np.float32]:
    """Return float32 [out, in], the values that 4-bit weights stand for."""
    values = np.stack([weights.values & 15, weights.values >> 4], axis=-1)
    num_out, blocks = weights.scales.shape
    zeros = np.stack([weights.zeros & 15, weights.zeros >> 4], axis=-1).reshape(num_out, -1)
    levels = values.reshape(num_out, blocks, -1).astype(np.float32)
    rows = (levels - zeros[:, :blocks, None]) * weights.scales[:, :, None]
    return np.ascontiguousarray(rows.reshape(num_out, -1)[:, :num_in], np.float32)
