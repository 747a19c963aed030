"""The peak meter's hand-written models compute what they say."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from trine.kernels.cpu.library import why_unavailable
from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.commands.bench import peak
from trine.runtime.commands.bench.onnx_bytes import matmul_model
from trine.runtime.commands.bench.peak import peak_kind

ROWS, NUM_IN, NUM_OUT = 5, 200, 7


@pytest.mark.parametrize(
    ("op_type", "weights", "inputs", "outputs"),
    [("MatMul", "float32", "float32", "float32"), ("MatMulInteger", "int8", "uint8", "int32")],
)
def test_a_model_of_one_product_is_valid_and_right(
    op_type: str, weights: str, inputs: str, outputs: str
) -> None:
    source = np.random.default_rng(0)
    weight: NDArray[np.generic] = source.integers(-100, 100, (NUM_IN, NUM_OUT)).astype(weights)
    x: NDArray[np.generic] = source.integers(0, 200, (ROWS, NUM_IN)).astype(inputs)
    model = matmul_model(op_type, weight, inputs, outputs)
    onnx.checker.check_model(onnx.load_model_from_string(model), full_check=True)
    options = onnxruntime.SessionOptions()
    # Without it products saturate on x86 without 8-bit dot products.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x})
    assert found.dtype == outputs
    np.testing.assert_array_equal(found, x.astype(np.int64) @ weight.astype(np.int64))


def test_integer_engines_are_held_against_the_integer_peak() -> None:
    assert peak_kind("int8") == peak_kind("int4") == "u8s8"
    assert peak_kind("fp32") == "float32"


def test_the_peak_is_of_the_fastest_product(
    monkeypatch: pytest.MonkeyPatch, nano_bundle: Path
) -> None:
    monkeypatch.setattr(peak, "SECONDS", 0.0)
    model = open_bundle(nano_bundle).manifest.model
    both = {"ONNX Runtime", "native kernels"} if why_unavailable() is None else {"ONNX Runtime"}

    def rate(run: Callable[[], object], shape: tuple[int, int, int]) -> float:
        run()
        # The later is the faster.
        return float(next(counter))

    counter = itertools.count(1)
    monkeypatch.setattr(peak, "_best_rate", rate)
    best = peak.measure_peak("u8s8", model, threads=1)
    assert best.operations_per_second == next(counter) - 1
    assert best.meter == sorted(both)[-1]
    assert peak.measure_peak("float32", model, threads=1).meter == "ONNX Runtime"
