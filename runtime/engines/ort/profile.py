"""ONNX Runtime's profile of a graph as operators in classes."""

import json
import math
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trine.runtime.engines.base import DecoderInputs
from trine.runtime.engines.ort.session import SessionSettings, open_session, run_session
from trine.runtime.engines.profile import OpClass, OperatorTime
from trine.runtime.preprocessing.vision_inputs import VisionInputs

__all__ = ["CLASSES", "op_class", "operator_times", "profile_graph"]

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


def op_class(op_type: str) -> OpClass:
    """Return the class of an operator."""
    return _BY_OP.get(op_type, "other")


def profile_graph(
    path: Path,
    settings: SessionSettings,
    inputs: VisionInputs | DecoderInputs,
    more: Mapping[str, object],
    runs: int,
) -> list[OperatorTime]:
    """Return the operators of a graph, run in a session of its own with the profiler on.

    Args:
        path: of the graph.
        settings: of the session.
        inputs: whose fields are named as the graph's inputs.
        more: further inputs by name.
        runs: to average over, after one that does not count.

    Raises:
        EngineError: ONNX Runtime refuses the graph.
    """
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(path, settings, profile=Path(folder) / "profile")
        for _ in range(runs + 1):
            run_session(session, inputs, more)
        profile = Path(session.end_profiling())
        return operator_times(json.loads(profile.read_text(encoding="utf-8")), runs)


def operator_times(events: Sequence[dict[str, Any]], runs: int) -> list[OperatorTime]:
    """Return the operators of the last runs in a profile, each divided by their number.

    Args:
        events: ONNX Runtime's.
        runs: the last so many count; earlier ones warmed up.
    """
    ends = [event["ts"] for event in events if event.get("name") == "model_run"]
    first = sorted(ends)[-runs] if len(ends) >= runs else -math.inf
    seconds: defaultdict[str, float] = defaultdict(float)
    operations: defaultdict[str, int] = defaultdict(int)
    for event in _kernel_events(events):
        if event["ts"] < first:
            continue
        op_type = event["args"]["op_name"]
        seconds[op_type] += event["dur"] * MICROSECOND
        if op_class(op_type) == "GEMM":
            operations[op_type] += _gemm_operations(event["args"])
    return [
        OperatorTime(
            kind=op_class(op_type),
            operator=op_type,
            seconds=total / runs,
            operations=operations[op_type] // runs,
        )
        for op_type, total in seconds.items()
    ]


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
