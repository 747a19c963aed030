"""Accuracy thresholds: an engine that is further from float32 is not written."""

from collections.abc import Sequence
from dataclasses import dataclass

from trine.export.quantisation.plan_refinement import LossTarget
from trine.runtime.bundle.precision import Precision

__all__ = [
    "PROCESSOR_TARGETS",
    "TARGETS",
    "THRESHOLDS",
    "AccuracyThreshold",
    "ThresholdCheck",
    "asked_threshold",
    "loss_scale",
]


@dataclass(frozen=True, slots=True)
class AccuracyThreshold:
    """The least an engine must reach.

    Attributes:
        mean_cosine, worst_cosine: of single vectors with float32's.
        ranking: nDCG@10 of MaxSim rankings by multi-vectors, with float32's as the gains.
    """

    mean_cosine: float
    worst_cosine: float
    ranking: float


#: float32 differs by rounding alone; the others' are what users of each precision accept.
THRESHOLDS: dict[Precision, AccuracyThreshold] = {
    "fp32": AccuracyThreshold(0.999999, 0.999999, 0.999),
    "fp16": AccuracyThreshold(0.9999, 0.9995, 0.99),
    "bf16": AccuracyThreshold(0.999, 0.995, 0.98),
    "int8": AccuracyThreshold(0.999, 0.995, 0.99),
    "int4": AccuracyThreshold(0.98, 0.9, 0.8),
}
#: What plans are refined to: within the thresholds with room for inputs that were not tried.
TARGETS: dict[Precision, LossTarget] = {
    "fp32": LossTarget(1e-6, 1e-6),
    "fp16": LossTarget(3e-5, 1e-4),
    "bf16": LossTarget(5e-4, 2e-3),
    "int8": LossTarget(5e-4, 1.6e-3),
    "int4": LossTarget(8e-3, 2.5e-2),
}
#: What plans of engines for processors are refined to. There bfloat16 leaves attention's scores and
#: SwiGLU wider than on GPUs, and stands for nearly no loss: cosines of 0.9999 and more.
PROCESSOR_TARGETS: dict[Precision, LossTarget] = {**TARGETS, "bf16": LossTarget(3e-5, 5e-5)}


def loss_scale(precision: Precision, min_cosine: float | None) -> float:
    """Return how many times what a precision may lose an engine may lose that must reach a cosine.

    Args:
        precision: of the engine; float32 is held to its own accuracy threshold whatever is asked.
        min_cosine: least mean cosine; None for the precision's own.
    """
    if min_cosine is None or precision == "fp32":
        return 1.0
    return (1 - min_cosine) / (1 - THRESHOLDS[precision].mean_cosine)


def asked_threshold(precision: Precision, min_cosine: float | None) -> AccuracyThreshold:
    """Return a precision's threshold as far from 1 as `loss_scale` says, in each of its numbers."""
    scale, usual = loss_scale(precision, min_cosine), THRESHOLDS[precision]
    if scale == 1:
        return usual
    # Rounded as it is said, so that what is said is what counts.
    mean, worst, ranking = (
        round(max(1 - scale * (1 - number), 0), 6)
        for number in (usual.mean_cosine, usual.worst_cosine, usual.ranking)
    )
    return AccuracyThreshold(mean, worst, ranking)


@dataclass(frozen=True, slots=True)
class ThresholdCheck:
    """Why an engine is below its accuracy threshold, a sentence each; empty if it is not."""

    problems: tuple[str, ...]

    @classmethod
    def of(
        cls,
        threshold: AccuracyThreshold,
        means: Sequence[float],
        worsts: Sequence[float],
        rankings: Sequence[float] = (),
    ) -> "ThresholdCheck":
        """Compare what was found, one number per task and modality.

        Args:
            threshold: to keep.
            means, worsts: of the cosines of single vectors.
            rankings: nDCG@10 by multi-vectors; empty where nothing was ranked.
        """
        problems = []
        if means and min(means) < threshold.mean_cosine:
            problems.append(
                f"mean cosine {min(means):.5f}, at least {threshold.mean_cosine} is asked"
            )
        if worsts and min(worsts) < threshold.worst_cosine:
            problems.append(
                f"worst cosine {min(worsts):.5f}, at least {threshold.worst_cosine} is asked"
            )
        if rankings and min(rankings) < threshold.ranking:
            problems.append(
                f"MaxSim rankings with nDCG@10 {min(rankings):.4f}, at least {threshold.ranking} "
                "is asked"
            )
        return cls(tuple(problems))
