"""Prepared items on their way to the engine: two lanes, ordered by when they are due."""

import bisect
import itertools
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from trine.runtime.adapters.base import AdapterHandle
from trine.runtime.inference.batch_planner import BatchCosts, Load
from trine.runtime.preprocessing.sequence import TokenSequence
from trine.runtime.serving.scheduler.batching import (
    LOOK_AHEAD,
    SHORT_TURNS,
    BatchBudget,
    Turns,
    plan_batch,
)
from trine.runtime.serving.scheduler.forward_cost import ForwardCost

__all__ = ["Entry", "WorkQueue"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entry:
    """One sequence that waits for the engine.

    Attributes:
        sequence: its tokens and patches.
        adapter: held by the call until the entry is done.
        load: what it asks of the engine.
        short: whether it is of the short lane.
        spans: (first, end) tokens of each text in it, with late chunking; empty for one item.
        deadline: on `time.monotonic()`'s clock.
        due: likewise, when the engine is to begin with it; its rank in the queue.
        abandoned: whether nobody waits for it any more.
        owner: of the entry; entries are removed by it.
        index: of its first item in the call.
        single, multi: which vectors are wanted.
        normalize: whether single vectors are.
    """

    sequence: TokenSequence
    adapter: AdapterHandle
    load: Load
    short: bool
    spans: tuple[tuple[int, int], ...]
    deadline: float
    due: float
    abandoned: Callable[[], bool]
    owner: object
    index: int
    single: bool
    multi: bool
    normalize: bool


@dataclass(slots=True)
class _Lane:
    """Entries ordered by when they are due, then by arrival."""

    entries: list[Entry] = field(default_factory=list)
    keys: list[tuple[float, int]] = field(default_factory=list)

    def add(self, entry: Entry, number: int) -> None:
        key = (entry.due, number)
        place = bisect.bisect(self.keys, key)
        self.keys.insert(place, key)
        self.entries.insert(place, entry)

    def pull(self, places: Sequence[int]) -> list[Entry]:
        """Remove and return the entries at `places`, in the order of those."""
        pulled = [self.entries[place] for place in places]
        # From the end, so that the other places stay what they are.
        for place in sorted(places, reverse=True):
            del self.entries[place], self.keys[place]
        return pulled

    def drop_unwanted(self, now: float) -> list[Entry]:
        """Remove and return what is too late, and what nobody waits for among those up next.

        Those further back are asked when it is their turn: a long queue costs a run no more.
        """
        # None is due after its deadline.
        overdue = bisect.bisect(self.keys, (now, math.inf))
        looked_at = itertools.islice(self.entries, overdue + LOOK_AHEAD)
        return self.pull(
            [i for i, entry in enumerate(looked_at) if entry.deadline <= now or entry.abandoned()]
        )

    def head(self) -> list[Load]:
        """Return the loads that a run may be made of."""
        return [entry.load for entry in itertools.islice(self.entries, LOOK_AHEAD)]


class WorkQueue:
    """Holds entries until the engine takes them. Safe to call from several threads.

    Args:
        budget: of one run.
        costs: of batches of the engine.
        cost: returns what a run costs; None while that is unknown.
    """

    def __init__(
        self,
        budget: BatchBudget,
        costs: BatchCosts,
        cost: Callable[[], ForwardCost | None] = lambda: None,
    ) -> None:
        self._budget = budget
        self._costs = costs
        self._cost = cost
        self._short = _Lane()
        self._long = _Lane()
        self._numbers = itertools.count()
        self._turns = Turns()
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        with self._changed:
            return self._count()

    def put(self, entries: Sequence[Entry]) -> None:
        """Add entries."""
        with self._changed:
            for entry in entries:
                lane = self._short if entry.short else self._long
                lane.add(entry, next(self._numbers))
            self._changed.notify()

    def remove(self, owner: object) -> list[Entry]:
        """Remove and return the entries of one owner that were not taken yet."""
        with self._changed:
            return [
                entry
                for lane in (self._short, self._long)
                for entry in lane.pull([i for i, e in enumerate(lane.entries) if e.owner is owner])
            ]

    def take(
        self, now: Callable[[], float], wanted: int = 1, until: float = 0.0
    ) -> tuple[list[Entry], list[Entry]] | None:
        """Wait for entries; return those of the next run and those nobody waits for any more.

        Returns None once the queue is closed and empty. The run may be empty.

        Args:
            now: the clock of the deadlines.
            wanted: entries to wait for,
            until: that time; after it for one.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._count())
            self._changed.wait_for(
                lambda: self._closed or self._count() >= wanted, max(until - now(), 0.0)
            )
            time = now()
            dropped = self._short.drop_unwanted(time) + self._long.drop_unwanted(time)
            if not self._count():
                return ([], dropped) if dropped or not self._closed else None
            plan = plan_batch(
                self._short.head(),
                self._long.head(),
                self._budget,
                self._costs,
                Turns(SHORT_TURNS) if self._long_overdue(time) else self._turns,
                self._cost(),
            )
            self._turns = plan.turns
            return self._long.pull(plan.long) + self._short.pull(plan.short), dropped

    def close(self) -> None:
        """Let `take` return None when nothing is left."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _long_overdue(self, now: float) -> bool:
        """Return whether a long item has waited as long as it may, and a short one has not."""
        if not self._long.keys or self._long.keys[0][0] > now:
            return False
        return not self._short.keys or self._long.keys[0] < self._short.keys[0]

    def _count(self) -> int:
        return len(self._short.entries) + len(self._long.entries)
