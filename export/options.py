"""What an export is asked for, and what it reports."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trine.export.plan_refinement import ImitatedLoss
from trine.export.rank_agreement import RankAgreement, VectorAgreement
from trine.runtime.golden import Deviation
from trine.runtime.precision import Precision, WiderTensor

__all__ = [
    "EngineMeasurement",
    "EngineReport",
    "ExportOptions",
    "ExportReport",
    "TensorRtPrecision",
]


#: Precisions of graphs for TensorRT; fp8 needs compute capability 8.9.
TensorRtPrecision = Literal["bf16", "fp16", "int8", "fp8"]


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
        precisions: of the engines to write, the preferred one first.
        force: replace a bundle that is there.
        check: run the engines before the bundle is kept; None does so but for float32 engines of
            more than `CHECKED_WEIGHT_BYTES`, which would need more memory than the export and
            are the reference's own arithmetic.
        calibration: file or folder of inputs that decide ranges and layers kept wider; None for
            the built-in ones.
        allow_below_floor: write engines that are further from float32 than their precision may
            be, marked so.
        tensorrt: precisions of graphs for TensorRT to write beside the engines, for `trine build`.
    """

    source: str
    bundle: Path
    revision: str | None = None
    tasks: tuple[str, ...] | None = None
    adapters: Literal["merged", "runtime"] = "merged"
    max_rank: int | None = None
    onnx_adapters: bool = False
    precisions: tuple[Precision, ...] = ("fp32",)
    force: bool = False
    check: bool | None = None
    calibration: Path | None = None
    allow_below_floor: bool = False
    tensorrt: tuple[TensorRtPrecision, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMeasurement:
    """What running an engine showed.

    Attributes:
        deviations: from the golden vectors.
        vectors, rankings: agreement with float32 on the built-in corpus; empty if it was left out.
        load_s: longest load of a task's decoder, in seconds.
        resident_bytes: by which this process grew.
        mapped: whether the engine ran from memory-mapped files, each graph given back after its
            run: slower and in less memory than where it is loaded to stay.
        tokens_per_s: texts and pictures of the corpus, or None if it was left out.
    """

    deviations: tuple[Deviation, ...]
    vectors: tuple[VectorAgreement, ...]
    rankings: tuple[RankAgreement, ...]
    load_s: float
    resident_bytes: int
    mapped: bool
    tokens_per_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """What is known of one exported engine.

    Attributes:
        name: of the engine.
        precision: of the engine.
        graphs: (path in the bundle, bytes with weights) of each graph.
        wider: what is kept wider than asked for.
        imitated: what its rounding loses in the reference; None for float32.
        measured: by running it, or None if it was not run.
        below_floor: why it is further from float32 than its precision may be; empty if it is not.
        written: whether it is in the bundle.
    """

    name: str
    precision: Precision
    graphs: tuple[tuple[str, int], ...]
    wider: tuple[WiderTensor, ...]
    imitated: ImitatedLoss | None
    measured: EngineMeasurement | None
    below_floor: tuple[str, ...]
    written: bool


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
