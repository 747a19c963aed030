"""The peak meter's hand-written models compute what they say."""

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from trine.runtime.bench.onnx_bytes import matmul_model
from trine.runtime.bench.peak import peak_kind

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
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x})
    assert found.dtype == outputs
    np.testing.assert_array_equal(found, x.astype(np.int64) @ weight.astype(np.int64))


def test_integer_engines_are_held_against_the_integer_peak() -> None:
    assert peak_kind("int8") == peak_kind("int4") == "u8s8"
    assert peak_kind("fp32") == "float32"
