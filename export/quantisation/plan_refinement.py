"""The search for mixed precision: overrides layers until the loss on calibration inputs is low.

Layers whose rounding costs most for their size go first (`trine.export.quantisation.sensitivity`).
Losses add up only roughly, so the sum is not trusted: whole plans are tried and measured, until
about the fewest precision overrides are known (`trine.export.quantisation.prefix_search`).
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from trine.export.quantisation.mixed_plan import MixedPlan
from trine.export.quantisation.prefix_search import fewest_that_pass
from trine.export.quantisation.sensitivity import GroupLoss, layer_groups, measure_losses
from trine.export.reference.model import Fork, Reference, ReferenceInput, Rounding
from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.bundle.precision import linear_role

__all__ = [
    "LossTarget",
    "PlanLoss",
    "Probing",
    "RefinedPlan",
    "measure_plan",
    "refine_plan",
]

Array = NDArray[np.float32]

#: Inputs each layer is probed with, at most.
MOST_TEXTS, MOST_IMAGES = 6, 2


PlanT = TypeVar("PlanT", bound=MixedPlan[Any])


@dataclass(frozen=True, slots=True)
class LossTarget:
    """The most that single vectors may lose, as 1 - cosine."""

    mean: float
    worst: float

    def times(self, factor: float) -> "LossTarget":
        """Return the target multiplied by a factor."""
        return LossTarget(self.mean * factor, self.worst * factor)

    def missed(self, losses: Sequence[float], inputs: Sequence[ReferenceInput]) -> bool:
        """Return whether losses are more than that, or cannot be told, in texts or in images.

        Apart, for there are more texts, and a mean over both would hide what images lose.

        Args:
            losses: of each input.
            inputs: that lost them.
        """
        images = np.array([bool(item.sequence.images) for item in inputs])
        values = np.asarray(losses)
        kinds = [values[images == kind] for kind in (False, True) if (images == kind).any()]
        return not all(k.mean() <= self.mean and k.max() <= self.worst for k in kinds)


@dataclass(frozen=True, slots=True)
class PlanLoss:
    """1 - cosine of single vectors of the fake-quantised model to float32."""

    losses: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.losses))

    @property
    def worst(self) -> float:
        return float(np.max(self.losses))


@dataclass(frozen=True, slots=True, kw_only=True)
class Probing:
    """How plans are tried.

    Attributes:
        reference: of the checkpoint.
        model: the model's numbers.
        inputs: texts and at least one image, without forks.
        singles: float32 [n, hidden], what the reference makes of each of them.
        max_probe_tokens: of the inputs that each layer is probed with, beyond one of each kind.
    """

    reference: Reference
    model: ModelConfig
    inputs: Sequence[ReferenceInput]
    singles: Array
    max_probe_tokens: int


@dataclass(frozen=True, slots=True)
class RefinedPlan(Generic[PlanT]):
    """A plan with its loss; None for float32, which loses nothing."""

    plan: PlanT
    plan_loss: PlanLoss | None


def refine_plan(
    plan: PlanT,
    probing: Probing,
    target: LossTarget,
    step: Callable[[int], None],
) -> RefinedPlan[PlanT]:
    """Return a plan that meets the target, as near to `plan` as was found.

    Args:
        plan: by ranges alone.
        probing: how it is tried.
        target: to be met.
        step: called with 1 after each layer that was computed.
    """
    found = measure_plan(probing, plan.fake_quantisation(None), step)
    if not target.missed(found.losses, probing.inputs):
        return RefinedPlan(plan, found)
    groups = [g for g in layer_groups(probing.model) if any(plan.can_override(n) for n in g.names)]
    if not groups:
        return RefinedPlan(plan, found)
    worst = _worst(probing, found.losses)
    probes = [probing.inputs[index] for index in worst]
    losses = measure_losses(
        probing.reference,
        lambda group: plan.fake_quantisation(set(group.names)),
        groups,
        probes,
        step,
    )
    table = np.array([loss.losses for loss in losses])
    # Where all groups together lose more than their sum, each has its share of the rest.
    together = np.array([found.losses[index] for index in worst])
    table *= np.maximum(together / np.maximum(table.sum(axis=0), 1e-12), 1)
    order = _order(table, [loss.group.num_weights for loss in losses], target)
    tries: dict[tuple[int, int], RefinedPlan[PlanT]] = {}

    def attempt(level: int, count: int) -> bool:
        chosen = [losses[index] for index in order[:count]]
        tried = plan.overridden(_reasons(chosen), level)
        loss = measure_plan(probing, tried.fake_quantisation(None), step)
        tries[level, count] = RefinedPlan(tried, loss)
        return not target.missed(loss.losses, probing.inputs)

    for level in range(len(plan.steps)):
        count = fewest_that_pass(
            len(groups),
            lambda share: _count(table[order], probes, target.times(share)),
            functools.partial(attempt, level),
        )
        if count is not None:
            return tries[level, count]
    return tries[len(plan.steps) - 1, len(groups)]


def measure_plan(probing: Probing, rounding: Rounding, step: Callable[[int], None]) -> PlanLoss:
    """Return what a plan loses in all layers together.

    Args:
        probing: how it is tried.
        rounding: what the plan does to all layers; one for all inputs, so that each weight is
            rounded once.
        step: called with 1 after each layer that was computed.
    """
    runs = [
        ReferenceInput(item.sequence, item.task, Fork(base=None, start="", rounding=rounding))
        for item in probing.inputs
    ]
    vectors = probing.reference.run(runs, step)
    losses = []
    for found, wanted in zip(vectors, probing.singles, strict=True):
        cosine = float(found.single @ wanted)
        losses.append(1 - cosine if np.isfinite(cosine) else 2.0)
    return PlanLoss(tuple(losses))


def _worst(probing: Probing, losses: Sequence[float]) -> list[int]:
    """Return which inputs lose most: some texts and some images."""
    inputs = probing.inputs
    chosen: list[int] = []
    for images, count in ((False, MOST_TEXTS), (True, MOST_IMAGES)):
        kind = [i for i, item in enumerate(inputs) if bool(item.sequence.images) == images]
        kind.sort(key=lambda i: -losses[i])
        total = 0
        for rank, index in enumerate(kind[:count]):
            total += len(inputs[index].sequence)
            if rank and total > probing.max_probe_tokens:
                break
            chosen.append(index)
    return chosen


def _order(
    table: NDArray[np.float64], num_weights: Sequence[int], target: LossTarget
) -> NDArray[np.intp]:
    """Return the groups of a table [groups, probes] of losses, the costliest for its size first.

    A layer with a precision override computes slower by as much as it has weights.
    """
    cost = table.max(axis=1) / target.worst + table.mean(axis=1) / target.mean
    return np.argsort(-cost / np.asarray(num_weights), kind="stable")


def _count(table: NDArray[np.float64], probes: Sequence[ReferenceInput], target: LossTarget) -> int:
    """Return after how many of the first groups the sum of the others' losses meets the target."""
    rest = np.cumsum(table[::-1], axis=0)[::-1]
    for count, losses in enumerate(rest):
        if not target.missed(losses.tolist(), probes):
            return count
    return len(table)


def _reasons(chosen: Sequence[GroupLoss]) -> dict[str, str]:
    return {
        name: f"rounding {linear_role(loss.group.names[0])}"
        + (" and what follows it in its MLP" if len(loss.group.names) > 2 else "")
        + f" alone costs up to {max(loss.losses):.1e} of the cosine"
        for loss in chosen
        for name in loss.group.names
    }
