"""OpenVINO's ways of multiplying in 8 bits, for `int8_options`: weights only, dynamic and static.

Inputs and sums are float32 by request; where a processor has bfloat16, that is its own choice.
"""

from collections.abc import Callable

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as ops

__all__ = ["openvino_options"]

Array = NDArray[np.float32]
#: Inputs that share a scale where activations are quantised as they come: OpenVINO's own default.
DYNAMIC_GROUP = 32


def _compiled(
    x: openvino.op.Parameter, y: openvino.Node, group: int, threads: int
) -> Callable[[Array], Array]:
    model = openvino.Model([y], [x], "option")
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(group),
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": "1",
    }
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()

    def run(rows: Array) -> Array:
        return np.array(request.infer([rows])[0])

    return run


def openvino_options(
    weight: Array, calibration: Array, threads: int
) -> dict[str, Callable[[Array], Array]]:
    """Return a product for each way.

    Args:
        weight: float32 [in, out].
        calibration: float32 [n, in], for the static scale.
        threads: of a product.
    """
    num_in = weight.shape[0]

    def parameter() -> openvino.op.Parameter:
        return ops.parameter([-1, num_in], np.float32)

    def compressed() -> openvino.Node:
        """Return the weight [out, in] as 8-bit integers times a scale for each output."""
        steps = (np.abs(weight).max(axis=0) / 127).astype(np.float32)[:, None]
        values = ops.constant(np.rint(weight.T / steps).astype(np.int8))
        return ops.multiply(ops.convert(values, np.float32), ops.constant(steps))

    def product(group: int) -> Callable[[Array], Array]:
        x = parameter()
        return _compiled(x, ops.matmul(x, compressed(), False, True), group, threads)

    x = parameter()
    plain = _compiled(x, ops.matmul(x, ops.constant(weight), False, False), 0, threads)
    x = parameter()
    largest = ops.constant(np.float32(np.abs(calibration).max()))
    low = ops.constant(-np.float32(np.abs(calibration).max()) * np.float32(128 / 127))
    rounded = ops.fake_quantize(x, low, largest, low, largest, 256)
    bound = np.abs(weight).max(axis=0).astype(np.float32)[:, None]
    top, bottom = ops.constant(bound), ops.constant(-bound)
    weights = ops.fake_quantize(ops.constant(weight.T.copy()), bottom, top, bottom, top, 255)
    static = _compiled(x, ops.matmul(rounded, weights, False, True), 0, threads)
    return {
        "OpenVINO, float32": plain,
        "OpenVINO, 8-bit weights alone": product(0),
        f"OpenVINO, 8 bits, a scale for each {DYNAMIC_GROUP} inputs of a token": product(
            DYNAMIC_GROUP
        ),
        "OpenVINO, 8 bits, a static scale": static,
    }
