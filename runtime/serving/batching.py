"""Decides what the engine computes next: pure functions from waiting items to one run.

Two lanes keep short items from standing behind long ones. Within a lane the earliest deadline goes
first; as a deadline comes nearer with time, waiting raises an item's rank and none is passed over
for ever. A run of the long lane is due at the latest after `SHORT_TURNS` runs of the short one.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from trine.runtime.plan import PADDING_ALLOWANCE

__all__ = ["SHORT_TURNS", "BatchBudget", "Load", "Plan", "is_short", "plan_batch"]

#: Runs of the short lane in a row while long items wait: a short item waits for one long run at
#: most, and long items get a fifth of the runs however many short ones come.
SHORT_TURNS = 4
#: Patches of the vision tower that cost about what one token of the decoder does; in the published
#: model four patches make an image token, and the tower has a fifth of the decoder's weights.
PATCHES_PER_TOKEN = 4
#: Items of a lane looked at for one run; those behind them would come out of turn anyway.
LOOK_AHEAD = 1024


@dataclass(frozen=True, slots=True)
class Load:
    """What one waiting item asks of the engine.

    Attributes:
        tokens: of its sequence, at least 1.
        patches: of its pictures.
        group: items of different groups never share a run.
    """

    tokens: int
    patches: int
    group: Hashable


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
class Plan:
    """The next run.

    Attributes:
        short: numbers of the short lane's items in it.
        long: numbers of the long lane's items in it.
        short_turns: to give to the next `plan_batch`.
    """

    short: tuple[int, ...]
    long: tuple[int, ...]
    short_turns: int


def is_short(load: Load, budget: BatchBudget) -> bool:
    """Return whether an item belongs to the short lane."""
    return load.tokens + load.patches // PATCHES_PER_TOKEN <= budget.short_tokens


def plan_batch(
    short: Sequence[Load], long: Sequence[Load], budget: BatchBudget, short_turns: int = 0
) -> Plan:
    """Return the next run: the first item of the lane whose turn it is, and others that fit.

    A run of the short lane takes short items only, so that none of them waits for a long one's
    computation. A run of the long lane takes short items too, which then are done no later than if
    they had waited for it to end.

    Args:
        short: items of the short lane, earliest deadline first.
        long: items of the long lane, likewise; the lanes are not both empty.
        budget: of the run.
        short_turns: runs of the short lane in a row so far.
    """
    take_short = bool(short) and (not long or short_turns < SHORT_TURNS)
    if take_short:
        run = _Run(short[0], budget)
        turns = short_turns + 1 if long else 0
        return Plan((0, *run.fill(short, 1)), (), turns)
    run = _Run(long[0], budget)
    more = run.fill(long, 1)
    return Plan(tuple(run.fill(short, 0)), (0, *more), 0)


class _Run:
    """A run being filled."""

    def __init__(self, first: Load, budget: BatchBudget) -> None:
        self._budget = budget
        self._group = first.group
        self._count = 1
        self._tokens = self._longest = first.tokens
        self._patches = first.patches

    def fill(self, lane: Sequence[Load], start: int) -> list[int]:
        """Add what fits of `lane` from number `start` on, and return the numbers."""
        taken = []
        for number in range(start, min(len(lane), LOOK_AHEAD)):
            if self._tokens >= self._budget.tokens:
                break
            if self._take(lane[number]):
                taken.append(number)
        return taken

    def _take(self, load: Load) -> bool:
        longest = max(self._longest, load.tokens)
        fits = (
            load.group == self._group
            and self._tokens + load.tokens <= self._budget.tokens
            and (not load.patches or self._patches + load.patches <= self._budget.patches)
            # As in `plan_decoder_runs`: the padded view of attention stays within bounds.
            and longest * (self._count + 1) <= PADDING_ALLOWANCE * self._budget.tokens
        )
        if fits:
            self._count += 1
            self._tokens += load.tokens
            self._patches += load.patches
            self._longest = longest
        return fits
