"""The roof: what ONNX Runtime's own matrix products reach here, alone, on the model's shapes."""

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trine.runtime.bench.onnx_bytes import matmul_model
from trine.runtime.errors import missing_package
from trine.runtime.model_config import ModelConfig

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
    """

    kind: PeakKind
    operations_per_second: float
    shape: tuple[int, int, int]


def peak_kind(precision: str) -> PeakKind:
    """Return which roof an engine of a precision works under; 4-bit weights are widened to 8."""
    return "u8s8" if precision in ("int8", "int4") else "float32"


def measure_peak(kind: PeakKind, model: ModelConfig, threads: int) -> GemmPeak:
    """Return the best rate over the shapes of the model's linear layers.

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
    rates = [_rate(kind, num_in, num_out, threads) for num_in, num_out in sorted(shapes)]
    return max(rates, key=lambda peak: peak.operations_per_second)


def _rate(kind: PeakKind, num_in: int, num_out: int, threads: int) -> GemmPeak:
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
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    best = np.inf
    runs, ends = 0, time.perf_counter() + SECONDS
    while runs < FEWEST_RUNS or time.perf_counter() < ends:
        started = time.perf_counter()
        session.run(None, {"x": x})
        best = min(best, time.perf_counter() - started)
        runs += 1
    operations = 2 * ROWS * num_in * num_out
    return GemmPeak(kind, float(operations / best), (ROWS, num_in, num_out))
