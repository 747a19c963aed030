"""Calls of the compiled kernels, on numpy arrays.

All arrays are C-ordered; outputs are the caller's and are written in place. Shapes are checked
before a kernel reads or writes: a ValueError says which does not fit.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trine.kernels.cpu.library import NativeLibrary, load_library
from trine.kernels.cpu.operands import (
    NUMBERS,
    Quantised,
    Side,
    address,
    require_packed,
    require_ranks,
    require_rows,
    side_calls,
)
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
)
from trine.kernels.rotation import rotated_width

__all__ = ["CpuKernels", "Quantised", "Side"]


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
        require_rows("prepare_rows", "x", x, (rows, width))
        for name, vector in (("norm_weight", norm_weight), ("inliers", inliers)):
            require_packed("prepare_rows", name, vector, (width,))
        require_packed("prepare_rows", "normed", normed, (rows, width))
        if quantised is not None:
            filled = padded_depth(rotated_width(width) if rotated else width)
            require_packed("prepare_rows", "quantised.values", quantised.values, (rows, filled))
            require_packed("prepare_rows", "quantised.scales", quantised.scales, (rows,))
        call = RowsCall(
            x.ctypes.data,
            len(x),
            x.shape[1],
            x.strides[0] // 4,
            address(norm_weight),
            address(normed),
            address(inliers),
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
        require_packed("linear_int8", "x.scales", x.scales, (rows,))
        require_rows("linear_int8", "out", out, (rows, weights.columns))
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
            address(weights.bias),
            weights.columns,
            out.ctypes.data,
            out.strides[0] // 4,
            side_calls("linear_int8", sides, rows, weights.columns),
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
        require_rows("linear_bfloat16", "x", x, (rows, weights.depth))
        require_rows("linear_bfloat16", "out", out, (rows, weights.columns))
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
            address(weights.bias),
            weights.columns,
            out.ctypes.data,
            out.strides[0] // 4,
            side_calls("linear_bfloat16", sides, rows, weights.columns),
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
        require_rows("linear_float", "x", x, (rows, depth))
        require_packed("linear_float", "weights", weights, (depth, weights.shape[1]))
        require_packed("linear_float", "bias", bias, (weights.shape[1],))
        require_rows("linear_float", "out", out, (rows, weights.shape[1]))
        call = LinearFloatCall(
            x.ctypes.data,
            len(x),
            x.shape[1],
            x.strides[0] // 4,
            weights.ctypes.data,
            address(bias),
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
        require_rows("project", "x", x, (rows, depth))
        require_packed("project", "matrix", matrix, (len(matrix), depth))
        require_packed("project", "factors", factors, (rows, factors.shape[1]))
        require_ranks("project", first_rank, rank_count, rows, min(len(matrix), factors.shape[1]))
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
        require_rows("rotate", "x", x, (rows, x.shape[1]))
        require_packed("rotate", "sines", sines, (rows, half))
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
        require_packed("swiglu", "up", up, gate.shape)
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
        require_rows("attention", "q", q, (len(out), out.shape[1]))
        require_rows("attention", "k", k, (tokens, kv_heads * head_dim))
        require_rows("attention", "v", v, (tokens, kv_heads * head_dim))
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
