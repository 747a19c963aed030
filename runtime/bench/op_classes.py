"""ONNX Runtime's profile of a graph, added up by class of operator."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["CLASSES", "ClassTime", "OpClass", "class_times", "op_class"]

OpClass = Literal[
    "GEMM", "attention", "quantisation", "norms", "elementwise", "gather and layout", "other"
]
#: Operators of each class. ONNX Runtime fuses and renames; what is not here is "other".
CLASSES: Mapping[OpClass, tuple[str, ...]] = {
    "GEMM": (
        *("MatMul", "Gemm", "FusedMatMul", "FusedGemm", "MatMulInteger", "MatMulNBits"),
        *("MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm", "QLinearMatMul", "Conv"),
    ),
    "attention": (
        *("GroupQueryAttention", "MultiHeadAttention", "Attention", "RotaryEmbedding"),
        *("PackedMultiHeadAttention", "Softmax"),
    ),
    "quantisation": (
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ReduceMax", "Abs"),
        "Max",
    ),
    "norms": (
        *("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"),
        *("LayerNormalization", "RMSNormalization"),
    ),
    "elementwise": (
        *("Add", "Sub", "Mul", "Div", "QuickGelu", "Gelu", "Silu", "Sigmoid", "Where", "Cast"),
        *("FastGelu", "BiasGelu", "Clip", "Round"),
    ),
    "gather and layout": (
        *("Gather", "Reshape", "Transpose", "Split", "Concat", "Slice", "Pad", "Squeeze"),
        *("Unsqueeze", "Expand", "Shape", "ScatterND", "Identity", "ReorderInput", "ReorderOutput"),
    ),
}
_BY_OP = {name: kind for kind, names in CLASSES.items() for name in names}
MICROSECOND = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassTime:
    """What one class of operators took.

    Attributes:
        name: of the class.
        seconds: of all its operators, in one run.
        operations: multiplications and additions of matrix products; 0 for other classes.
        operators: seconds by operator, most first.
    """

    name: OpClass
    seconds: float
    operations: int
    operators: Mapping[str, float]


def op_class(op_type: str) -> OpClass:
    """Return the class of an operator."""
    return _BY_OP.get(op_type, "other")


def class_times(profile: Path, runs: int) -> list[ClassTime]:
    """Return the classes of a profile, most time first, each divided by the number of runs.

    Args:
        profile: the JSON that ONNX Runtime wrote.
        runs: that it covers.
    """
    seconds: defaultdict[OpClass, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    operations: defaultdict[OpClass, int] = defaultdict(int)
    for event in _kernel_events(json.loads(profile.read_text(encoding="utf-8"))):
        op_type = event["args"]["op_name"]
        kind = op_class(op_type)
        seconds[kind][op_type] += event["dur"] * MICROSECOND / runs
        if kind == "GEMM":
            operations[kind] += _gemm_operations(event["args"])
    found = [
        ClassTime(
            name=kind,
            seconds=sum(by_op.values()),
            operations=operations[kind] // runs,
            operators=dict(sorted(by_op.items(), key=lambda item: -item[1])),
        )
        for kind, by_op in seconds.items()
    ]
    return sorted(found, key=lambda entry: -entry.seconds)


def _kernel_events(events: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the events that are an operator's own work."""
    for event in events:
        if event.get("cat") == "Node" and event.get("name", "").endswith("_kernel_time"):
            yield event


def _gemm_operations(args: Mapping[str, Any]) -> int:
    """Return 2·M·K·N of a product [.., M, K] · [K, N] from the shapes that the profile has."""
    inputs, outputs = args.get("input_type_shape"), args.get("output_type_shape")
    if not inputs or not outputs:
        return 0
    (first,), (output,) = inputs[0].values(), outputs[0].values()
    return 2 * math.prod(output) * first[-1] if first else 0
