"""Calls of the compiled kernels, on numpy arrays.

All arrays are C-ordered; outputs are the caller's and are written in place. Shapes are checked
before a kernel reads or writes: a ValueError says which does not fit.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.kernels.cpu.library import NativeLibrary, load_library
from trine.kernels.cpu.packed import (
    DEPTH_MULTIPLE,
    PAIR,
    PackedBFloat16,
    PackedInt8,
    PackedValues,
    pack_bfloat16,
    pack_int8,
    packed_shape,
    padded_depth,
)
from trine.kernels.cpu.structures import (
    ActivationCall,
    AttentionCall,
    LinearBFloat16Call,
    LinearFloatCall,
    LinearInt8Call,
    ProjectCall,
    RotateCall,
    RowsCall,
    SideCall,
)
from trine.kernels.rotation import rotated_width

__all__ = ["CpuKernels", "Quantised", "Side"]

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
        _fits(kernel, "factors", self.factors, (rows, self.factors.shape[1]))
        _fits(kernel, "matrix", self.matrix, (len(self.matrix), columns))
        ranks = min(len(self.matrix), self.factors.shape[1])
        _check_ranks(kernel, self.first_rank, self.rank_count, rows, ranks)

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
        bfloat16: whether attention multiplies in bfloat16 where the kernels can; None for yes.
        library: whose; None for the best here, or what `TRINE_CPU` names.

    Raises:
        NativeLibraryError: they cannot be used here.
    """

    def __init__(
        self, threads: int, *, bfloat16: bool | None = None, library: NativeLibrary | None = None
    ) -> None:
        self.threads = threads
        self._library = load_library() if library is None else library
        #: Whether attention multiplies in bfloat16.
        self.bfloat16 = self._library.bfloat16 and bfloat16 is not False

    @property
    def level(self) -> str:
        """The instruction set they are for."""
        return self._library.level

    def pack(self, *weights: NDArray[np.int8]) -> PackedValues:
        """Return weights packed (`trine.kernels.cpu.packed.pack_int8`)."""
        return pack_int8(self._library, weights, self.threads)

    def pack_bfloat16(self, *weights: NDArray[np.uint16]) -> PackedValues:
        """Return weights packed (`trine.kernels.cpu.packed.pack_bfloat16`)."""
        return pack_bfloat16(self._library, weights, self.threads)

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
        rows, width = x.shape
        _rows_fit("prepare_rows", "x", x, (rows, width))
        for name, vector in (("norm_weight", norm_weight), ("inliers", inliers)):
            _fits("prepare_rows", name, vector, (width,))
        _fits("prepare_rows", "normed", normed, (rows, width))
        if quantised is not None:
            filled = padded_depth(rotated_width(width) if rotated else width)
            _fits("prepare_rows", "quantised.values", quantised.values, (rows, filled))
            _fits("prepare_rows", "quantised.scales", quantised.scales, (rows,))
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
        self._library.run("prepare_rows", call)

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
        rows, depth = x.values.shape
        _fits("linear_int8", "x.scales", x.scales, (rows,))
        _rows_fit("linear_int8", "out", out, (rows, weights.columns))
        if weights.packed.values.shape[1] * DEPTH_MULTIPLE != depth:
            raise ValueError(
                f"linear_int8: x has {depth} channels, the weights "
                f"{weights.packed.values.shape[1] * DEPTH_MULTIPLE}"
            )
        offsets = weights.packed.offsets
        if offsets is None:
            raise ValueError("linear_int8: the weights have no offsets; they are bfloat16")
        call = LinearInt8Call(
            x.values.ctypes.data,
            x.scales.ctypes.data,
            len(x.values),
            x.values.shape[1],
            weights.packed.values.ctypes.data,
            offsets.ctypes.data,
            weights.scales.ctypes.data,
            _address(weights.bias),
            weights.columns,
            out.ctypes.data,
            out.strides[0] // 4,
            _side_calls("linear_int8", sides, rows, weights.columns),
            weights.gated,
            add,
            self.threads,
        )
        self._library.run("linear_int8", call)

    def linear_bfloat16(
        self,
        x: NDArray[np.float32],
        weights: PackedBFloat16,
        out: NDArray[np.float32],
        sides: Sequence[Side | None] = (),
        add: bool = False,
    ) -> None:
        """Write x · weights + bias + sides; of a gated pair silu(gate) · other.

        x is rounded to bfloat16, half to even; sums are float32.

        Args:
            x: float32 [T, depth], rows may be strided.
            weights: packed.
            out, sides, add: as of `linear_int8`.
        """
        rows, depth = x.shape
        _rows_fit("linear_bfloat16", "x", x, (rows, weights.depth))
        _rows_fit("linear_bfloat16", "out", out, (rows, weights.columns))
        values, parts = weights.packed.values, 2 if weights.gated else 1
        shape = packed_shape((depth, weights.columns), parts, PAIR)
        if values.shape != shape or values.dtype != np.uint16:
            raise ValueError(
                f"linear_bfloat16: weights are {values.dtype} {list(values.shape)}; they need "
                f"uint16 {list(shape)}"
            )
        call = LinearBFloat16Call(
            x.ctypes.data,
            rows,
            depth,
            x.strides[0] // 4,
            values.ctypes.data,
            _address(weights.bias),
            weights.columns,
            out.ctypes.data,
            out.strides[0] // 4,
            _side_calls("linear_bfloat16", sides, rows, weights.columns),
            weights.gated,
            add,
            self.threads,
        )
        self._library.run("linear_bfloat16", call)

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
        rows, depth = x.shape
        _rows_fit("linear_float", "x", x, (rows, depth))
        _fits("linear_float", "weights", weights, (depth, weights.shape[1]))
        _fits("linear_float", "bias", bias, (weights.shape[1],))
        _rows_fit("linear_float", "out", out, (rows, weights.shape[1]))
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
        self._library.run("linear_float", call)

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
        rows, depth = x.shape
        _rows_fit("project", "x", x, (rows, depth))
        _fits("project", "matrix", matrix, (len(matrix), depth))
        _fits("project", "factors", factors, (rows, factors.shape[1]))
        _check_ranks("project", first_rank, rank_count, rows, min(len(matrix), factors.shape[1]))
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
        self._library.run("project", call)

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
        rows, half = cosines.shape
        _rows_fit("rotate", "x", x, (rows, x.shape[1]))
        _fits("rotate", "sines", sines, (rows, half))
        if heads * 2 * half > x.shape[1]:
            raise ValueError(
                f"rotate: {heads} heads of {2 * half} are wider than rows of {x.shape[1]}"
            )
        call = RotateCall(
            x.ctypes.data,
            len(x),
            x.strides[0] // 4,
            heads,
            cosines.shape[1],
            cosines.ctypes.data,
            sines.ctypes.data,
            self.threads,
        )
        self._library.run("rotate", call)

    def swiglu(self, gate: NDArray[np.float32], up: NDArray[np.float32]) -> None:
        """Write silu(gate) · up into `gate`; both float32 of one shape."""
        _fits("swiglu", "up", up, gate.shape)
        call = ActivationCall(gate.ctypes.data, up.ctypes.data, gate.size, self.threads)
        self._library.run("swiglu", call)

    def gelu(self, x: NDArray[np.float32]) -> None:
        """Write x · Φ(x), the exact GELU to 1.5e-7 of Φ, into float32 `x`."""
        self._library.run("gelu", ActivationCall(x.ctypes.data, None, x.size, self.threads))

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
        tokens = int(starts[-1])
        if len(starts) < 2 or num_heads % kv_heads or out.shape[1] % num_heads:
            raise ValueError(
                f"attention: {heads} heads, {len(starts)} starts and rows of {out.shape[1]} do not "
                "fit together"
            )
        _rows_fit("attention", "q", q, (len(out), out.shape[1]))
        _rows_fit("attention", "k", k, (tokens, kv_heads * head_dim))
        _rows_fit("attention", "v", v, (tokens, kv_heads * head_dim))
        if k.strides[0] != v.strides[0] or first_query + len(q) > tokens:
            raise ValueError(
                f"attention: queries {first_query} to {first_query + len(q)} of {tokens} tokens, "
                f"row strides of k and v {k.strides[0]} and {v.strides[0]}"
            )
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
        self._library.run("attention", call)


def _side_calls(
    kernel: str, sides: Sequence[Side | None], rows: int, columns: int
) -> "ctypes.Array[SideCall]":
    """Return the structures of up to four sides, checked."""
    calls = (SideCall * 4)()
    for index, side in enumerate(sides):
        if side is not None:
            side.check(kernel, rows, columns)
            calls[index] = side.call()
    return calls


def _fits(
    kernel: str, name: str, array: NDArray[np.generic] | None, shape: tuple[int, ...]
) -> None:
    """Refuse an array of another shape, or that is not packed; None fits."""
    if array is not None and (array.shape != shape or not array.flags.c_contiguous):
        raise _misfit(kernel, name, array, shape, "packed")


def _rows_fit(kernel: str, name: str, array: NDArray[np.generic], shape: tuple[int, int]) -> None:
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


def _check_ranks(
    kernel: str, first: NDArray[np.int32] | None, count: int, rows: int, ranks: int
) -> None:
    """Refuse ranks of a row that are not there."""
    _fits(kernel, "first_rank", first, (rows,))
    last = count + (int(first.max()) if first is not None and rows else 0)
    if last > ranks:
        raise ValueError(f"{kernel}: rows use ranks up to {last}, of which there are {ranks}")


def _address(array: NDArray[np.generic] | None) -> int | None:
    return None if array is None else array.ctypes.data
