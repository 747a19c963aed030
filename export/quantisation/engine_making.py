"""Makes the engines of a bundle: plans each one's precision, writes it, measures it, judges it."""

import shutil
from collections.abc import Callable

from trine.export.accuracy.parity import UNMEASURED, check_float32, measure_engine, tolerance_of
from trine.export.accuracy.thresholds import (
    PROCESSOR_TARGETS,
    THRESHOLDS,
    AccuracyThreshold,
    ThresholdCheck,
)
from trine.export.bundle.engine_files import (
    DEVICES,
    engine_bytes,
    engine_entry,
    graph_bytes,
    ort_kind,
    ort_models,
    save_graphs,
)
from trine.export.options import EngineMeasurement, EngineReport, MadeEngine
from trine.export.quantisation.plan_refinement import PlanLoss, RefinedPlan, refine_plan
from trine.export.quantisation.planning import TIGHTNESS, Planning
from trine.export.quantisation.precision_plan import EnginePlan, plan_engine
from trine.runtime.bundle.bundle import Bundle
from trine.runtime.bundle.manifest import EngineEntry
from trine.runtime.bundle.precision import Precision
from trine.runtime.engines.native.entries import tested_entry

__all__ = ["CHECKED_WEIGHT_BYTES", "EngineMaker"]

#: How much nearer to their threshold plans of large models may come: wide layers average errors
#: out, so inputs that were not tried lose about what those lose that were. The engine is measured
#: anyway.
LARGE_MODEL_ROOM = 1.75

#: Engines up to this size are run as they will be in use before the bundle is kept. Larger ones
#: would take more memory than the export itself: they are run from mapped files, or, in float32 and
#: bfloat16, not at all.
CHECKED_WEIGHT_BYTES = 2 << 30


class EngineMaker:
    """Makes engines of one checkpoint into one bundle.

    Args:
        planning: of the export.
        check: whether to run engines; None for all but float32 and bfloat16 beyond
            `CHECKED_WEIGHT_BYTES`.
    """

    def __init__(self, planning: Planning, *, check: bool | None) -> None:
        self._planning = planning
        self._source = planning.source
        self._calibration = planning.reference.calibration
        self._corpus = planning.reference.corpus
        self._check = check

    def plan(
        self, precision: Precision, tightness: float, step: Callable[[int], None]
    ) -> RefinedPlan[EnginePlan]:
        """Return the plan of an engine, and its loss.

        Args:
            precision: of the engine.
            tightness: of the target; 1 for the usual one, smaller for less loss.
            step: called with 1 after each layer of the reference.
        """
        if precision == "fp32" or self._calibration is None:
            return RefinedPlan(plan_engine("fp32", {}), None)
        if tightness == TIGHTNESS[0] and self._planning.is_large and self._will_run(precision):
            # Running the engine says more, sooner, than fake-quantising so large a model.
            return RefinedPlan(plan_engine(precision, self._calibration.scan.ranges), None)
        return refine_plan(
            plan_engine(precision, self._calibration.scan.ranges),
            self._planning.probing(self._calibration),
            PROCESSOR_TARGETS[precision].times(
                tightness * self._room * self._planning.scale(precision)
            ),
            step,
        )

    @property
    def _room(self) -> float:
        return LARGE_MODEL_ROOM if self._planning.is_large else 1.0

    def _will_run(self, precision: Precision) -> bool:
        """Return whether a narrow engine is run before it is kept."""
        return self._check is not False and "cpu" in DEVICES[precision]

    def engine_bytes(self, precision: Precision) -> int:
        """Return about how many bytes the graphs of an engine will take."""
        return engine_bytes(self._source, precision)

    def make(
        self,
        precision: Precision,
        refined: RefinedPlan[EnginePlan],
        bundle: Bundle,
        written: Callable[[int], None],
        keep_below_threshold: bool,
    ) -> MadeEngine:
        """Write one engine, measure it, and remove it again if it is below its accuracy threshold.

        Args:
            precision: of the engine.
            refined: its plan, and the plan's loss.
            bundle: to write it into; its manifest need not name this engine.
            written: called with the size in bytes of each tensor.
            keep_below_threshold: whether it may be kept all the same, if the maker allows that.

        Raises:
            BundleError: a float32 engine is off.
        """
        folder, plan, plan_loss = bundle.folder, refined.plan, refined.plan_loss
        source, kind = self._source, ort_kind(self._source, precision, plan)
        place = folder / "engines" / kind.name
        place.mkdir(parents=True)
        paths = save_graphs(source, ort_models(source, plan), place, written)
        entry = engine_entry(source, kind, paths, UNMEASURED[precision], below_floor=False)
        sizes = tuple((f"engines/{kind.name}/{p.name}", graph_bytes(p)) for p in paths.values())
        measured = None
        tested = tested_entry(entry)
        small = entry.weight_bytes <= CHECKED_WEIGHT_BYTES
        # A narrow engine's distance from float32 must be known, whatever its size.
        usual = small or precision not in ("fp32", "bf16")
        if tested is not None and (usual if self._check is None else self._check):
            measured = self._measure(
                bundle, tested, mapped=not small and tested.runner == "onnxruntime"
            )
        below = _problems(THRESHOLDS[precision], measured, plan_loss)
        refused = _problems(self._planning.threshold(precision), measured, plan_loss)
        kept = not refused or (keep_below_threshold and self._planning.allow_below_threshold)
        if not kept:
            shutil.rmtree(place)
        return MadeEngine(
            engine_entry(source, kind, paths, tolerance_of(precision, measured), bool(below))
            if kept
            else None,
            EngineReport(
                name=entry.name,
                precision=precision,
                graphs=sizes,
                wider=plan.wider,
                plan_loss=plan_loss,
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
    threshold: AccuracyThreshold, measured: EngineMeasurement | None, plan_loss: PlanLoss | None
) -> tuple[str, ...]:
    """Return why an engine is below its threshold: as measured, or by its plan if not run."""
    if measured is not None and measured.vectors:
        rows = [row for row in measured.vectors if row.head == "single"]
        return ThresholdCheck.of(
            threshold,
            [row.mean for row in rows],
            [row.worst for row in rows],
            [row.ndcg_at_10 for row in measured.rankings if row.head == "multi"],
        ).problems
    if measured is None and plan_loss is not None:
        return ThresholdCheck.of(threshold, [1 - plan_loss.mean], [1 - plan_loss.worst]).problems
    return ()
