"""Makes graphs for TensorRT: plans their precision, judges the plan, writes them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trine.export.accuracy.parity import UNMEASURED
from trine.export.accuracy.thresholds import THRESHOLDS, AccuracyThreshold, ThresholdCheck
from trine.export.bundle.engine_files import engine_entry, graph_bytes, save_graphs
from trine.export.bundle.golden_inputs import golden_inputs
from trine.export.graphs.trt.precision import TensorRtPrecision
from trine.export.options import EngineReport, MadeEngine, QuantisedLayers
from trine.export.quantisation.plan_refinement import (
    PlanLoss,
    Probing,
    RefinedPlan,
    measure_plan,
)
from trine.export.quantisation.planning import TIGHTNESS, Planning
from trine.export.quantisation.trt.graph_plans import QUANTISED, THRESHOLD_OF, TrtPlans, plan_trt
from trine.export.reference.model import ReferenceInput
from trine.export.trt.bundle_engines import trt_kind, trt_models
from trine.runtime.preprocessing.tokenizer import TextTokenizer

__all__ = ["PlannedTrt", "plan_graphs", "write_graphs"]


#: In how many ways beside the usual one a plan's rounding errors are tried.
NUM_DITHERS = 3


@dataclass(frozen=True, slots=True)
class PlannedTrt:
    """Plans of graphs for TensorRT.

    Attributes:
        refined: the plans, and their loss on golden inputs.
        below: why they are below their precision's usual accuracy threshold; empty if they are not.
        refused: why they are below the accuracy threshold that was asked for.
        quantised: layers in fewer than 16 bits; None if none was to have them.
    """

    refined: RefinedPlan[TrtPlans]
    below: tuple[str, ...]
    refused: tuple[str, ...]
    quantised: QuantisedLayers | None


def plan_graphs(
    planning: Planning,
    precision: TensorRtPrecision,
    tokenizer: TextTokenizer,
    step: Callable[[int], None],
) -> PlannedTrt:
    """Return the plan of graphs for TensorRT.

    Nothing here runs these graphs, so they are judged by fake quantisation, on the
    golden inputs too, from which neither ranges nor plans are made.

    Args:
        planning: of the export.
        precision: asked for.
        tokenizer: of the bundle.
        step: called with 1 after each layer of the reference.

    Raises:
        ValueError: there are no calibration inputs.
    """
    calibration = planning.reference.calibration
    if calibration is None:
        raise ValueError("graphs for TensorRT are planned from calibration inputs")
    probing, ranges = planning.probing(calibration), calibration.scan.ranges
    held_out = golden_inputs(probing.model, tokenizer, planning.source.tasks)
    vectors = planning.reference.golden.vectors
    singles = np.stack([vectors[f"{key}/single"] for key in held_out.keys])
    golden = dataclasses.replace(probing, inputs=held_out.inputs, singles=singles)
    of = THRESHOLD_OF[precision]
    threshold, scale = planning.threshold(of), planning.scale(of)
    for tightness in TIGHTNESS:
        refined = plan_trt(precision, ranges, probing, tightness * scale, step)
        judged = _judge(golden, refined.plan, step)
        refused = _problems(threshold, golden.inputs, judged)
        if not refused:
            break
    quantised = None
    if precision in QUANTISED:
        quantised = QuantisedLayers(
            count=refined.plan.num_quantised, total=len(ranges), min_cosine=threshold.mean_cosine
        )
    return PlannedTrt(
        RefinedPlan(refined.plan, judged),
        _problems(THRESHOLDS[of], golden.inputs, judged),
        refused,
        quantised,
    )


def write_graphs(
    planning: Planning, precision: TensorRtPrecision, planned: PlannedTrt, folder: Path
) -> MadeEngine:
    """Write graphs for TensorRT, unless they are below their threshold and that is not allowed.

    Args:
        planning: of the export.
        precision: asked for.
        planned: their plan.
        folder: of the bundle.

    Raises:
        CheckpointError: a weight is not finite.
    """
    source, refined = planning.source, planned.refined
    kind = trt_kind(source, precision, refined.plan)
    written = not planned.refused or planning.allow_below_threshold
    graphs: Mapping[str, Path] = {}
    entry = None
    if written:
        place = folder / "engines" / kind.name
        place.mkdir()
        graphs = save_graphs(source, trt_models(source, refined.plan), place, lambda _: None)
        # Nothing here runs the graphs.
        entry = engine_entry(source, kind, graphs, UNMEASURED[precision], bool(planned.below))
    report = EngineReport(
        name=kind.name,
        precision=precision,
        graphs=tuple((f"engines/{kind.name}/{p.name}", graph_bytes(p)) for p in graphs.values()),
        wider=refined.plan.wider,
        quantised=planned.quantised,
        plan_loss=refined.plan_loss,
        measured=None,
        below_floor=planned.refused or planned.below,
        written=written,
    )
    return MadeEngine(entry, report)


def _judge(golden: Probing, plan: TrtPlans, step: Callable[[int], None]) -> PlanLoss:
    """Return the most that each input loses, of several ways in which rounding errors may fall.

    A value that is left over when two large ones cancel is all rounding error. In one order of
    operations it may come out right by luck, and an engine computes in another.
    """
    roundings = (
        plan.fake_quantisation(None),
        *(plan.dithered(seed) for seed in range(NUM_DITHERS)),
    )
    found = [measure_plan(golden, rounding, step).losses for rounding in roundings]
    return PlanLoss(tuple(map(max, zip(*found, strict=True))))


def _problems(
    threshold: AccuracyThreshold, inputs: Sequence[ReferenceInput], judged: PlanLoss
) -> tuple[str, ...]:
    """Return why fake-quantised graphs are below their threshold, texts and images apart."""
    kinds: dict[bool, list[float]] = {}
    for item, loss in zip(inputs, judged.losses, strict=True):
        kinds.setdefault(bool(item.sequence.images), []).append(1 - loss)
    means = [sum(found) / len(found) for found in kinds.values()]
    return ThresholdCheck.of(threshold, means, [min(f) for f in kinds.values()]).problems
