"""The meter of ONNX Runtime's 8-bit product multiplies what it says."""

import numpy as np
import onnx
import onnxruntime
from peaks.products import product_model


def test_a_model_of_one_product_is_valid_and_right() -> None:
    source = np.random.default_rng(0)
    weight = source.integers(-100, 100, (200, 7), np.int8)
    # Processors without VNNI saturate sums of two products at 16 bits: these fit.
    x = source.integers(0, 128, (5, 200), np.uint8)
    model = product_model(weight)
    onnx.checker.check_model(onnx.load_model_from_string(model), full_check=True)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x})
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, x.astype(np.int64) @ weight.astype(np.int64))
