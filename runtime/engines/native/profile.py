"""The native kernels with a stopwatch at each."""

import time
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trine.kernels.cpu.kernels import CpuKernels, Quantised, Side
from trine.kernels.cpu.packed import PackedBFloat16, PackedInt8
from trine.runtime.engines.profile import OpClass, OperatorTime

__all__ = ["ProfilingKernels"]

#: What each kernel does; a norm quantises what it gives out in the same pass.
KINDS: dict[str, OpClass] = {
    "linear_int8": "GEMM",
    "linear_bfloat16": "GEMM",
    "linear_float": "GEMM",
    "project": "GEMM",
    "attention": "attention",
    "rotate": "attention",
    "norm and quantise": "norms",
    "quantise": "quantisation",
    "swiglu": "elementwise",
    "gelu": "elementwise",
}
Floats = NDArray[np.float32]


class ProfilingKernels(CpuKernels):
    """Kernels that add up their seconds and operations. For one run at a time."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._operations: defaultdict[str, int] = defaultdict(int)

    def operator_times(self, runs: int) -> list[OperatorTime]:
        """Return each kernel's share of one of `runs` runs."""
        return [
            OperatorTime(
                kind=KINDS[name],
                operator=name,
                seconds=seconds / runs,
                operations=self._operations[name] // runs,
            )
            for name, seconds in self._seconds.items()
        ]

    def _ended(self, name: str, started: float, operations: int = 0) -> None:
        self._seconds[name] += time.perf_counter() - started
        self._operations[name] += operations

    def prepare_rows(
        self,
        x: Floats,
        quantised: Quantised | None,
        *,
        norm_weight: Floats | None = None,
        epsilon: float = 0.0,
        normed: Floats | None = None,
        inliers: Floats | None = None,
        rotated: bool = False,
    ) -> None:
        started = time.perf_counter()
        super().prepare_rows(
            x,
            quantised,
            norm_weight=norm_weight,
            epsilon=epsilon,
            normed=normed,
            inliers=inliers,
            rotated=rotated,
        )
        self._ended("quantise" if norm_weight is None else "norm and quantise", started)

    def linear_int8(
        self,
        x: Quantised,
        weights: PackedInt8,
        out: Floats,
        sides: Sequence[Side | None] = (),
        add: bool = False,
    ) -> None:
        started = time.perf_counter()
        super().linear_int8(x, weights, out, sides, add)
        columns = weights.columns * (2 if weights.gated else 1)
        operations = 2 * len(x.values) * weights.depth * columns
        self._ended("linear_int8", started, operations)

    def linear_bfloat16(
        self,
        x: Floats,
        weights: PackedBFloat16,
        out: Floats,
        sides: Sequence[Side | None] = (),
        add: bool = False,
    ) -> None:
        started = time.perf_counter()
        super().linear_bfloat16(x, weights, out, sides, add)
        columns = weights.columns * (2 if weights.gated else 1)
        self._ended("linear_bfloat16", started, 2 * len(x) * weights.depth * columns)

    def linear_float(
        self,
        x: Floats,
        weights: NDArray[np.generic],
        out: Floats,
        bias: Floats | None = None,
        add: bool = False,
    ) -> None:
        started = time.perf_counter()
        super().linear_float(x, weights, out, bias, add)
        self._ended("linear_float", started, 2 * len(x) * weights.shape[0] * weights.shape[1])

    def project(
        self,
        x: Floats,
        matrix: NDArray[np.generic],
        factors: Floats,
        first_rank: NDArray[np.int32] | None,
        rank_count: int,
    ) -> None:
        started = time.perf_counter()
        super().project(x, matrix, factors, first_rank, rank_count)
        self._ended("project", started, 2 * x.size * rank_count)

    def rotate(self, x: Floats, heads: int, cosines: Floats, sines: Floats) -> None:
        started = time.perf_counter()
        super().rotate(x, heads, cosines, sines)
        self._ended("rotate", started)

    def swiglu(self, gate: Floats, up: Floats) -> None:
        started = time.perf_counter()
        super().swiglu(gate, up)
        self._ended("swiglu", started)

    def gelu(self, x: Floats) -> None:
        started = time.perf_counter()
        super().gelu(x)
        self._ended("gelu", started)

    def attention(
        self,
        q: Floats,
        k: Floats,
        v: Floats,
        out: Floats,
        starts: NDArray[np.int64],
        heads: tuple[int, int],
        causal: bool,
        first_query: int = 0,
        exact: bool = False,
    ) -> None:
        started = time.perf_counter()
        super().attention(q, k, v, out, starts, heads, causal, first_query, exact)
        queries = np.arange(first_query, first_query + len(q))
        sequence = np.searchsorted(starts, queries, side="right") - 1
        seen = queries + 1 - starts[sequence] if causal else np.diff(starts)[sequence]
        self._ended("attention", started, 4 * int(seen.sum()) * out.shape[1])
