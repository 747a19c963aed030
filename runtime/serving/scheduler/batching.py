"""Decides what the engine computes next: pure functions from waiting items to one run.

Two lanes keep short items from standing behind long ones. Within a lane goes first what is due
first: at its deadline, or when it will have waited as long as any may, so that none is passed over
for long. A run of the long lane is due at the latest after `SHORT_TURNS` turns of the short one.

A turn of the short lane is what waits at its beginning, as far as one run could hold it. How many
runs it is computed in depends on what a run costs: see `leading`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trine.runtime.inference.batch_planner import BatchCosts, Load, OpenBatch
from trine.runtime.serving.scheduler.forward_cost import ForwardCost

__all__ = [
    "LOOK_AHEAD",
    "SHORT_TURNS",
    "BatchBudget",
    "Plan",
    "Turns",
    "fewest",
    "is_short",
    "leading",
    "plan_batch",
]

#: Turns of the short lane in a row while long items wait: a short item waits for one long run at
#: most, and long items get a fifth of the turns however many short ones come.
SHORT_TURNS = 4
#: Patches of the vision tower that cost about what one token of the decoder does; in the published
#: model four patches make an image token, and the tower has a fifth of the decoder's weights.
PATCHES_PER_TOKEN = 4
#: Items of a lane looked at for one run; those behind them would come out of turn anyway.
LOOK_AHEAD = 1024
#: Part of the throughput that may be given for early answers.
LOSS = 0.02
#: That part where items are few, times their number: the engine then has time to spare, or the
#: queue would be longer.
LOSS_OF_FEW = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchBudget:
    """How much one run may hold.

    Attributes:
        tokens: of the decoder; a longer item has a run of its own.
        patches: of the vision tower, likewise.
        short_tokens: items up to this size are of the short lane.
    """

    tokens: int
    patches: int
    short_tokens: int


@dataclass(frozen=True, slots=True)
class Turns:
    """Whose turn it is.

    Attributes:
        short: turns of the short lane in a row, begun while long items waited.
        left: tokens of the last of them that are still to be run.
    """

    short: int = 0
    left: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """The next run.

    Attributes:
        short: numbers of the short lane's items in it.
        long: numbers of the long lane's items in it.
        turns: to give to the next `plan_batch`.
    """

    short: tuple[int, ...]
    long: tuple[int, ...]
    turns: Turns


def is_short(tokens: int, patches: int, budget: BatchBudget) -> bool:
    """Return whether an item of so many tokens and patches belongs to the short lane."""
    return _size(tokens, patches) <= budget.short_tokens


def _size(tokens: int, patches: int) -> int:
    """Return the tokens that take about as long as an item."""
    return tokens + patches // PATCHES_PER_TOKEN


def leading(sizes: Sequence[int], cost: ForwardCost | None) -> int:
    """Return how many of the items that could share a run are to do so: the first so many.

    What is computed together is answered together, at the end. Items of S tokens in runs of R have
    their answers earliest, on average, if R is the square root of S times the tokens that a run's
    own costs stand for. But a run is not so small that more throughput is lost than `LOSS`.

    Args:
        sizes: in tokens, of all that fit into one run, in order; at least one.
        cost: of a run; None, as long as it is unknown, for all of them.
    """
    fixed = float("inf") if cost is None else cost.fixed_tokens
    if math.isinf(fixed):
        return len(sizes)
    waiting = sum(sizes)
    loss = max(LOSS, LOSS_OF_FEW / len(sizes))
    return _reach(sizes, max(math.sqrt(waiting * fixed), _cheap(waiting, fixed, loss)))


def fewest(sizes: Sequence[int], cost: ForwardCost | None) -> int:
    """Return how many of the items that could share a run are enough: the first so many.

    With fewer in a run, more of the throughput than `LOSS` would be lost.

    Args:
        sizes: in tokens, of all that fit into one run, in order; at least one.
        cost: of a run; None, as long as it is unknown, for all of them.
    """
    fixed = float("inf") if cost is None else cost.fixed_tokens
    return len(sizes) if math.isinf(fixed) else _reach(sizes, _cheap(sum(sizes), fixed, LOSS))


def _cheap(waiting: int, fixed: float, loss: float) -> float:
    """Return the tokens of runs that take `loss` longer in all than one run of all that waits.

    A token of a run of R tokens costs 1 + fixed / R, of one of all that waits the least.
    """
    return fixed / (loss + (1 + loss) * fixed / waiting)


def _reach(sizes: Sequence[int], wanted: float) -> int:
    """Return how many of `sizes` make at least so many tokens, or all."""
    total = 0
    for number, size in enumerate(sizes, 1):
        total += size
        if total >= wanted:
            return number
    return len(sizes)


def plan_batch(
    short: Sequence[Load],
    long: Sequence[Load],
    budget: BatchBudget,
    costs: BatchCosts,
    turns: Turns = Turns(),
    cost: ForwardCost | None = None,
) -> Plan:
    """Return the next run: the first item of the lane whose turn it is, and others that fit.

    A run of the short lane takes short items only, so that none of them waits for a long one's
    computation, and no more of them than `leading` says. A run of the long lane takes as few long
    items as are enough, since a short one that comes meanwhile waits for it to end; and what fits
    of the short ones that are there, which then are done no later than if they had waited.

    Args:
        short: items of the short lane, earliest due first.
        long: items of the long lane, likewise; the lanes are not both empty.
        budget: of the run.
        costs: of batches of this engine, as the planner of `Runner.encode` takes them.
        turns: of the lanes so far.
        cost: of a run, if it is known.
    """
    goes_on = turns.left > 0
    if short and (not long or goes_on or turns.short < SHORT_TURNS):
        run = OpenBatch(short[0], budget.tokens, budget.patches, costs)
        whole = (0, *_fill(run, short, 1))
        sizes = [_size(short[number].tokens, short[number].patches) for number in whole]
        taken = whole[: leading(sizes, cost)]
        if not long:
            return Plan(taken, (), Turns())
        begun = Turns(turns.short, turns.left) if goes_on else Turns(turns.short + 1, sum(sizes))
        left = begun.left - sum(sizes[: len(taken)])
        return Plan(taken, (), Turns(begun.short, max(left, 0)))
    run = OpenBatch(long[0], budget.tokens, budget.patches, costs)
    whole = (0, *_fill(run, long, 1))
    sizes = [_size(long[number].tokens, long[number].patches) for number in whole]
    taken = whole[: fewest(sizes, cost)]
    run = OpenBatch(long[0], budget.tokens, budget.patches, costs)
    for number in taken[1:]:
        run.take(long[number])
    return Plan(tuple(_fill(run, short, 0)), taken, Turns())


def _fill(batch: OpenBatch, lane: Sequence[Load], start: int) -> list[int]:
    """Add what fits of `lane` from number `start` on, and return the numbers."""
    taken = []
    for number in range(start, min(len(lane), LOOK_AHEAD)):
        if batch.full:
            break
        if batch.take(lane[number]):
            taken.append(number)
    return taken
