"""The roof: what the best matrix product reaches here, alone, on the model's shapes."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trine.kernels.cpu.kernels import CpuKernels, Quantised
from trine.kernels.cpu.library import why_unavailable
from trine.kernels.cpu.packed import PackedInt8
from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.commands.bench.onnx_bytes import matmul_model
from trine.runtime.errors import missing_package

__all__ = ["GemmPeak", "PeakKind", "measure_peak", "peak_kind"]

#: float32, or unsigned activations times signed weights with 32-bit sums.
PeakKind = Literal["float32", "u8s8"]
#: Tokens of a run: weights are read once for so many that the product is bound by arithmetic.
ROWS = 256
#: Time for each shape; the best run counts, so a few hundred milliseconds are enough.
SECONDS = 0.3
FEWEST_RUNS = 5


@dataclass(frozen=True, slots=True)
class GemmPeak:
    """The best rate of a matrix product.

    Attributes:
        kind: of the numbers multiplied.
        operations_per_second: multiplications and additions.
        shape: (M, K, N) that reached it.
        meter: whose product it is.
    """

    kind: PeakKind
    operations_per_second: float
    shape: tuple[int, int, int]
    meter: str


def peak_kind(precision: str) -> PeakKind:
    """Return which roof an engine of a precision works under; 4-bit weights are widened to 8."""
    return "u8s8" if precision in ("int8", "int4") else "float32"


def measure_peak(kind: PeakKind, model: ModelConfig, threads: int) -> GemmPeak:
    """Return the best rate over the shapes of the model's linear layers, by whom is the fastest.

    Args:
        kind: of the numbers multiplied.
        model: whose shapes are used.
        threads: of a run.

    Raises:
        DependencyError: onnxruntime is not installed.
    """
    decoder = model.decoder
    shapes = {
        (decoder.hidden_size, decoder.hidden_size),
        (decoder.hidden_size, decoder.intermediate_size),
        (decoder.intermediate_size, decoder.hidden_size),
    }
    native = kind == "u8s8" and why_unavailable() is None
    found = []
    for num_in, num_out in sorted(shapes):
        shape = (ROWS, num_in, num_out)
        runs = {"ONNX Runtime": _onnxruntime(kind, num_in, num_out, threads)}
        if native:
            runs["native kernels"] = _native(num_in, num_out, threads)
        for meter, run in runs.items():
            found.append(GemmPeak(kind, _best_rate(run, shape), shape, meter))
    return max(found, key=lambda peak: peak.operations_per_second)


def _best_rate(run: Callable[[], object], shape: tuple[int, int, int]) -> float:
    """Return the best operations a second of runs of a product [M, K] · [K, N]."""
    best = np.inf
    runs, ends = 0, time.perf_counter() + SECONDS
    while runs < FEWEST_RUNS or time.perf_counter() < ends:
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
        runs += 1
    return float(2 * math.prod(shape) / best)


def _onnxruntime(kind: PeakKind, num_in: int, num_out: int, threads: int) -> Callable[[], object]:
    """Return a run of ONNX Runtime's product."""
    try:
        import onnxruntime
    except ImportError as cause:
        raise missing_package("onnxruntime", "cpu", "to measure the machine's peak") from cause
    source = np.random.default_rng(0)
    x: NDArray[np.generic]
    if kind == "float32":
        weight = source.standard_normal((num_in, num_out), np.float32)
        model = matmul_model("MatMul", weight, "float32", "float32")
        x = source.standard_normal((ROWS, num_in), np.float32)
    else:
        narrow = source.integers(-127, 128, (num_in, num_out), np.int8)
        model = matmul_model("MatMulInteger", narrow, "uint8", "int32")
        x = source.integers(0, 256, (ROWS, num_in), np.uint8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Its threads must not spin on the cores while other products are measured.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Exact ones, as engines are run.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})


def _native(num_in: int, num_out: int, threads: int) -> Callable[[], object]:
    """Return a run of the native 8-bit product, rescaling included."""
    source = np.random.default_rng(0)
    kernels = CpuKernels(threads)
    weight = source.integers(-127, 128, (num_in, num_out), np.int8)
    values = kernels.pack(weight)
    packed = PackedInt8(
        packed=values,
        scales=np.ones(len(values.offsets), np.float32),
        bias=None,
        depth=num_in,
        columns=num_out,
        gated=False,
    )
    x = Quantised.empty(ROWS, num_in)
    kernels.prepare_rows(source.standard_normal((ROWS, num_in), np.float32), x)
    out = np.empty((ROWS, num_out), np.float32)
    return lambda: kernels.linear_int8(x, packed, out)
