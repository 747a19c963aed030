"""Ways of multiplying in 8 bits on the CPU: error and speed of one layer's product, side by side.

    pip install openvino    # or leave its rows out
    python benchmarks/int8_options.py --out benchmarks/results/NAME.json

Each option computes x · W for the same random x and W at the published widths, all in one process,
by turns. Of `rows` tokens one is 30 times larger than the others, as a first token is; the errors
are those of the other rows. "channels" repeats the errors with eight input channels 50 times the
rest, "gated" with rows as silu(gate) · up has them: few values, anywhere, far larger than the rest.
"""

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx
from machine import machine_record
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from trine.runtime.libraries import import_onnxruntime

if TYPE_CHECKING:
    import onnxruntime

Array = NDArray[np.float32]
#: x [T, in] float32 to x · W [T, out].
Product = Callable[[Array], Array]
#: Options that are measured where their package is installed: package, and the module and function
#: that make them, called as `options` is.
MORE_OPTIONS = (
    ("openvino", "int8_openvino", "openvino_options"),
    ("trine.kernels.cpu._native", "int8_native", "native_options"),
)
#: Products of the published decoder: (inputs, outputs).
SHAPES = ((2048, 2560), (2048, 11008), (11008, 2048))
OUTLIERS = 8
#: What rows are like.
Kind = Literal["plain", "channels", "gated"]
KINDS: tuple[Kind, ...] = ("plain", "channels", "gated")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One option on one shape; errors are relative to the norm of the float32 result."""

    option: str
    inputs: int
    outputs: int
    rows: int
    milliseconds: float
    times_float32: float
    error: float
    error_channels: float
    error_gated: float


def session(
    nodes: list[onnx.NodeProto],
    weights: dict[str, NDArray[np.generic]],
    num_in: int,
    threads: int,
) -> "onnxruntime.InferenceSession":
    """Return a session from x [T, num_in] to y."""
    graph = helper.make_graph(
        nodes,
        "option",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["t", num_in])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    settings = import_onnxruntime().SessionOptions()
    settings.intra_op_num_threads = threads
    # Threads that wait must not spin on the cores that the next option needs.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    return import_onnxruntime().InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )


def options(weight: Array, calibration: Array, threads: int) -> dict[str, Product]:
    """Return a product for each option that the installed packages offer.

    Args:
        weight: float32 [in, out].
        calibration: float32 [n, in], for the options with static scales.
        threads: of a product.
    """
    made = {
        name: runner(session(nodes, weights, len(weight), threads))
        for name, (nodes, weights) in onnxruntime_options(weight, calibration).items()
    }
    for package, module, function in MORE_OPTIONS:
        if importlib.util.find_spec(package) is None:
            print(f"{package} is not installed: its rows are left out", file=sys.stderr)
            continue
        made |= getattr(importlib.import_module(module), function)(weight, calibration, threads)
    return made


def runner(made: "onnxruntime.InferenceSession") -> Product:
    return lambda x: np.asarray(made.run(None, {"x": x})[0], np.float32)


def onnxruntime_options(
    weight: Array, calibration: Array
) -> dict[str, tuple[list[onnx.NodeProto], dict[str, NDArray[np.generic]]]]:
    """Return nodes and weights of the graph for each option of ONNX Runtime.

    Args:
        weight: float32 [in, out].
        calibration: float32 [n, in], for the options with static scales.
    """
    node, num_in, num_out = helper.make_node, *weight.shape
    steps = (np.abs(weight).max(axis=0) / 127).astype(np.float32)
    values = np.rint(weight / steps).astype(np.int8)
    one, zero = np.float32(1), np.array(128, np.uint8)
    quantised = {"w": values, "steps": steps, "one": np.array(one), "zero": zero}
    by_token = [
        node("Abs", ["x"], ["a"]),
        node("ReduceMax", ["a", "last"], ["m"]),
        node("Mul", ["m", "inverse"], ["s"]),
        node("Div", ["x", "s"], ["d"]),
        node("QuantizeLinear", ["d", "one", "zero"], ["q"]),
        node(
            "MatMulIntegerToFloat",
            ["q", "w", "one", "steps", "zero"],
            ["p"],
            domain="com.microsoft",
        ),
        node("Mul", ["p", "s"], ["y"]),
    ]
    extra = {"last": np.array([-1]), "inverse": np.array(1 / 127, np.float32)}
    largest = np.abs(calibration).max(axis=0)
    channels = np.sort(np.argsort(-largest)[:OUTLIERS])
    inliers, mask = values.copy(), np.ones(num_in, np.float32)
    inliers[channels], mask[channels] = 0, 0
    split = [
        node("Mul", ["x", "mask"], ["i"]),
        node("Abs", ["i"], ["a"]),
        *by_token[1:-1],
        node("Mul", ["p", "s"], ["r"]),
        node("Gather", ["x", "channels"], ["o"], axis=1),
        node("Gemm", ["o", "rest", "r"], ["y"]),
    ]
    static = np.array(np.abs(calibration).max() / 127, np.float32)
    smooth = np.sqrt(largest / np.abs(weight).max(axis=1)).astype(np.float32)
    smoothed = weight * smooth[:, None]
    smooth_steps = (np.abs(smoothed).max(axis=0) / 127).astype(np.float32)
    blocks = weight.T.reshape(num_out, -1, 128)
    block_steps = (np.abs(blocks).max(axis=2) / 127).astype(np.float32)
    nbits = (np.rint(blocks / block_steps[..., None]) + 128).astype(np.uint8)
    fixed = [
        node("QuantizeLinear", ["x", "static", "zero"], ["q"]),
        node(
            "MatMulIntegerToFloat",
            ["q", "w", "static", "steps", "zero"],
            ["y"],
            domain="com.microsoft",
        ),
    ]
    smoothed_static = np.array(np.abs(calibration / smooth).max() / 127, np.float32)
    return {
        "float32": ([node("MatMul", ["x", "w"], ["y"])], {"w": weight}),
        "8 bits, a scale for each token": (by_token, quantised | extra),
        "the same, large channels in float32": (
            split,
            quantised
            | extra
            | {"w": inliers, "mask": mask, "channels": channels, "rest": weight[channels]},
        ),
        "8 bits, a scale for the batch (DynamicQuantizeMatMul)": (
            [node("DynamicQuantizeMatMul", ["x", "w", "steps"], ["y"], domain="com.microsoft")],
            {"w": values, "steps": steps},
        ),
        "8 bits, a static scale": (fixed, quantised | {"static": static}),
        "8 bits, a static scale, smoothed": (
            [
                node("Div", ["x", "smooth"], ["h"]),
                node("QuantizeLinear", ["h", "static", "zero"], ["q"]),
                fixed[1],
            ],
            {
                "w": np.rint(smoothed / smooth_steps).astype(np.int8),
                "steps": smooth_steps,
                "zero": zero,
                "static": smoothed_static,
                "smooth": smooth,
            },
        ),
        "8-bit weights by blocks (MatMulNBits, 128)": (
            [
                node(
                    "MatMulNBits",
                    ["x", "w", "steps"],
                    ["y"],
                    domain="com.microsoft",
                    K=num_in,
                    N=num_out,
                    bits=8,
                    block_size=128,
                    accuracy_level=4,
                )
            ],
            {"w": nbits, "steps": block_steps.reshape(-1)},
        ),
    }


def relative_error(found: Array, wanted: Array) -> float:
    """Return the mean over rows of |found - wanted| / |wanted|."""
    norms = np.linalg.norm(found - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
    return float(norms.mean())


def inputs(rng: np.random.Generator, rows: int, num_in: int, kind: Kind) -> Array:
    """Return float32 [rows, num_in]; the first row is 30 times the others."""
    x = rng.standard_normal((rows, num_in)).astype(np.float32)
    if kind == "channels":
        x[:, :: num_in // OUTLIERS][:, :OUTLIERS] *= 50
    elif kind == "gated":
        x = x / (1 + np.exp(-x)) * rng.standard_normal(x.shape).astype(np.float32)
    x[0] *= 30
    return x


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def measure(num_in: int, num_out: int, rows: int, rounds: int, threads: int) -> list[Result]:
    """Return the results of all options on one shape."""
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((num_in, num_out)) * 0.02).astype(np.float32)
    errors: dict[str, list[float]] = {}
    times: dict[str, list[float]] = {}
    for kind in KINDS:
        x = inputs(rng, rows, num_in, kind)
        # Calibrated on other rows of the same kind, without the large one.
        products = options(weight, inputs(rng, rows, num_in, kind)[1:], threads)
        wanted = (x @ weight)[1:]
        for name, product in products.items():
            found = product(x)[1:]
            errors.setdefault(name, []).append(relative_error(found, wanted))
        if kind != "plain":
            continue
        for _ in range(rounds):
            for name, product in products.items():
                times.setdefault(name, []).append(seconds(partial(product, x)))
    medians = {name: statistics.median(found) for name, found in times.items()}
    return [
        Result(
            option=name,
            inputs=num_in,
            outputs=num_out,
            rows=rows,
            milliseconds=round(1000 * medians[name], 2),
            times_float32=round(medians["float32"] / medians[name], 2),
            error=round(errors[name][0], 5),
            error_channels=round(errors[name][1], 5),
            error_gated=round(errors[name][2], 5),
        )
        for name in products
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--rows", type=int, default=512, help="tokens (default: 512)")
    parser.add_argument("--rounds", type=int, default=9, help="(default: 9)")
    parser.add_argument("--threads", type=int, default=2, help="of a product (default: 2)")
    arguments = parser.parse_args()
    results = [
        result
        for num_in, num_out in SHAPES
        for result in measure(num_in, num_out, arguments.rows, arguments.rounds, arguments.threads)
    ]
    lines = [
        "| product | option | ms | × float32 | error | error, large channels | error, gated rows |"
    ]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    lines += [
        f"| {r.inputs}×{r.outputs} | {r.option} | {r.milliseconds} | {r.times_float32} | "
        f"{r.error:.4f} | {r.error_channels:.4f} | {r.error_gated:.4f} |"
        for r in results
    ]
    content = {
        "machine": machine_record(),
        "threads": arguments.threads,
        "versions": {
            package: version(package)
            for package, _, _ in MORE_OPTIONS
            if importlib.util.find_spec(package) and "." not in package
        },
        "results": [asdict(result) for result in results],
    }
    arguments.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    arguments.out.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
