"""Finds the engines of a bundle that the native kernels can run, and names them.

A graph in 8 bits can be run by ONNX Runtime or by the kernels of `trine.kernels.cpu`, from the same
files; one in bfloat16, of which ONNX Runtime has no products on a processor, by the kernels alone.
The bundle lists the former, say "ort-int8"; "native-int8" is the latter. Both compute alike but for
attention, whose factors the kernels round to bfloat16 where the processor multiplies those,
unless the layer's q, k and v are kept in float32: values and weights always, queries and keys where
that moves no score by more than rounding a layer to 8 bits does.
"""

import dataclasses
from collections.abc import Collection

from trine.kernels.cpu.library import is_compiled, load_library, why_unavailable
from trine.runtime.bundle.manifest import EngineEntry
from trine.runtime.bundle.precision import GraphPrecision, Number, PrecisionMap
from trine.runtime.engines.rates import fastest, kind_of_processor

__all__ = [
    "misses_kernels",
    "native_entry",
    "prefers_native",
    "runs_here",
    "tested_entry",
    "why_not_native",
]

#: Of engines that the kernels run.
PRECISIONS = ("int8", "bf16")
ORT_PREFIX, NATIVE_PREFIX = "ort-", "native-"


def native_entry(entry: EngineEntry) -> EngineEntry | None:
    """Return the entry by which the native kernels run the graphs of `entry`, if they can."""
    if entry.runner != "onnxruntime" or why_not_native(entry) is not None:
        return None
    name = NATIVE_PREFIX + entry.name.removeprefix(ORT_PREFIX)
    return dataclasses.replace(
        entry,
        name=name,
        runner="native",
        devices=("cpu",),
        precision_map=_as_computed(entry.precision_map),
    )


def tested_entry(entry: EngineEntry) -> EngineEntry | None:
    """Return the entry to test an engine's graphs by on this processor; None if nothing runs them.

    ONNX Runtime where it can, for it computes as the graph says.
    """
    if "cpu" in entry.devices:
        return entry
    native = native_entry(entry)
    return native if native is not None and runs_here(native) else None


def prefers_native(entry: EngineEntry) -> bool:
    """Return whether the native kernels are the better choice for `entry` on this machine.

    Raises:
        CpuLevelError: `TRINE_CPU` names an instruction set that is unknown or not here.
    """
    native = native_entry(entry)
    if native is None or why_unavailable() is not None:
        return False
    return "cpu" not in entry.devices or fastest((native, entry), kind_of_processor()) == native


def misses_kernels(features: Collection[str]) -> bool:
    """Return whether the kernels were not compiled, and would be the better choice here.

    Args:
        features: of the processor, as `trine.runtime.hardware.cpu.FEATURES` has them.
    """
    return not is_compiled() and "avx2" in features and "amx_int8" not in features


def runs_here(entry: EngineEntry) -> bool:
    """Return whether this machine's processor can run an engine."""
    return "cpu" in entry.devices and (entry.runner != "native" or why_unavailable() is None)


def why_not_native(entry: EngineEntry) -> str | None:
    """Return in one sentence why no native kernel runs an engine's graphs; None if they do."""
    if entry.precision not in PRECISIONS:
        return (
            f"engine {entry.name} is {entry.precision}, and the native kernels run "
            f"{' and '.join(PRECISIONS)} only"
        )
    for name, graph in entry.precision_map.graphs():
        problem = _unsupported(graph)
        if problem is not None:
            return f"the {name} graph of engine {entry.name} has {problem}, without a native kernel"
    return None


def _as_computed(precision: PrecisionMap) -> PrecisionMap:
    if why_unavailable() is not None:
        return precision
    attention: Number = "bf16" if load_library().bfloat16 else "fp32"
    vision, decoder = (
        dataclasses.replace(graph, attention=attention, swiglu="fp32")
        for graph in (precision.vision, precision.decoder)
    )
    return dataclasses.replace(precision, vision=vision, decoder=decoder)


def _unsupported(graph: GraphPrecision) -> str | None:
    if {graph.attention, graph.swiglu} - {"fp32", "bf16"}:
        return f"attention in {graph.attention} and silu(gate) · up in {graph.swiglu}"
    for precision in (*graph.linears.values(), *(wider.precision for wider in graph.wider)):
        if (
            precision.weight not in ("int8", "bf16", "fp32")
            or precision.activation != precision.weight
        ):
            return f"layers with {precision.weight} weights and {precision.activation} inputs"
    return None
