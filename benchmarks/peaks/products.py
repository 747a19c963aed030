"""The best 8-bit matrix product of one library, in a process of its own; prints a JSON object.

python benchmarks/peaks/products.py onnxruntime|onednn THREADS HIDDEN INTERMEDIATE
"""

import json
import sys
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

#: Tokens of a run: from here on weights are read once for enough arithmetic.
ROWS = (256, 1024)
SECONDS = 0.4


def main() -> None:
    library, *numbers = sys.argv[1:]
    threads, hidden, intermediate = map(int, numbers)
    make = {"onnxruntime": onnxruntime_product, "onednn": onednn_product}[library]
    found = {}
    for num_in, num_out in ((hidden, hidden), (hidden, intermediate), (intermediate, hidden)):
        for rows in ROWS:
            call = make(threads, rows, num_in, num_out)
            found[2 * rows * num_in * num_out / best_seconds(call)] = [rows, num_in, num_out]
    best = max(found)
    print(json.dumps({"int8": best, "shape": found[best]}))


def onnxruntime_product(threads: int, rows: int, num_in: int, num_out: int) -> Callable[[], object]:
    """Return a run of MatMulInteger, uint8 by int8."""
    from trine.runtime.libraries import import_onnxruntime

    onnxruntime = import_onnxruntime()

    source = np.random.default_rng(0)
    weight = source.integers(-127, 128, (num_in, num_out), np.int8)
    x = source.integers(0, 256, (rows, num_in), np.uint8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        product_model(weight),
        options,
        providers=["CPUExecutionProvider"],
    )
    return lambda: session.run(None, {"x": x})


def product_model(weight: NDArray[np.int8]) -> bytes:
    """Return an ONNX model y = x @ weight, x uint8 [M, K], weight [K, N], y int32 [M, N]."""
    from onnx import TensorProto, helper, numpy_helper

    num_in, num_out = weight.shape
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["m", num_in])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, ["m", num_out])],
        [numpy_helper.from_array(weight, "w")],
    )
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, ir_version=8, opset_imports=[opset])
    return bytes(model.SerializeToString())


def onednn_product(threads: int, rows: int, num_in: int, num_out: int) -> Callable[[], object]:
    """Return a run of oneDNN's linear layer through PyTorch: uint8 by int8, weights packed."""
    import torch

    torch.set_num_threads(threads)
    ops = torch.ops.onednn
    weight = torch.randint(-127, 128, (num_out, num_in), dtype=torch.int8)
    packed = ops.qlinear_prepack(weight, [rows, num_in])
    x = torch.randint(0, 256, (rows, num_in), dtype=torch.uint8)
    scales, zeros = torch.ones(num_out), torch.zeros(num_out, dtype=torch.int32)

    def run() -> object:
        with torch.inference_mode():
            return ops.qlinear_pointwise(
                x, 1.0, 0, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
            )

    return run


def best_seconds(call: Callable[[], object]) -> float:
    """Return the shortest of the calls in `SECONDS`."""
    call()
    best, ends = np.inf, time.perf_counter() + SECONDS
    while time.perf_counter() < ends:
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return float(best)


if __name__ == "__main__":
    main()
