"""Times ways of adding LoRA deltas to a layer's linear projections, at the published widths.

One decoder layer's five projections (fused q/k/v, o, gate, up, down) run with the adapters merged
into the weights, and with three adapters kept beside them in each of these formulations:

  stacked   all active adapters' ranks side by side, h = x·Aᵀ masked per token, y += h·B
  gathered  each row's matrices gathered by its task id, two batched products
  grouped   tokens sorted by task, two products per task on its slice, joined again

for a batch of one task and for one that mixes three. Variants are interleaved; printed are medians
and the median of each round's ratio to merged. The last line is JSON.

    python benchmarks/adapter_formulations.py [--rounds 15] [--tokens 512] [--rows 8] [--rank 32]
                                              [--out FILE]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from machine import machine_record
from numpy.typing import NDArray

from trine.export.graphs.builder import CONTRIB, GraphBuilder, Weight
from trine.runtime.libraries import import_onnxruntime

if TYPE_CHECKING:
    import onnxruntime

HIDDEN, QKV, INNER, TASKS = 2048, 2560, 11008, 3
PROJECTIONS = {
    "qkv": (HIDDEN, QKV, 3),
    "o": (HIDDEN, HIDDEN, 1),
    "gate": (HIDDEN, INNER, 1),
    "up": (HIDDEN, INNER, 1),
    "down": (INNER, HIDDEN, 1),
}
Delta = Callable[[GraphBuilder, str, ir.Value, ir.Value], ir.Value]
Feeds = dict[str, NDArray[np.generic]]


def layer(delta: Delta | None, declare: Callable[[GraphBuilder], None]) -> ir.Model:
    """Return the five projections chained as in a layer, each with `delta` added."""
    graph = GraphBuilder("layer")
    x = graph.input("x", ir.DataType.FLOAT, ["tokens", HIDDEN])
    declare(graph)
    rng = np.random.default_rng(0)

    def project(name: str, value: ir.Value) -> ir.Value:
        num_in, num_out, _ = PROJECTIONS[name]
        array = (rng.standard_normal((num_in, num_out)) / num_in**0.5).astype(np.float32)
        weight = graph.weight(Weight(f"{name}.weight", array.shape, lambda: array))
        base = graph.node(name, "MatMul", [value, weight])
        return base if delta is None else delta(graph, name, value, base)

    qkv = project("qkv", x)
    sizes = graph.constant("sizes", [HIDDEN, QKV - HIDDEN])
    head, _ = graph.nodes(["head", "rest"], "Split", [qkv, sizes], {"axis": 1})
    attended = project("o", head)
    gate = graph.node("silu", "QuickGelu", [project("gate", attended)], {"alpha": 1.0}, CONTRIB)
    product = graph.node("product", "Mul", [gate, project("up", attended)])
    return graph.build([(project("down", product), "y", ["tokens", HIDDEN])])


def matrices(rank: int, tasks: int) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return A [tasks, parts × rank, in] and B [tasks, parts × rank, out] of each projection."""
    rng = np.random.default_rng(1)
    return {
        name: (
            (rng.standard_normal((tasks, parts * rank, num_in)) / num_in**0.5).astype(np.float32),
            (rng.standard_normal((tasks, parts * rank, num_out)) * 0.05).astype(np.float32),
        )
        for name, (num_in, num_out, parts) in PROJECTIONS.items()
    }


def stacked(rank: int, task_of_token: NDArray[np.int64]) -> tuple[ir.Model, Feeds]:
    """A masked product over the active adapters' ranks side by side."""
    active = np.unique(task_of_token)
    mask = np.repeat(task_of_token[:, None] == active[None], rank, axis=1)
    feeds: Feeds = {"mask": mask, "mask3": np.repeat(mask.reshape(len(mask), -1, rank), 3, 1)}
    feeds["mask3"] = feeds["mask3"].reshape(len(mask), -1)
    values: dict[str, ir.Value] = {}

    def declare(graph: GraphBuilder) -> None:
        for name in feeds:
            values[name] = graph.input(name, ir.DataType.BOOL, ["tokens", f"{name}_ranks"])
        for name, (a, b) in matrices(rank, TASKS).items():
            for half, array in (("a", a), ("b", b)):
                feeds[f"{name}.{half}"] = array[active].reshape(-1, array.shape[2])
                values[f"{name}.{half}"] = graph.input(
                    f"{name}.{half}", ir.DataType.FLOAT, [f"{name}_ranks", array.shape[2]]
                )

    def delta(graph: GraphBuilder, name: str, x: ir.Value, base: ir.Value) -> ir.Value:
        h = graph.node(f"{name}.h", "Gemm", [x, values[f"{name}.a"]], {"transB": 1})
        mask_name = "mask3" if PROJECTIONS[name][2] == 3 else "mask"
        zero = graph.node("zero" + name, "Cast", [graph.constant("zero_int", [0])], {"to": 1})
        kept = graph.node(f"{name}.kept", "Where", [values[mask_name], h, zero])
        return graph.node(f"{name}.sum", "Gemm", [kept, values[f"{name}.b"], base])

    return layer(delta, declare), feeds


def gathered(rank: int, task_of_row: NDArray[np.int64]) -> tuple[ir.Model, Feeds]:
    """Two batched products with each row's own matrices."""
    rows = len(task_of_row)
    feeds: Feeds = {"task": task_of_row}
    values: dict[str, ir.Value] = {}

    def declare(graph: GraphBuilder) -> None:
        values["task"] = graph.input("task", ir.DataType.INT64, ["rows"])
        for name, (a, b) in matrices(rank, TASKS).items():
            for half, array in (("a", np.ascontiguousarray(a.swapaxes(1, 2))), ("b", b)):
                feeds[f"{name}.{half}"] = array
                values[f"{name}.{half}"] = graph.input(
                    f"{name}.{half}", ir.DataType.FLOAT, list(array.shape)
                )

    def delta(graph: GraphBuilder, name: str, x: ir.Value, base: ir.Value) -> ir.Value:
        num_in, num_out, _ = PROJECTIONS[name]
        shape = graph.constant(f"by_row_{num_in}", [rows, -1, num_in])
        by_row = graph.node(f"{name}.rows", "Reshape", [x, shape])
        a, b = (
            graph.node(f"{name}.{half}.own", "Gather", [values[f"{name}.{half}"], values["task"]])
            for half in "ab"
        )
        h = graph.node(f"{name}.h", "MatMul", [by_row, a])
        y = graph.node(f"{name}.y", "MatMul", [h, b])
        flat = graph.constant(f"flat_{num_out}", [-1, num_out])
        packed = graph.node(f"{name}.flat", "Reshape", [y, flat])
        return graph.node(f"{name}.sum", "Add", [base, packed])

    return layer(delta, declare), feeds


def grouped(rank: int, task_of_token: NDArray[np.int64]) -> tuple[ir.Model, Feeds]:
    """Two products per task on its slice of tokens, which are sorted by task."""
    counts = np.bincount(task_of_token, minlength=TASKS).astype(np.int64)
    feeds: Feeds = {"counts": counts}
    values: dict[str, ir.Value] = {}

    def declare(graph: GraphBuilder) -> None:
        values["counts"] = graph.input("counts", ir.DataType.INT64, [TASKS])
        for name, (a, b) in matrices(rank, TASKS).items():
            for task in range(TASKS):
                for half, array in (("a", a[task]), ("b", b[task])):
                    key = f"{name}.{half}{task}"
                    feeds[key] = array
                    values[key] = graph.input(key, ir.DataType.FLOAT, list(array.shape))

    def delta(graph: GraphBuilder, name: str, x: ir.Value, base: ir.Value) -> ir.Value:
        parts = graph.nodes(
            [f"{name}.part{task}" for task in range(TASKS)],
            "Split",
            [x, values["counts"]],
            {"axis": 0},
        )
        bases = graph.nodes(
            [f"{name}.base{task}" for task in range(TASKS)],
            "Split",
            [base, values["counts"]],
            {"axis": 0},
        )
        sums = []
        for task, (part, start) in enumerate(zip(parts, bases, strict=True)):
            a, b = values[f"{name}.a{task}"], values[f"{name}.b{task}"]
            h = graph.node(f"{name}.h{task}", "Gemm", [part, a], {"transB": 1})
            sums.append(graph.node(f"{name}.y{task}", "Gemm", [h, b, start]))
        return graph.node(f"{name}.sum", "Concat", sums, {"axis": 0})

    return layer(delta, declare), feeds


def session(model: ir.Model) -> "onnxruntime.InferenceSession":
    options = import_onnxruntime().SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    data = ir.to_proto(model).SerializeToString()
    return import_onnxruntime().InferenceSession(data, options, providers=["CPUExecutionProvider"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for flag, default in (("rounds", 15), ("tokens", 512), ("rows", 8), ("rank", 32)):
        parser.add_argument(f"--{flag}", type=int, default=default)
    parser.add_argument("--out", type=Path, help="also write the JSON there")
    arguments = parser.parse_args()
    rows, per_row = arguments.rows, arguments.tokens // arguments.rows
    tasks = {"one task": np.zeros(rows, np.int64), "mixed": np.arange(rows) * TASKS // rows}
    x = np.random.default_rng(2).standard_normal((rows * per_row, HIDDEN)).astype(np.float32)
    variants: dict[str, tuple[onnxruntime.InferenceSession, Feeds]] = {
        "merged": (session(layer(None, lambda graph: None)), {"x": x})
    }
    for mix, row_tasks in tasks.items():
        of_token = np.repeat(row_tasks, per_row)
        for name, (model, feeds) in (
            ("stacked", stacked(arguments.rank, of_token)),
            ("gathered", gathered(arguments.rank, row_tasks)),
            ("grouped", grouped(arguments.rank, of_token)),
        ):
            variants[f"{name}, {mix}"] = (session(model), {"x": x, **feeds})
    check_agreement(variants)
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(arguments.rounds + 1):
        for name, (runner, feeds) in variants.items():
            started = time.perf_counter()
            runner.run(None, feeds)
            times[name].append(time.perf_counter() - started)
    result = {}
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(seconds[1:], times["merged"][1:], strict=True)]
        result[name] = {
            "ms": round(statistics.median(seconds[1:]) * 1000, 2),
            "ratio": round(statistics.median(ratios), 3),
        }
        print(f"{name:<22} {result[name]['ms']:>8.2f} ms  {result[name]['ratio']:.3f} × merged")
    record = {
        "benchmark": "adapter_formulations",
        "tokens": len(x),
        "rows": rows,
        "rank": arguments.rank,
        "rounds": arguments.rounds,
        "results": result,
        **machine_record(),
    }
    print(json.dumps(record))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(record) + "\n", encoding="utf-8")


def check_agreement(variants: dict[str, tuple["onnxruntime.InferenceSession", Feeds]]) -> None:
    """Raise if formulations of the same mix differ by more than rounding."""
    for mix in ("one task", "mixed"):
        outputs = [
            runner.run(None, feeds)[0]
            for name, (runner, feeds) in variants.items()
            if name.endswith(mix)
        ]
        for other in outputs[1:]:
            difference = float(np.abs(other - outputs[0]).max())
            if difference > 1e-3 * float(np.abs(outputs[0]).max()):
                raise RuntimeError(f"formulations differ by {difference} for {mix}")


if __name__ == "__main__":
    main()
