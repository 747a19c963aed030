"""Operators are added up by class, most time first."""

import pytest

from trine.runtime.commands.bench.op_classes import class_times
from trine.runtime.engines.profile import OpClass, OperatorTime


def operator(kind: OpClass, name: str, seconds: float, operations: int = 0) -> OperatorTime:
    return OperatorTime(kind=kind, operator=name, seconds=seconds, operations=operations)


def test_classes_hold_their_operators_most_first() -> None:
    norms, gemm = class_times(
        [
            operator("GEMM", "linear", 1.0, 60),
            operator("norms", "rms", 4.0),
            operator("GEMM", "gate and up", 2.0, 40),
        ]
    )
    assert (norms.name, norms.seconds, norms.operations) == ("norms", 4.0, 0)
    assert (gemm.name, gemm.operations) == ("GEMM", 100)
    assert gemm.seconds == pytest.approx(3.0)
    assert list(gemm.operators) == ["gate and up", "linear"]
