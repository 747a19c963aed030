"""Widens a plan until the imitated engine keeps to its target on calibration inputs.

Layers whose rounding costs most go first (`trine.export.sensitivity`). Losses add up only roughly,
so the sum is not trusted: the whole plan is imitated and measured, and where it misses, more is
widened.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from trine.export.reference import Fork, Reference, ReferenceInput, Rounding
from trine.export.sensitivity import GroupLoss, layer_groups, measure_losses, with_own_pictures
from trine.runtime.model_config import ModelConfig
from trine.runtime.precision import linear_role

__all__ = [
    "ImitatedLoss",
    "LossTarget",
    "Probing",
    "RefinablePlan",
    "RefinedPlan",
    "imitate",
    "refine_plan",
]

Array = NDArray[np.float32]

#: By how much the sum of losses must come down for the next attempt.
TIGHTER = 0.25
#: Inputs each layer is probed with, at most.
MOST_TEXTS, MOST_PICTURES = 6, 2
#: Attempts at a plan before everything is widened.
ATTEMPTS = 5


class RefinablePlan(Protocol):
    """The precision of both stacks, for whatever runs them."""

    @property
    def num_stations(self) -> int:
        """How many steps there are from the narrowest format to the widest."""
        ...

    def rounding(self, names: Set[str] | None) -> Rounding:
        """Return what rounds as planned: some layers and operations, or all of both stacks."""
        ...

    def is_narrow(self, name: str) -> bool:
        """Return whether a layer or operation could be wider than it is."""
        ...

    def widened(self, reasons: Mapping[str, str], station: int) -> Self:
        """Return the plan with some layers and operations at least as wide as a station.

        Args:
            reasons: by name.
            station: from 0; the last is the widest.
        """
        ...


PlanT = TypeVar("PlanT", bound=RefinablePlan)


@dataclass(frozen=True, slots=True)
class LossTarget:
    """The most that single vectors may lose, as 1 - cosine."""

    mean: float
    worst: float

    def times(self, factor: float) -> "LossTarget":
        """Return the target multiplied by a factor."""
        return LossTarget(self.mean * factor, self.worst * factor)

    def missed(self, losses: Sequence[float]) -> bool:
        """Return whether losses of several inputs are more than that, or none can be told."""
        values = np.asarray(losses)
        return not (values.mean() <= self.mean and values.max() <= self.worst)


@dataclass(frozen=True, slots=True)
class ImitatedLoss:
    """1 - cosine of the imitated engine's single vectors to float32."""

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
        inputs: texts and at least one picture, without forks.
        max_probe_tokens: of the inputs that each layer is probed with, beyond one of each kind.
    """

    reference: Reference
    model: ModelConfig
    inputs: Sequence[ReferenceInput]
    max_probe_tokens: int


@dataclass(frozen=True, slots=True)
class RefinedPlan(Generic[PlanT]):
    """A plan with what its imitation loses; None for float32, which loses nothing."""

    plan: PlanT
    imitated: ImitatedLoss | None


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
    found = imitate(probing, plan, step)
    if not target.missed(found.losses):
        return RefinedPlan(plan, found)
    groups = [g for g in layer_groups(probing.model) if any(plan.is_narrow(n) for n in g.names)]
    probes = _worst(probing, found.losses)
    losses = measure_losses(
        probing.reference, lambda group: plan.rounding(set(group.names)), groups, probes, step
    )
    tried = plan
    for station in range(plan.num_stations):
        budget = 1.0
        for attempt in range(ATTEMPTS):
            chosen = _choose(losses, target, budget) if attempt + 1 < ATTEMPTS else losses
            tried = plan.widened(_reasons(chosen), station)
            found = imitate(probing, tried, step)
            if not target.missed(found.losses):
                return RefinedPlan(tried, found)
            budget *= TIGHTER
    return RefinedPlan(tried, found)


def imitate(probing: Probing, plan: RefinablePlan, step: Callable[[int], None]) -> ImitatedLoss:
    """Return what a plan loses in all layers together."""
    inputs = probing.inputs
    # One for all inputs, so that each weight is rounded once.
    rounding = plan.rounding(None)
    runs = list(inputs)
    for base, item in enumerate(inputs):
        sequence = with_own_pictures(item.sequence)
        start = "visual.patch_embed" if item.sequence.images else "layers.0"
        fork = Fork(base=base, start=start, rounding=rounding)
        runs.append(ReferenceInput(sequence, item.task, fork))
    vectors = probing.reference.run(runs, step)
    losses = []
    for base in range(len(inputs)):
        cosine = float(vectors[len(inputs) + base].single @ vectors[base].single)
        losses.append(1 - cosine if np.isfinite(cosine) else 2.0)
    return ImitatedLoss(tuple(losses))


def _worst(probing: Probing, losses: Sequence[float]) -> list[ReferenceInput]:
    """Return the inputs that lose most: some texts and some pictures."""
    inputs = probing.inputs
    chosen: list[ReferenceInput] = []
    for pictures, count in ((False, MOST_TEXTS), (True, MOST_PICTURES)):
        kind = [i for i, item in enumerate(inputs) if bool(item.sequence.images) == pictures]
        kind.sort(key=lambda i: -losses[i])
        total = 0
        for place, index in enumerate(kind[:count]):
            total += len(inputs[index].sequence)
            if place and total > probing.max_probe_tokens:
                break
            chosen.append(inputs[index])
    return chosen


def _choose(losses: Sequence[GroupLoss], target: LossTarget, budget: float) -> list[GroupLoss]:
    """Return the fewest groups without which the sum of losses is within the target's budget."""
    table = np.array([loss.losses for loss in losses])
    weight = table.max(axis=1) / target.worst + table.mean(axis=1) / target.mean
    order = np.argsort(-weight, kind="stable")
    chosen: list[GroupLoss] = []
    for index in order:
        rest = table[[i for i in range(len(losses)) if losses[i] not in chosen]].sum(axis=0)
        if rest.max() <= target.worst * budget and rest.mean() <= target.mean * budget:
            break
        chosen.append(losses[index])
    return chosen


def _reasons(chosen: Sequence[GroupLoss]) -> dict[str, str]:
    return {
        name: f"rounding {linear_role(loss.group.names[0])}"
        + (" and what follows it in its MLP" if len(loss.group.names) > 2 else "")
        + f" alone costs up to {max(loss.losses):.1e} of the cosine"
        for loss in chosen
        for name in loss.group.names
    }
