"""Prepared items on their way to the engine: two lanes, ordered by deadline, shared by threads."""

import bisect
import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from trine.runtime.adapters import AdapterHandle
from trine.runtime.sequence import TokenSequence
from trine.runtime.serving.batching import BatchBudget, Load, Turns, is_short, plan_batch
from trine.runtime.serving.run_cost import RunCost

__all__ = ["Entry", "WorkQueue"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entry:
    """One sequence that waits for the engine.

    Attributes:
        sequence: its tokens and patches.
        adapter: held by the call until the entry is done.
        load: what it asks of the engine.
        spans: (first, end) tokens of each text in it, with late chunking; empty for one item.
        deadline: on `time.monotonic()`'s clock.
        queued_at: on the same clock.
        abandoned: whether nobody waits for it any more.
        owner: of the entry; entries are removed by it.
        index: of its first item in the call.
        single, multi: which vectors are wanted.
        normalize: whether single vectors are.
    """

    sequence: TokenSequence
    adapter: AdapterHandle
    load: Load
    spans: tuple[tuple[int, int], ...]
    deadline: float
    queued_at: float
    abandoned: Callable[[], bool]
    owner: object
    index: int
    single: bool
    multi: bool
    normalize: bool


@dataclass(slots=True)
class _Lane:
    """Entries ordered by deadline, then by arrival."""

    entries: list[Entry] = field(default_factory=list)
    keys: list[tuple[float, int]] = field(default_factory=list)

    def add(self, entry: Entry, number: int) -> None:
        key = (entry.deadline, number)
        place = bisect.bisect(self.keys, key)
        self.keys.insert(place, key)
        self.entries.insert(place, entry)

    def keep(self, wanted: Callable[[int, Entry], bool]) -> list[Entry]:
        """Remove and return the entries that are not wanted; called with place and entry."""
        kept = [place for place, entry in enumerate(self.entries) if wanted(place, entry)]
        if len(kept) == len(self.entries):
            return []
        stay = set(kept)
        removed = [entry for place, entry in enumerate(self.entries) if place not in stay]
        self.keys = [self.keys[place] for place in kept]
        self.entries = [self.entries[place] for place in kept]
        return removed


class WorkQueue:
    """Holds entries until the engine takes them. Safe to call from several threads.

    Args:
        budget: of one run.
        cost: returns what a run costs; None while that is unknown.
    """

    def __init__(
        self, budget: BatchBudget, cost: Callable[[], RunCost | None] = lambda: None
    ) -> None:
        self._budget = budget
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
                lane = self._short if is_short(entry.load, self._budget) else self._long
                lane.add(entry, next(self._numbers))
            self._changed.notify()

    def remove(self, owner: object) -> list[Entry]:
        """Remove and return the entries of one owner that were not taken yet."""
        with self._changed:
            return self._drop(lambda entry: entry.owner is owner)

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
            dropped = self._drop(lambda entry: entry.deadline <= time or entry.abandoned())
            short, long = self._short.entries, self._long.entries
            if not short and not long:
                return ([], dropped) if dropped or not self._closed else None
            plan = plan_batch(
                [entry.load for entry in short],
                [entry.load for entry in long],
                self._budget,
                self._turns,
                self._cost(),
            )
            self._turns = plan.turns
            in_run_short, in_run_long = frozenset(plan.short), frozenset(plan.long)
            run = self._long.keep(lambda place, _: place not in in_run_long)
            run += self._short.keep(lambda place, _: place not in in_run_short)
            return run, dropped

    def close(self) -> None:
        """Let `take` return None when nothing is left."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _count(self) -> int:
        return len(self._short.entries) + len(self._long.entries)

    def _drop(self, unwanted: Callable[[Entry], bool]) -> list[Entry]:
        dropped = []
        for lane in (self._short, self._long):
            dropped += lane.keep(lambda _, entry: not unwanted(entry))
        return dropped
