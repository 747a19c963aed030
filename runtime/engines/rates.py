"""Rates of engines by kind of processor as they were measured, and an order where none was."""

from collections.abc import Mapping, Sequence

from trine.kernels.cpu.library import has_amx, load_library, why_unavailable
from trine.runtime.bundle.manifest import EngineEntry
from trine.runtime.bundle.precision import EnginePrecision

__all__ = ["MEASURED", "fastest", "kind_of_processor", "rate_of"]

#: Runner and precision.
Kind = tuple[str, EnginePrecision]
#: The kind of a processor whose AMX tiles ONNX Runtime uses and the kernels here do not.
TILES_UNUSED = "AMX without kernels for it"
#: Tokens a second of two cores on 4 texts of 512 tokens, 4 layers of the published widths, by
#: `kind_of_processor`. Rates of one row were measured together; those of two are not comparable.
MEASURED: Mapping[str, Mapping[Kind, int]] = {
    # AMD Zen 3, shared with other work (docs/speed.md).
    "avx2": {("native", "int8"): 173, ("onnxruntime", "int8"): 147, ("onnxruntime", "fp32"): 98},
    # AMD Zen 4 (benchmarks/results/2026-11-25-epyc-zen4-2cpu-slice.md).
    "avx512_bf16": {("native", "int8"): 1236, ("onnxruntime", "int8"): 909},
    # Intel Xeon with AMX (family 6, model 207), before there were kernels for its tiles.
    TILES_UNUSED: {("onnxruntime", "int8"): 1869, ("native", "int8"): 1528},
}
#: From the quickest to the slowest, where nothing was measured: fewer bits are fewer bytes and more
#: products an instruction, but those of 4 bits are widened first.
ORDER: tuple[EnginePrecision, ...] = ("fp8", "int8", "int4", "bf16", "fp16", "fp32")
PORTABLE = "portable"
#: Beginnings of kinds whose kernels are not known to be faster than ONNX Runtime.
UNTRIED = (PORTABLE, "neon")


def kind_of_processor() -> str:
    """Return the row of `MEASURED` that this processor belongs to, which may not be there.

    It is the instruction set of the kernels that are taken, or `TILES_UNUSED`.

    Raises:
        CpuLevelError: `TRINE_CPU` names an instruction set that is unknown or not here.
    """
    if why_unavailable() is not None:
        return PORTABLE
    level = load_library().level
    return TILES_UNUSED if level not in ("amx", PORTABLE) and has_amx() else level


def rate_of(entry: EngineEntry, kind: str) -> int | None:
    """Return the tokens a second an engine reached on a kind of processor; None: not measured."""
    return MEASURED.get(kind, {}).get((entry.runner, entry.precision))


def fastest(entries: Sequence[EngineEntry], kind: str) -> EngineEntry:
    """Return the engine with the highest rate if all have one, else the first by `ORDER`.

    Of one precision the kernels here come before ONNX Runtime, unless they are those in plain C++
    or for ARM: there nobody has measured which is faster, and `trine tune` does.

    Args:
        entries: at least one; of equals the first.
        kind: of processor.
    """
    rates = [rate_of(entry, kind) for entry in entries]
    known = [rate for rate in rates if rate is not None]
    if len(known) == len(entries):
        return entries[rates.index(max(known))]

    def place(entry: EngineEntry) -> tuple[int, bool]:
        native = entry.runner == "native"
        return ORDER.index(entry.precision), native if kind.startswith(UNTRIED) else not native

    return min(entries, key=place)
