"""What an export is asked for, and what it reports."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trine.runtime.golden import Deviation

__all__ = ["EngineReport", "ExportOptions", "ExportReport"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """One export.

    Attributes:
        source: "nano", a checkpoint folder, or a Hub id.
        bundle: folder to write.
        revision: on the Hub; None for the main branch.
        tasks: to export; None for all the checkpoint has.
        adapters: "merged": one decoder a task, the adapter in its weights; "runtime": one decoder
            for all, with the adapters beside it.
        max_rank: with "runtime", the rank up to which adapters fit; None for the checkpoint's.
        onnx_adapters: with "runtime", also write each adapter in ONNX Runtime's own format.
        precision: of weights and matrix products.
        force: replace a bundle that is there.
        check: run the engine on the golden inputs before the bundle is kept; None does so up to
            `CHECKED_WEIGHT_BYTES` of weights, beyond which it would need more memory than the
            export.
    """

    source: str
    bundle: Path
    revision: str | None = None
    tasks: tuple[str, ...] | None = None
    adapters: Literal["merged", "runtime"] = "merged"
    max_rank: int | None = None
    onnx_adapters: bool = False
    precision: Literal["fp32"] = "fp32"
    force: bool = False
    check: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """What is known of one exported engine.

    Attributes:
        name: of the engine.
        graphs: (path in the bundle, bytes with weights) of each graph.
        deviations: from the reference, or None if the engine was not run.
    """

    name: str
    graphs: tuple[tuple[str, int], ...]
    deviations: tuple[Deviation, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What an export did.

    Attributes:
        bundle: the folder written.
        source_id: of the checkpoint.
        tasks: exported.
        engines: written.
        num_bytes: of the whole bundle.
        seconds: it took.
        peak_bytes: largest resident memory of this process so far.
    """

    bundle: Path
    source_id: str
    tasks: tuple[str, ...]
    engines: tuple[EngineReport, ...]
    num_bytes: int
    seconds: float
    peak_bytes: int
