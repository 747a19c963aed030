"""Weights of 8 bits, and in bfloat16, in the order the kernels read them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.kernels.cpu.library import NativeLibrary
from trine.kernels.cpu.structures import PackBFloat16Call, PackInt8Call

__all__ = [
    "LAYOUT_VERSION",
    "PAIR",
    "PANEL",
    "PackedBFloat16",
    "PackedInt8",
    "PackedValues",
    "pack_bfloat16",
    "pack_int8",
    "packed_bfloat16_layer",
    "packed_layer",
    "packed_shape",
    "padded_depth",
]

#: Output columns of a panel, and input channels that one instruction adds up.
PANEL, DEPTH_MULTIPLE = 64, 4
#: Input channels that one instruction adds up in bfloat16.
PAIR = 2
#: Of the order, which files of packed weights carry; raised with every change of it.
LAYOUT_VERSION = 3


@dataclass(frozen=True, slots=True, eq=False)
class PackedValues:
    """What a file of packed weights holds of one layer, or of a gate and what it gates.

    Attributes:
        values: int8 [panels, padded depth / 4, 64, 4], or bfloat16 as uint16 [panels, padded
            depth / 2, 64, 2]; panels of a gated pair hold 32 columns of the gate, then the same 32
            of the other.
        offsets: int32 [panels · 64], -128 times the sum of each column's weights, which takes away
            what the inputs' zero point of 128 adds; None of bfloat16.
    """

    values: NDArray[np.int8] | NDArray[np.uint16]
    offsets: NDArray[np.int32] | None


@dataclass(frozen=True, slots=True, eq=False)
class PackedInt8:
    """Weights of one layer, or of a gate and what it gates, to compute with.

    Attributes:
        packed: the integers.
        scales: float32 [panels · 64], of each column.
        bias: float32 [panels · 64], or None.
        depth: input channels.
        columns: output columns of the layer; of the pair, of each.
        gated: whether it is a pair.
    """

    packed: PackedValues
    scales: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    depth: int
    columns: int
    gated: bool


@dataclass(frozen=True, slots=True, eq=False)
class PackedBFloat16:
    """Weights in bfloat16 of one layer, or of a gate and what it gates, to compute with.

    Attributes:
        packed: the weights.
        bias, depth, columns, gated: as of `PackedInt8`.
    """

    packed: PackedValues
    bias: NDArray[np.float32] | None
    depth: int
    columns: int
    gated: bool


def padded_depth(depth: int) -> int:
    """Return the bytes of a quantised row with `depth` channels."""
    return -(-depth // DEPTH_MULTIPLE) * DEPTH_MULTIPLE


def pack_int8(
    library: NativeLibrary, weights: tuple[NDArray[np.int8], ...], threads: int
) -> PackedValues:
    """Return one layer's weights packed, or those of a gate and what it gates.

    Args:
        library: the compiled kernels.
        weights: one or two int8 [in, out], C-order, of one shape.
        threads: to pack with.
    """
    depth, columns = weights[0].shape
    gated = len(weights) == 2
    panels = _num_panels(columns, len(weights))
    steps = padded_depth(depth) // DEPTH_MULTIPLE
    values = np.empty((panels, steps, PANEL, DEPTH_MULTIPLE), np.int8)
    offsets = np.empty(panels * PANEL, np.int32)
    whole = [np.ascontiguousarray(weight) for weight in weights]
    call = PackInt8Call(
        first=whole[0].ctypes.data,
        second=whole[1].ctypes.data if gated else None,
        depth=depth,
        columns=columns,
        packed=values.ctypes.data,
        offsets=offsets.ctypes.data,
        threads=threads,
    )
    library.run("pack_int8", call)
    return PackedValues(values, offsets)


def pack_bfloat16(
    library: NativeLibrary, weights: tuple[NDArray[np.uint16], ...], threads: int
) -> PackedValues:
    """Return one layer's weights packed, or those of a gate and what it gates.

    Args:
        library: the compiled kernels.
        weights: one or two in bfloat16 as uint16 [in, out], C-order, of one shape.
        threads: to pack with.
    """
    depth, columns = weights[0].shape
    values = np.empty(packed_shape((depth, columns), len(weights), PAIR), np.uint16)
    whole = [np.ascontiguousarray(weight) for weight in weights]
    call = PackBFloat16Call(
        first=whole[0].ctypes.data,
        second=whole[1].ctypes.data if len(whole) == 2 else None,
        depth=depth,
        columns=columns,
        packed=values.ctypes.data,
        threads=threads,
    )
    library.run("pack_bfloat16", call)
    return PackedValues(values, None)


def packed_layer(
    packed: PackedValues,
    shape: tuple[int, int],
    scales: Sequence[NDArray[np.float32]],
    biases: Sequence[NDArray[np.float32] | None],
) -> PackedInt8:
    """Return packed weights with what is needed to compute with them.

    Args:
        packed: of one layer, or of a gate and what it gates.
        shape: (in, out) of each.
        scales: float32 [out] of each.
        biases: float32 [out] of each, or None.
    """
    depth, columns = shape
    panels = _num_panels(columns, len(scales))
    return PackedInt8(
        packed=packed,
        scales=_by_panel(scales, panels),
        bias=_bias_by_panel(biases, columns, panels),
        depth=depth,
        columns=columns,
        gated=len(scales) == 2,
    )


def packed_bfloat16_layer(
    packed: PackedValues,
    shape: tuple[int, int],
    biases: Sequence[NDArray[np.float32] | None],
) -> PackedBFloat16:
    """Return packed weights in bfloat16 with what is needed to compute with them.

    Args:
        packed: of one layer, or of a gate and what it gates.
        shape: (in, out) of each.
        biases: float32 [out] of each, or None.
    """
    depth, columns = shape
    panels = _num_panels(columns, len(biases))
    return PackedBFloat16(
        packed, _bias_by_panel(biases, columns, panels), depth, columns, len(biases) == 2
    )


def packed_shape(
    shape: tuple[int, int], parts: int, multiple: int = DEPTH_MULTIPLE
) -> tuple[int, int, int, int]:
    """Return the shape of the packed values of `parts` layers of shape (in, out).

    Args:
        shape: of each.
        parts: 2 of a gate and what it gates, else 1.
        multiple: input channels that lie side by side: 4 of 8 bits, `PAIR` of bfloat16.
    """
    depth, columns = shape
    return (_num_panels(columns, parts), -(-depth // multiple), PANEL, multiple)


def _num_panels(columns: int, parts: int) -> int:
    return -(-columns // (PANEL // parts))


def _bias_by_panel(
    biases: Sequence[NDArray[np.float32] | None], columns: int, panels: int
) -> NDArray[np.float32] | None:
    """Return biases as `_by_panel` does, zeros for those that are None; None if all are."""
    if all(bias is None for bias in biases):
        return None
    none = np.zeros(columns, np.float32)
    return _by_panel([none if bias is None else bias for bias in biases], panels)


def _by_panel(vectors: Sequence[NDArray[np.float32]], panels: int) -> NDArray[np.float32]:
    """Return float32 [panels · 64]: one or two vectors of numbers a column, padded with zeros."""
    per_panel = PANEL // len(vectors)
    padded = np.zeros((panels, len(vectors), per_panel), np.float32)
    for part, vector in enumerate(vectors):
        flat = np.zeros(panels * per_panel, np.float32)
        flat[: len(vector)] = vector
        padded[:, part] = flat.reshape(panels, per_panel)
    return padded.reshape(-1)
