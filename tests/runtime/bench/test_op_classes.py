"""Profiles are added up by class of operator."""

import json
from pathlib import Path

import pytest

from trine.runtime.bench.op_classes import CLASSES, class_times, op_class


def event(op: str, duration: int, inputs: list[list[int]], output: list[int]) -> dict[str, object]:
    shapes = [{"float": shape} for shape in inputs]
    args = {"op_name": op, "input_type_shape": shapes, "output_type_shape": [{"float": output}]}
    return {"cat": "Node", "name": f"{op}_1_kernel_time", "dur": duration, "args": args}


def test_times_and_operations_are_per_run_and_other_events_do_not_count(tmp_path: Path) -> None:
    product = event("MatMul", 3000, [[4, 8], [8, 16]], [4, 16])
    events = [
        *(product, product),
        event("Add", 500, [[4, 16], [16]], [4, 16]),
        {"cat": "Session", "name": "model_run", "dur": 9000, "args": {}},
        {
            "cat": "Node",
            "name": "MatMul_1_fence_before",
            "dur": 9000,
            "args": {"op_name": "MatMul"},
        },
    ]
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(events))
    gemm, elementwise = class_times(path, runs=2)
    assert gemm.name == "GEMM"
    assert gemm.seconds == pytest.approx(0.003)
    assert gemm.operations == 2 * 4 * 8 * 16
    assert elementwise.name == "elementwise"
    assert elementwise.seconds == pytest.approx(0.00025)
    assert elementwise.operations == 0


def test_every_operator_has_one_class() -> None:
    names = [name for names in CLASSES.values() for name in names]
    assert len(names) == len(set(names))
    assert op_class("NoSuchOperator") == "other"
