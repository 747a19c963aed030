"""ONNX Runtime's profiles become operators with their class, per run, without the warm-up."""

import pytest

from trine.runtime.engines.ort.profile import CLASSES, op_class, operator_times

Event = dict[str, object]


def kernel(op: str, at: int, duration: int, output: list[int]) -> Event:
    shapes = [{"float": [4, 8]}, {"float": [8, 16]}]
    args = {"op_name": op, "input_type_shape": shapes, "output_type_shape": [{"float": output}]}
    return {
        "cat": "Node",
        "name": f"{op}_1_kernel_time",
        "ts": at,
        "dur": duration,
        "args": args,
    }


def run(at: int) -> Event:
    return {"cat": "Session", "name": "model_run", "ts": at, "dur": 90, "args": {}}


def test_times_and_operations_are_per_run_and_other_events_do_not_count() -> None:
    fence = {"cat": "Node", "name": "MatMul_1_fence_before", "ts": 30, "dur": 9000, "args": {}}
    events = [
        *(run(0), kernel("MatMul", 1, 700000, [4, 16])),  # the warm-up
        *(run(20), kernel("MatMul", 21, 3000, [4, 16]), kernel("Add", 22, 500, [4, 16]), fence),
        *(run(40), kernel("MatMul", 41, 3000, [4, 16])),
    ]
    product, addition = operator_times(events, runs=2)
    assert (product.kind, product.operator) == ("GEMM", "MatMul")
    assert product.seconds == pytest.approx(0.003)
    assert product.operations == 2 * 4 * 8 * 16
    assert (addition.kind, addition.operations) == ("elementwise", 0)
    assert addition.seconds == pytest.approx(0.00025)


def test_every_operator_has_one_class() -> None:
    names = [name for names in CLASSES.values() for name in names]
    assert len(names) == len(set(names))
    assert op_class("NoSuchOperator") == "other"
