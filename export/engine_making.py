"""Makes the engines of a bundle: plans each one's precision, writes it, measures it, judges it."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trine.export.calibration_run import (
    CalibrationRun,
    affordable_size,
    choose_affordable,
    max_probe_tokens,
)
from trine.export.engine_files import DEVICES, EngineSource, engine_bytes, write_engine
from trine.export.golden_inputs import golden_inputs
from trine.export.options import EngineMeasurement, EngineReport, NarrowLayers
from trine.export.parity import (
    check_float32,
    measure_engine,
    set_tolerance,
)
from trine.export.plan_refinement import (
    ImitatedLoss,
    Probing,
    RefinedPlan,
    imitate,
    refine_plan,
)
from trine.export.precision_floors import (
    FLOORS,
    TARGETS,
    Floor,
    FloorCheck,
    asked_floor,
    loss_scale,
)
from trine.export.precision_plan import EnginePlan, plan_engine
from trine.export.reference import Reference, ReferenceInput
from trine.export.reference_pass import ReferencePass
from trine.export.trt.bundle_engines import trt_entry, trt_name
from trine.export.trt.graph_files import write_trt_graphs
from trine.export.trt.graph_plans import FLOOR_OF, NARROW, TrtPlans, plan_trt
from trine.export.trt.plan import TensorRtPrecision
from trine.runtime.bundle import Bundle
from trine.runtime.manifest import EngineEntry
from trine.runtime.precision import Precision
from trine.runtime.tokenizer import TextTokenizer

__all__ = [
    "CHECKED_WEIGHT_BYTES",
    "TIGHTNESS",
    "EngineMaker",
    "MadeEngine",
    "PlannedTrt",
    "graph_bytes",
]

#: Targets of the plans that are tried for an engine that comes out below its floor: inputs that
#: were not tried in planning may lose much more than those that were.
TIGHTNESS = (1.0, 0.1, 0.01)

#: How much nearer to their floor plans of large models may come: wide layers average errors out, so
#: inputs that were not tried lose about what those lose that were. The engine is measured anyway.
LARGE_MODEL_ROOM = 1.75

#: Engines up to this size are run as they will be in use before the bundle is kept. Larger ones
#: would take more memory than the export itself: they are run from mapped files, or, in float32,
#: not at all.
CHECKED_WEIGHT_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class MadeEngine:
    """An engine's entry, or None if it is below its floor and was not kept, and its report."""

    entry: EngineEntry | None
    report: EngineReport


@dataclass(frozen=True, slots=True)
class PlannedTrt:
    """Plans of graphs for TensorRT.

    Attributes:
        refined: the plans, and what their imitation loses of golden inputs.
        below: why they are below their precision's usual floor; empty if they are not.
        refused: why they are below the floor that was asked for.
    """

    refined: RefinedPlan[TrtPlans]
    below: tuple[str, ...]
    refused: tuple[str, ...]


class EngineMaker:
    """Makes engines of one checkpoint into one bundle.

    Args:
        source: of the weights.
        reference: what the float32 reference made of golden inputs, of calibration inputs unless
            only float32 is to be made, and of the corpus if engines are to be checked.
        check: whether to run engines; None for all but float32 beyond `CHECKED_WEIGHT_BYTES`.
        allow_below_floor: keep engines that are below their floor.
        min_cosine: in place of the floors' mean cosine; None for the floors' own.
    """

    def __init__(
        self,
        source: EngineSource,
        reference: ReferencePass,
        *,
        check: bool | None,
        allow_below_floor: bool,
        min_cosine: float | None = None,
    ) -> None:
        self._source = source
        self._golden = reference.golden
        self._calibration = reference.calibration
        self._corpus = reference.corpus
        self._check = check
        self._allow_below_floor = allow_below_floor
        self._min_cosine = min_cosine
        self._reference = Reference(source.checkpoint, source.adapters)

    def plan(
        self, precision: Precision, tightness: float, step: Callable[[int], None]
    ) -> RefinedPlan[EnginePlan]:
        """Return the plan of an engine, and what its imitation loses.

        Args:
            precision: of the engine.
            tightness: of the target; 1 for the usual one, smaller for less loss.
            step: called with 1 after each layer of the reference.
        """
        if precision == "fp32" or self._calibration is None:
            return RefinedPlan(plan_engine("fp32", {}), None)
        if tightness == TIGHTNESS[0] and self._is_large and self._will_run(precision):
            # Running the engine says more, sooner, than imitating so large a model.
            return RefinedPlan(plan_engine(precision, self._calibration.scan.ranges), None)
        return refine_plan(
            plan_engine(precision, self._calibration.scan.ranges),
            self._probing(self._calibration),
            TARGETS[precision].times(tightness * self._room * self._scale(precision)),
            step,
        )

    def plan_tensorrt(
        self, precision: TensorRtPrecision, tokenizer: TextTokenizer, step: Callable[[int], None]
    ) -> PlannedTrt:
        """Return the plan of graphs for TensorRT.

        Nothing here runs these graphs, so they are judged by imitation, on the golden inputs too,
        from which neither ranges nor plans are made.

        Args:
            precision: asked for.
            tokenizer: of the bundle.
            step: called with 1 after each layer of the reference.

        Raises:
            ValueError: there are no calibration inputs.
        """
        if self._calibration is None:
            raise ValueError("graphs for TensorRT are planned from calibration inputs")
        probing = self._probing(self._calibration)
        held_out = golden_inputs(probing.model, tokenizer, self._source.tasks)
        singles = np.stack([self._golden.vectors[f"{key}/single"] for key in held_out.keys])
        golden = dataclasses.replace(probing, inputs=held_out.inputs, singles=singles)
        of = FLOOR_OF[precision]
        scale = self._scale(of)
        for tightness in TIGHTNESS:
            ranges = self._calibration.scan.ranges
            refined = plan_trt(precision, ranges, probing, tightness * scale, step)
            judged = imitate(golden, refined.plan, step)
            refused = _trt_problems(self._floor(of), golden.inputs, judged)
            if not refused:
                break
        below = _trt_problems(FLOORS[of], golden.inputs, judged)
        return PlannedTrt(RefinedPlan(refined.plan, judged), below, refused)

    def write_tensorrt(
        self,
        precision: TensorRtPrecision,
        planned: PlannedTrt,
        folder: Path,
    ) -> MadeEngine:
        """Write graphs for TensorRT, unless they are below their floor and that is not allowed.

        Args:
            precision: asked for.
            planned: their plan.
            folder: of the bundle.

        Raises:
            CheckpointError: a weight is not finite.
        """
        name, source, refined = trt_name(precision), self._source, planned.refined
        written = not planned.refused or self._allow_below_floor
        graphs: Mapping[str, Path] = {}
        entry = None
        if written:
            place = folder / "engines" / name
            place.mkdir()
            graphs = write_trt_graphs(
                source.checkpoint, source.adapters, source.tasks, source.layout, refined.plan, place
            )
            entry = dataclasses.replace(
                trt_entry(precision, source, refined.plan, graphs, folder),
                below_floor=bool(planned.below),
            )
        report = EngineReport(
            name=name,
            precision=precision,
            graphs=tuple((f"engines/{name}/{p.name}", graph_bytes(p)) for p in graphs.values()),
            wider=refined.plan.wider,
            narrow=self._narrow_layers(precision, refined.plan),
            imitated=refined.imitated,
            measured=None,
            below_floor=planned.refused or planned.below,
            written=written,
        )
        return MadeEngine(entry, report)

    def _narrow_layers(self, precision: TensorRtPrecision, plan: TrtPlans) -> NarrowLayers | None:
        if precision not in NARROW or self._calibration is None:
            return None
        return NarrowLayers(
            count=plan.num_quantised,
            total=len(self._calibration.scan.ranges),
            min_cosine=self._floor(FLOOR_OF[precision]).mean_cosine,
        )

    @property
    def _is_large(self) -> bool:
        return affordable_size(self._source.checkpoint.config) == "brief"

    @property
    def _room(self) -> float:
        return LARGE_MODEL_ROOM if self._is_large else 1.0

    def _scale(self, precision: Precision) -> float:
        return loss_scale(precision, self._min_cosine)

    def _floor(self, precision: Precision) -> Floor:
        return asked_floor(precision, self._min_cosine)

    def _will_run(self, precision: Precision) -> bool:
        """Return whether a narrow engine is run before it is kept."""
        return self._check is not False and "cpu" in DEVICES[precision]

    def _probing(self, calibration: CalibrationRun) -> Probing:
        model = self._source.checkpoint.config
        chosen = choose_affordable(calibration.inputs, model)
        return Probing(
            reference=self._reference,
            model=model,
            inputs=[calibration.inputs[index] for index in chosen],
            singles=calibration.singles[list(chosen)],
            max_probe_tokens=max_probe_tokens(model),
        )

    def engine_bytes(self, precision: Precision) -> int:
        """Return about how many bytes the graphs of an engine will take."""
        return engine_bytes(self._source, precision)

    def make(
        self,
        precision: Precision,
        refined: RefinedPlan[EnginePlan],
        bundle: Bundle,
        written: Callable[[int], None],
        keep_below_floor: bool,
    ) -> MadeEngine:
        """Write one engine, measure it, and remove it again if it is below its floor.

        Args:
            precision: of the engine.
            refined: its plan, and what the plan's imitation loses.
            bundle: to write it into; its manifest need not name this engine.
            written: called with the size in bytes of each tensor.
            keep_below_floor: whether it may be kept all the same, if the maker allows that.

        Raises:
            BundleError: a float32 engine is off.
        """
        folder, plan, imitated = bundle.folder, refined.plan, refined.imitated
        entry = write_engine(self._source, precision, plan, folder, written)
        graphs = (entry.vision, *dict.fromkeys(entry.decoders.values()))
        sizes = tuple((name, graph_bytes(folder / name)) for name in graphs)
        measured = None
        runs_here = "cpu" in entry.devices
        small = entry.weight_bytes <= CHECKED_WEIGHT_BYTES
        # A narrow engine's distance from float32 must be known, whatever its size.
        usual = small or precision != "fp32"
        if runs_here and (usual if self._check is None else self._check):
            measured = self._measure(bundle, entry, mapped=not small)
        below = _problems(FLOORS[precision], measured, imitated)
        refused = _problems(self._floor(precision), measured, imitated)
        kept = not refused or (keep_below_floor and self._allow_below_floor)
        if not kept:
            shutil.rmtree((folder / entry.vision).parent)
        entry = dataclasses.replace(set_tolerance(entry, measured), below_floor=bool(below))
        return MadeEngine(
            entry if kept else None,
            EngineReport(
                name=entry.name,
                precision=precision,
                graphs=sizes,
                wider=plan.wider,
                imitated=imitated,
                measured=measured,
                below_floor=refused or below,
                written=kept,
            ),
        )

    def _measure(self, bundle: Bundle, entry: EngineEntry, mapped: bool) -> EngineMeasurement:
        if entry.precision == "fp32":
            found = measure_engine(bundle, entry, None, mapped)
            check_float32(entry, found)
            return found
        return measure_engine(bundle, entry, self._corpus, mapped)


def _problems(
    floor: Floor, measured: EngineMeasurement | None, imitated: ImitatedLoss | None
) -> tuple[str, ...]:
    """Return why an engine is below its floor: as measured, or as imitated where it was not run."""
    if measured is not None and measured.vectors:
        rows = [row for row in measured.vectors if row.head == "single"]
        return FloorCheck.of(
            floor,
            [row.mean for row in rows],
            [row.worst for row in rows],
            [row.ndcg_at_10 for row in measured.rankings if row.head == "multi"],
        ).problems
    if measured is None and imitated is not None:
        return FloorCheck.of(floor, [1 - imitated.mean], [1 - imitated.worst]).problems
    return ()


def _trt_problems(
    floor: Floor, inputs: Sequence[ReferenceInput], judged: ImitatedLoss
) -> tuple[str, ...]:
    """Return why imitated graphs are below their floor, texts and pictures apart."""
    kinds: dict[bool, list[float]] = {}
    for item, loss in zip(inputs, judged.losses, strict=True):
        kinds.setdefault(bool(item.sequence.images), []).append(1 - loss)
    means = [sum(found) / len(found) for found in kinds.values()]
    return FloorCheck.of(floor, means, [min(f) for f in kinds.values()]).problems


def graph_bytes(path: Path) -> int:
    """Return the size in bytes of a graph with its weights."""
    return path.stat().st_size + path.with_suffix(".data").stat().st_size
