"""Calls of the compiled kernels, on numpy arrays.

All arrays are C-ordered; outputs are the caller's and are written in place. Nothing here is checked
but what would write beyond an array: callers are engines, whose shapes come from a bundle.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.kernels.cpu.library import has_bfloat16, load_library
from trine.kernels.cpu.packed import PackedInt8, PackedValues, pack_int8, padded_depth
from trine.kernels.cpu.structures import (
    AttentionCall,
    LinearFloatCall,
    LinearInt8Call,
    ProjectCall,
    RowsCall,
    SideCall,
)

__all__ = ["CpuKernels", "Quantised", "Side"]

#: Numbers of the formats in simd.h; bfloat16 has no numpy dtype here and lies in uint16.
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


class CpuKernels:
    """The kernels, each run on `threads` threads. Calls release the interpreter's lock.

    Args:
        threads: of each call.
        bfloat16: whether attention multiplies in bfloat16; None for where the processor can.

    Raises:
        NativeLibraryError: they cannot be used here.
    """

    def __init__(self, threads: int, *, bfloat16: bool | None = None) -> None:
        self.threads = threads
        self._library = load_library()
        #: Whether attention multiplies in bfloat16.
        self.bfloat16 = has_bfloat16() if bfloat16 is None else bfloat16
        self._library.trine_attention_workspace.restype = ctypes.c_int64

    def pack(self, *weights: NDArray[np.int8]) -> PackedValues:
        """Return weights packed (`trine.kernels.cpu.packed.pack_int8`)."""
        return pack_int8(self._library, weights, self.threads)

    def prepare_rows(
        self,
        x: NDArray[np.float32],
        quantised: Quantised | None,
        *,
        norm_weight: NDArray[np.float32] | None = None,
        epsilon: float = 0.0,
        normed: NDArray[np.float32] | None = None,
        inliers: NDArray[np.float32] | None = None,
        rotated: bool = False,
    ) -> None:
        """Norm and quantise rows.

        RMS norm: x / sqrt(mean(x²) + epsilon) · norm_weight. Scale of a row: its largest magnitude
        over 127; bytes are rounded half to even and saturate.

        Args:
            x: float32 [T, width], rows may be strided.
            quantised: where the 8-bit rows go; None for the norm alone.
            norm_weight: float32 [width]; None for no norm.
            epsilon: of the norm.
            normed: float32 [T, width], where the norm's result goes; None if it is not wanted.
            inliers: float32 [width], 1 for channels that have a say in the scale, else 0.
            rotated: whether what is quantised is rotated first (`trine.kernels.rotation`), without
                channels that are no inliers; `quantised` then has `rotated_width` channels.
        """
        call = RowsCall(
            x.ctypes.data,
            len(x),
            x.shape[1],
            x.strides[0] // 4,
            _address(norm_weight),
            _address(normed),
            _address(inliers),
            None if quantised is None else quantised.values.ctypes.data,
            None if quantised is None else quantised.scales.ctypes.data,
            0 if quantised is None else quantised.values.shape[1],
            epsilon,
            rotated,
            self.threads,
            0,
        )
        self._library.trine_prepare_rows(ctypes.byref(call))

    def linear_int8(
        self,
        x: Quantised,
        weights: PackedInt8,
        out: NDArray[np.float32],
        sides: Sequence[Side | None] = (),
        add: bool = False,
    ) -> None:
        """Write x · weights + bias + sides; of a gated pair silu(gate) · other.

        Args:
            x: [T, depth].
            weights: packed.
            out: float32 [T, columns], rows may be strided.
            sides: up to two; of a gated pair two of the gate, then two of the other, None for none.
            add: to what `out` holds; not for gated pairs.
        """
        call = LinearInt8Call(
            x.values.ctypes.data,
            x.scales.ctypes.data,
            len(x.values),
            x.values.shape[1],
            weights.packed.values.ctypes.data,
            weights.packed.offsets.ctypes.data,
            weights.scales.ctypes.data,
            _address(weights.bias),
            weights.columns,
            out.ctypes.data,
            out.strides[0] // 4,
        )
        for index, side in enumerate(sides):
            if side is not None:
                call.sides[index] = side.call()
        call.gated, call.add, call.threads = weights.gated, add, self.threads
        self._library.trine_linear_int8(ctypes.byref(call))

    def linear_float(
        self,
        x: NDArray[np.float32],
        weights: NDArray[np.generic],
        out: NDArray[np.float32],
        bias: NDArray[np.float32] | None = None,
        add: bool = False,
    ) -> None:
        """Write x · weights + bias in float32.

        Args:
            x: float32 [T, in], rows may be strided.
            weights: [in, out] in float32, float16, or bfloat16 as uint16.
            out: float32 [T, out], rows may be strided.
            bias: float32 [out].
            add: to what `out` holds.
        """
        call = LinearFloatCall(
            x.ctypes.data,
            len(x),
            x.shape[1],
            x.strides[0] // 4,
            weights.ctypes.data,
            _address(bias),
            weights.shape[1],
            out.ctypes.data,
            out.strides[0] // 4,
            NUMBERS[weights.dtype],
            add,
            self.threads,
            0,
        )
        self._library.trine_linear_float(ctypes.byref(call))

    def project(
        self,
        x: NDArray[np.float32],
        matrix: NDArray[np.generic],
        factors: NDArray[np.float32],
        first_rank: NDArray[np.int32] | None,
        rank_count: int,
    ) -> None:
        """Write x · matrixᵀ: of each row the ranks it uses (see `Side`), no other.

        Args:
            x: float32 [T, in], rows may be strided.
            matrix: [ranks, in] in float32, float16, or bfloat16 as uint16.
            factors: float32 [T, ranks].
            first_rank: int32 [T], or None for 0.
            rank_count: ranks of a row.
        """
        call = ProjectCall(
            x.ctypes.data,
            len(x),
            x.shape[1],
            x.strides[0] // 4,
            matrix.ctypes.data,
            None if first_rank is None else first_rank.ctypes.data,
            rank_count,
            factors.ctypes.data,
            factors.shape[1],
            NUMBERS[matrix.dtype],
            self.threads,
        )
        self._library.trine_project(ctypes.byref(call))

    def rotate(
        self,
        x: NDArray[np.float32],
        heads: int,
        cosines: NDArray[np.float32],
        sines: NDArray[np.float32],
    ) -> None:
        """Rotate heads in place: (a, b) → (a·cos − b·sin, b·cos + a·sin), a and b a head's halves.

        Args:
            x: float32 [T, at least heads · head_dim], rows may be strided; its first heads turn.
            heads: to rotate.
            cosines, sines: float32 [T, head_dim / 2].
        """
        self._library.trine_rotate(
            ctypes.c_void_p(x.ctypes.data),
            ctypes.c_int64(len(x)),
            ctypes.c_int64(x.strides[0] // 4),
            ctypes.c_int64(heads),
            ctypes.c_int64(cosines.shape[1]),
            ctypes.c_void_p(cosines.ctypes.data),
            ctypes.c_void_p(sines.ctypes.data),
            ctypes.c_int32(self.threads),
        )

    def swiglu(self, gate: NDArray[np.float32], up: NDArray[np.float32]) -> None:
        """Write silu(gate) · up into `gate`; both float32 of one shape."""
        self._library.trine_swiglu(
            ctypes.c_void_p(gate.ctypes.data),
            ctypes.c_void_p(up.ctypes.data),
            ctypes.c_int64(gate.size),
            ctypes.c_int32(self.threads),
        )

    def gelu(self, x: NDArray[np.float32]) -> None:
        """Write x · Φ(x), the exact GELU to 1.5e-7 of Φ, into float32 `x`."""
        self._library.trine_gelu(
            ctypes.c_void_p(x.ctypes.data), ctypes.c_int64(x.size), ctypes.c_int32(self.threads)
        )

    def attention(
        self,
        q: NDArray[np.float32],
        k: NDArray[np.float32],
        v: NDArray[np.float32],
        out: NDArray[np.float32],
        starts: NDArray[np.int64],
        heads: tuple[int, int],
        causal: bool,
        first_query: int = 0,
        exact: bool = False,
    ) -> None:
        """Write softmax(q·kᵀ / sqrt(head_dim)) · v of each sequence.

        Sums are float32. Where these kernels use bfloat16, 8 significant bits, weights and values
        are rounded to it, and a sequence's queries and keys where that moves no score by much.

        Args:
            q: float32 [Q, heads · head_dim], of tokens `first_query` to `first_query` + Q - 1.
            k, v: float32 [T, kv_heads · head_dim]; rows of both have one stride. Where `causal`,
                those after the last query are not read.
            out: float32 [Q, heads · head_dim], rows may be strided; `q` itself, to overwrite it.
            starts: int64 [S + 1], where sequences begin, then T; none is empty.
            heads: of queries, and of keys, which divide the former.
            causal: whether a token sees only those up to itself.
            first_query: the token of the first query.
            exact: whether all factors stay float32.
        """
        num_heads, kv_heads = heads
        head_dim = out.shape[1] // num_heads
        call = AttentionCall(
            q.ctypes.data,
            k.ctypes.data,
            v.ctypes.data,
            q.strides[0] // 4,
            k.strides[0] // 4,
            out.ctypes.data,
            out.strides[0] // 4,
            starts.ctypes.data,
            len(starts) - 1,
            first_query,
            first_query + len(q),
            num_heads,
            kv_heads,
            head_dim,
        )
        call.scale, call.causal, call.threads = head_dim**-0.5, causal, self.threads
        call.half = self.bfloat16 and not exact
        workspace = np.empty(
            self._library.trine_attention_workspace(ctypes.byref(call)), np.float32
        )
        call.workspace = workspace.ctypes.data
        self._library.trine_attention(ctypes.byref(call))


def _address(array: NDArray[np.generic] | None) -> int | None:
    return None if array is None else array.ctypes.data
