"""The arrays that kernels take, checked before one is read or written, and as calls.h has them."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.kernels.cpu.packed import padded_depth
from trine.kernels.cpu.structures import SideCall

__all__ = [
    "NUMBERS",
    "Quantised",
    "Side",
    "address",
    "require_packed",
    "require_ranks",
    "require_rows",
    "side_calls",
]

#: Numbers of the formats in calls.h; bfloat16 has no numpy dtype here and lies in uint16.
NUMBERS = {np.dtype(np.float32): 0, np.dtype(np.uint16): 1, np.dtype(np.float16): 2}


@dataclass(frozen=True, slots=True, eq=False)
class Quantised:
    """Rows in 8 bits.

    Attributes:
        values: uint8 [T, depth padded to a multiple of 4], 128 for 0.
        scales: float32 [T]; value = (byte - 128) · scale.
    """

    values: NDArray[np.uint8]
    scales: NDArray[np.float32]

    @staticmethod
    def empty(rows: int, depth: int) -> "Quantised":
        """Return room for `rows` rows of `depth` channels."""
        return Quantised(
            np.empty((rows, padded_depth(depth)), np.uint8), np.empty(rows, np.float32)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """A float32 product of few ranks that is added to an 8-bit one.

    Attributes:
        factors: float32 [T, ranks].
        matrix: [ranks, out] in float32, float16, or bfloat16 as uint16.
        first_rank: int32 [T], each row's own first rank, of which it uses `rank_count`; None: all
            rows use the first `rank_count`.
        rank_count: ranks of a row.
    """

    factors: NDArray[np.float32]
    matrix: NDArray[np.generic]
    first_rank: NDArray[np.int32] | None
    rank_count: int

    def check(self, kernel: str, rows: int, columns: int) -> None:
        """Refuse arrays that do not fit a product of so many rows and columns.

        Raises:
            ValueError: some do not.
        """
        require_packed(kernel, "factors", self.factors, (rows, self.factors.shape[1]))
        require_packed(kernel, "matrix", self.matrix, (len(self.matrix), columns))
        ranks = min(len(self.matrix), self.factors.shape[1])
        require_ranks(kernel, self.first_rank, self.rank_count, rows, ranks)

    def call(self) -> SideCall:
        """Return the structure that kernels take; it borrows the arrays."""
        return SideCall(
            self.factors.ctypes.data,
            self.factors.shape[1],
            self.matrix.ctypes.data,
            self.matrix.shape[1],
            None if self.first_rank is None else self.first_rank.ctypes.data,
            self.rank_count,
            NUMBERS[self.matrix.dtype],
            0,
        )


def side_calls(
    kernel: str, sides: Sequence[Side | None], rows: int, columns: int
) -> "ctypes.Array[SideCall]":
    """Return the structures of up to four sides, checked."""
    calls = (SideCall * 4)()
    for index, side in enumerate(sides):
        if side is not None:
            side.check(kernel, rows, columns)
            calls[index] = side.call()
    return calls


def require_packed(
    kernel: str, name: str, array: NDArray[np.generic] | None, shape: tuple[int, ...]
) -> None:
    """Refuse an array of another shape, or that is not packed; None fits."""
    if array is not None and (array.shape != shape or not array.flags.c_contiguous):
        raise _misfit(kernel, name, array, shape, "packed")


def require_rows(
    kernel: str, name: str, array: NDArray[np.generic], shape: tuple[int, int]
) -> None:
    """Refuse an array of another shape, or whose rows are not packed each."""
    packed = array.size == 0 or shape[1] == 1 or array.strides[1] == array.itemsize
    if array.shape != shape or not packed:
        raise _misfit(kernel, name, array, shape, "each row packed")


def _misfit(
    kernel: str, name: str, array: NDArray[np.generic], shape: tuple[int, ...], layout: str
) -> ValueError:
    return ValueError(
        f"{kernel}: {name} has shape {list(array.shape)} and strides {list(array.strides)}; it "
        f"needs shape {list(shape)}, {layout}"
    )


def require_ranks(
    kernel: str, first: NDArray[np.int32] | None, count: int, rows: int, ranks: int
) -> None:
    """Refuse ranks of a row that are not there."""
    require_packed(kernel, "first_rank", first, (rows,))
    last = count + (int(first.max()) if first is not None and rows else 0)
    if last > ranks:
        raise ValueError(f"{kernel}: rows use ranks up to {last}, of which there are {ranks}")


def address(array: NDArray[np.generic] | None) -> int | None:
    return None if array is None else array.ctypes.data
