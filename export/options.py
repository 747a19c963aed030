"""Options of an export, and its report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from trine.export.accuracy.rank_agreement import RankAgreement, VectorAgreement
from trine.export.bundle.engine_files import DEVICES
from trine.export.graphs.trt.precision import TensorRtPrecision
from trine.export.quantisation.plan_refinement import PlanLoss
from trine.runtime.bundle.golden import Deviation
from trine.runtime.bundle.manifest import EngineEntry
from trine.runtime.bundle.precision import Precision, PrecisionOverride
from trine.runtime.errors import InputError

__all__ = [
    "EngineMeasurement",
    "EngineReport",
    "ExportOptions",
    "ExportReport",
    "MadeEngine",
    "QuantisedLayers",
    "TensorRtPrecision",
    "chosen_precisions",
]


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
        min_cosine: least mean cosine with float32 of engines narrower than that, in place of their
            precisions' own; what single vectors and rankings may lose goes with it. Plans aim
            there, and an engine that reaches it is written, marked if it is below its usual
            threshold.
        allow_below_threshold: write engines that are further from float32 than their precision may
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
    min_cosine: float | None = None
    allow_below_threshold: bool = False
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
        tokens_per_s: texts and images of the corpus, or None if it was left out.
    """

    deviations: tuple[Deviation, ...]
    vectors: tuple[VectorAgreement, ...]
    rankings: tuple[RankAgreement, ...]
    load_s: float
    resident_bytes: int
    mapped: bool
    tokens_per_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantisedLayers:
    """How many linear layers have fewer than 16 bits.

    Attributes:
        count: of them.
        total: of linear layers.
        min_cosine: mean cosine that the plan was to keep.
    """

    count: int
    total: int
    min_cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """What is known of one exported engine.

    Attributes:
        name: of the engine.
        precision: of the engine.
        graphs: (path in the bundle, bytes with weights) of each graph.
        wider: what is kept wider than asked for.
        quantised: layers in fewer than 16 bits, of graphs for TensorRT that were asked to have
            some; None for other engines.
        plan_loss: of its plan, fake-quantised in the reference; None for float32.
        measured: by running it, or None if it was not run.
        below_floor: why it is further from float32 than was asked for, or, if it is not, than its
            precision may be; empty if it is neither.
        written: whether it is in the bundle.
    """

    name: str
    precision: Precision | TensorRtPrecision
    graphs: tuple[tuple[str, int], ...]
    wider: tuple[PrecisionOverride, ...]
    quantised: QuantisedLayers | None = None
    plan_loss: PlanLoss | None
    measured: EngineMeasurement | None
    below_floor: tuple[str, ...]
    written: bool


@dataclass(frozen=True, slots=True)
class MadeEngine:
    """An engine's entry, or None if it is below its threshold and was not kept, and its report."""

    entry: EngineEntry | None
    report: EngineReport


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
        peak_bytes: largest resident memory of this process so far; None where nothing says it.
        notes: what was taken for granted and should be looked at, a sentence each.
    """

    bundle: Path
    source_id: str
    tasks: tuple[str, ...]
    engines: tuple[EngineReport, ...]
    num_bytes: int
    seconds: float
    peak_bytes: int | None
    notes: tuple[str, ...] = ()


def chosen_precisions(
    target: str, names: Sequence[str] | None
) -> tuple[tuple[Precision, ...], tuple[TensorRtPrecision, ...]]:
    """Return the precisions of ONNX Runtime's engines and of TensorRT's graphs.

    A bundle for TensorRT also has a float32 engine, which runs and is verified anywhere.

    Args:
        target: "cpu", "cuda", "tensorrt" or "tensorrt-rtx"; the last two take the same graphs.
        names: of the precisions asked for; None or none for the target's default.

    Raises:
        InputError: the target does not run one of them.
    """
    if target in ("tensorrt", "tensorrt-rtx"):
        known: tuple[TensorRtPrecision, ...] = get_args(TensorRtPrecision)
        _check_known(target, names or (), known)
        chosen = dict.fromkeys(names or ("bf16",))
        return ("fp32",), tuple(k for name in chosen for k in known if k == name)
    # bf16 may be written on the way to a GPU without saying so; int8 for CUDA would run nowhere.
    runnable = tuple(p for p, devices in DEVICES.items() if target in devices or target == "cpu")
    _check_known(target, names or (), runnable)
    chosen = dict.fromkeys(names or ("fp32",))
    return tuple(p for name in chosen for p in runnable if p == name), ()


def _check_known(target: str, names: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(
            f"--precision {unknown[0]} does not run on --target {target}; choose one of "
            f"{', '.join(known)}"
        )
