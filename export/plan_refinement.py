"""Widens a plan until the imitated engine keeps to its target on calibration inputs.

Layers whose rounding costs most go first (`trine.export.sensitivity`). Losses add up only roughly,
so the sum is not trusted: the whole plan is imitated and measured, and where it misses, more is
widened.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.export.linears import GraphPlan
from trine.export.precision_plan import FLOAT32, INT8, EnginePlan, with_wider
from trine.export.reference import Fork, Reference, ReferenceInput
from trine.export.rounding import PlannedRounding
from trine.export.sensitivity import GroupLoss, layer_groups, measure_losses
from trine.runtime.model_config import ModelConfig
from trine.runtime.precision import LinearPrecision, Precision, linear_role

__all__ = ["ImitatedLoss", "LossTarget", "Probing", "RefinedPlan", "imitate", "refine_plan"]

Array = NDArray[np.float32]

#: By how much the sum of losses must come down for the next attempt.
TIGHTER = 0.25
#: Inputs each layer is probed with, at most.
MOST_TEXTS, MOST_PICTURES = 6, 2
#: Attempts at a plan before everything is widened.
ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class LossTarget:
    """The most that single vectors may lose, as 1 - cosine."""

    mean: float
    worst: float

    def times(self, factor: float) -> "LossTarget":
        """Return the target multiplied by a factor."""
        return LossTarget(self.mean * factor, self.worst * factor)

    def missed(self, losses: Sequence[float], inputs: Sequence[ReferenceInput]) -> bool:
        """Return whether losses are more than that, or cannot be told, in texts or in pictures.

        Apart, for there are more texts, and a mean over both would hide what pictures lose.

        Args:
            losses: of each input.
            inputs: that lost them.
        """
        pictures = np.array([bool(item.sequence.images) for item in inputs])
        values = np.asarray(losses)
        kinds = [values[pictures == kind] for kind in (False, True) if (pictures == kind).any()]
        return not all(k.mean() <= self.mean and k.max() <= self.worst for k in kinds)


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
        singles: float32 [n, hidden], what the reference makes of each of them.
        max_probe_tokens: of the inputs that each layer is probed with, beyond one of each kind.
    """

    reference: Reference
    model: ModelConfig
    inputs: Sequence[ReferenceInput]
    singles: Array
    max_probe_tokens: int


@dataclass(frozen=True, slots=True)
class RefinedPlan:
    """A plan with what its imitation loses; None for float32, which loses nothing."""

    plan: EnginePlan
    imitated: ImitatedLoss | None


def refine_plan(
    precision: Precision,
    plan: EnginePlan,
    probing: Probing,
    target: LossTarget,
    step: Callable[[int], None],
) -> RefinedPlan:
    """Return a plan that meets the target, as near to `plan` as was found.

    Args:
        precision: asked for.
        plan: by ranges alone.
        probing: how it is tried.
        target: to be met.
        step: called with 1 after each layer that was computed.
    """
    found = imitate(probing, plan, step)
    if not target.missed(found.losses, probing.inputs):
        return RefinedPlan(plan, found)
    groups = [group for group in layer_groups(probing.model) if _narrow(plan, group.names)]
    worst = _worst(probing, found.losses)
    probes = [probing.inputs[index] for index in worst]
    losses = measure_losses(probing.reference, plan, groups, probes, step)
    table = np.array([loss.losses for loss in losses])
    # Where all groups together lose more than their sum, each has its share of the rest.
    together = np.array([found.losses[index] for index in worst])
    table *= np.maximum(together / np.maximum(table.sum(axis=0), 1e-12), 1)
    # 4 bits have a station on the way to float32.
    stations = (INT8, FLOAT32) if precision == "int4" else (FLOAT32,)
    tried = plan
    for station in stations:
        budget, before = 1.0, -1
        for attempt in range(ATTEMPTS):
            order = _order(table, target)
            last = attempt + 1 == ATTEMPTS
            count = len(order) if last else _count(table[order], probes, target.times(budget))
            budget *= TIGHTER
            if count == before:
                continue
            before = count
            tried = _widened(plan, [losses[index] for index in order[:count]], station)
            found = imitate(probing, tried, step)
            if not target.missed(found.losses, probing.inputs):
                return RefinedPlan(tried, found)
    return RefinedPlan(tried, found)


def imitate(probing: Probing, plan: EnginePlan, step: Callable[[int], None]) -> ImitatedLoss:
    """Return what a plan loses in all layers together."""
    # One for all inputs, so that each weight is rounded once.
    rounding = _BothStacks(plan)
    runs = [
        ReferenceInput(item.sequence, item.task, Fork(base=None, start="", rounding=rounding))
        for item in probing.inputs
    ]
    vectors = probing.reference.run(runs, step)
    losses = []
    for found, wanted in zip(vectors, probing.singles, strict=True):
        cosine = float(found.single @ wanted)
        losses.append(1 - cosine if np.isfinite(cosine) else 2.0)
    return ImitatedLoss(tuple(losses))


class _BothStacks:
    """Rounds the vision tower by its plan and the decoder by its own."""

    def __init__(self, plan: EnginePlan) -> None:
        self._vision = PlannedRounding(plan.vision, None)
        self._decoder = PlannedRounding(plan.decoder, None)

    def _of(self, module: str) -> PlannedRounding:
        return self._vision if module.startswith("visual.") else self._decoder

    def covers(self, module: str) -> bool:
        return module.startswith(("visual.", "layers."))

    def linear(self, module: str, x: Array, weight: Array, bias: Array | np.float32) -> Array:
        return self._of(module).linear(module, x, weight, bias)

    def attention(self, prefix: str, x: Array) -> Array:
        return self._of(prefix).attention(prefix, x)


def _worst(probing: Probing, losses: Sequence[float]) -> list[int]:
    """Return which inputs lose most: some texts and some pictures."""
    inputs = probing.inputs
    chosen: list[int] = []
    for pictures, count in ((False, MOST_TEXTS), (True, MOST_PICTURES)):
        kind = [i for i, item in enumerate(inputs) if bool(item.sequence.images) == pictures]
        kind.sort(key=lambda i: -losses[i])
        total = 0
        for place, index in enumerate(kind[:count]):
            total += len(inputs[index].sequence)
            if place and total > probing.max_probe_tokens:
                break
            chosen.append(index)
    return chosen


def _narrow(plan: EnginePlan, names: Sequence[str]) -> bool:
    """Return whether any of some layers and operations is narrower than float32."""
    graph = plan.decoder if names[0].startswith("layers.") else plan.vision
    return any(graph.precision.of(name) != FLOAT32 for name in names)


def _order(table: NDArray[np.float64], target: LossTarget) -> NDArray[np.intp]:
    """Return the groups of a table [groups, probes] of losses, the costliest first."""
    weight = table.max(axis=1) / target.worst + table.mean(axis=1) / target.mean
    return np.argsort(-weight, kind="stable")


def _count(table: NDArray[np.float64], probes: Sequence[ReferenceInput], target: LossTarget) -> int:
    """Return after how many of the first groups the sum of the others' losses meets the target."""
    rest = np.cumsum(table[::-1], axis=0)[::-1]
    for count, losses in enumerate(rest):
        if not target.missed(losses.tolist(), probes):
            return count
    return len(table)


def _widened(plan: EnginePlan, chosen: Sequence[GroupLoss], to: LinearPrecision) -> EnginePlan:
    reasons = {
        name: f"rounding {linear_role(loss.group.names[0])}"
        + (" and what follows it in its MLP" if len(loss.group.names) > 2 else "")
        + f" alone costs up to {max(loss.losses):.1e} of the cosine"
        for loss in chosen
        for name in loss.group.names
    }

    def widen(graph: GraphPlan, decoder: bool) -> GraphPlan:
        names = {n: r for n, r in reasons.items() if n.startswith("layers.") == decoder}
        if to == INT8:
            names = {n: r for n, r in names.items() if graph.precision.of(n).weight == "int4"}
        return with_wider(graph, names, to)

    return dataclasses.replace(
        plan, vision=widen(plan.vision, False), decoder=widen(plan.decoder, True)
    )
