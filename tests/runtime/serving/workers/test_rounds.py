"""How a change of adapters goes through workers that fail and die as they like."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trine.runtime.serving.workers.control import AdapterChange, Failure, Step
from trine.runtime.serving.workers.rounds import Round

LOAD = AdapterChange("legal", "two")
UNLOAD = AdapterChange("legal")
BAD = Failure(422, "unusable_adapter", "no", "folder")
IN_USE = Failure(409, "adapter_in_use", "wait", "name", 1)
UNKNOWN = Failure(404, "unknown_adapter", "none", "name")
WORKERS = range(3)


def begun(change: AdapterChange) -> Round:
    current = Round(change)
    for worker in WORKERS:
        current.asked(worker)
    return current


def answer(current: Round, *failures: Failure | None) -> frozenset[int]:
    for worker, failure in enumerate(failures):
        current.answered(worker, failure)
    return current.advance()


def test_a_load_is_kept_once_all_have_made_it() -> None:
    current = begun(LOAD)
    current.answered(0, None)
    assert current.advance() == frozenset(), "others are not done"
    assert not current.stands
    current.answered(1, None)
    current.answered(2, None)
    assert (current.advance(), current.step) == ({0, 1, 2}, "keep")
    assert current.stands
    for worker in WORKERS:
        current.asked(worker)
    assert answer(current, None, None, None) == frozenset()
    assert (current.step, current.failure, current.stands) == (None, None, True)


def test_a_load_that_some_cannot_make_is_dropped_by_the_others() -> None:
    current = begun(LOAD)
    assert answer(current, None, BAD, None) == {0, 2}
    assert current.step == "drop"
    current.asked(0)
    current.asked(2)
    current.answered(0, None)
    current.ended(2)
    current.advance()
    assert (current.step, current.failure, current.stands) == (None, BAD, False)


def test_a_load_that_nobody_can_make_is_over_at_once() -> None:
    current = begun(LOAD)
    assert answer(current, BAD, BAD, BAD) == frozenset()
    assert (current.step, current.failure, current.stands) == (None, BAD, False)


def test_a_load_of_which_workers_read_different_files_is_dropped() -> None:
    current = begun(LOAD)
    for worker, digest in zip(WORKERS, ("a", "a", "b"), strict=True):
        current.answered(worker, None, digest)
    assert (current.advance(), current.step) == ({0, 1, 2}, "drop")
    assert current.failure is not None
    assert "changed" in current.failure.message
    assert not current.stands


def test_a_load_that_stands_says_what_was_loaded() -> None:
    current = begun(LOAD)
    current.answered(0, None, "b")
    current.ended(0)
    current.asked(0)  # the one in its place, after the files were changed back
    for worker in WORKERS:
        current.answered(worker, None, "a")
    current.advance()
    assert current.change == AdapterChange("legal", "two", digest="a")


def test_a_worker_that_dies_once_holds_nothing_up() -> None:
    current = begun(LOAD)
    current.ended(2)
    current.asked(2)  # the one in its place
    assert answer(current, None, None, None) == {0, 1, 2}
    assert current.step == "keep"


def test_a_load_that_kills_a_worker_twice_is_dropped() -> None:
    current = begun(LOAD)
    current.ended(2)
    current.asked(2)
    current.ended(2)
    assert answer(current, None, None) == {0, 1}
    assert current.step == "drop"
    assert current.failure is not None
    assert current.failure.code == "worker_ended"


@pytest.mark.parametrize(
    ("answers", "failure", "stands"),
    [
        ((None, None, None), None, True),
        ((UNKNOWN, None, None), None, True),
        ((UNKNOWN, IN_USE, None), IN_USE, True),
        ((UNKNOWN, UNKNOWN, UNKNOWN), UNKNOWN, False),
    ],
)
def test_an_adapter_is_unloaded_where_there_is_one(
    answers: tuple[Failure | None, ...], failure: Failure | None, stands: bool
) -> None:
    current = begun(UNLOAD)
    assert answer(current, *answers) == frozenset()
    assert (current.step, current.failure, current.stands) == (None, failure, stands)


class Fleet:
    """Workers that have what they were told to, and a supervisor that tells them."""

    def __init__(self, draw: Callable[[], int]) -> None:
        self._draw = draw
        self.has = dict.fromkeys(WORKERS, "one")
        self.staged: set[int] = set()
        self.stands = False
        self.deaths = 0

    def run(self, current: Round) -> None:
        self._ask(current, frozenset(WORKERS))
        while current.step is not None:
            self._ask(current, current.advance())
            self.stands = self.stands or current.stands

    def _ask(self, current: Round, workers: frozenset[int]) -> None:
        waiting = sorted(workers)
        for worker in waiting:
            current.asked(worker)
        self.stands = self.stands or current.stands
        while waiting:
            worker = waiting.pop(self._draw() % len(waiting))
            chance = self._draw() % 4
            if chance == 0:
                self._die(current, worker, waiting)
            else:
                self._obey(current, worker, BAD if chance == 1 else None)

    def _die(self, current: Round, worker: int, waiting: list[int]) -> None:
        self.deaths += 1
        current.ended(worker)
        self.staged.discard(worker)
        self.has[worker] = "two" if self.stands else "one"
        if current.step == "make":
            current.asked(worker)
            waiting.append(worker)

    def _obey(self, current: Round, worker: int, failure: Failure | None) -> None:
        step: Step | None = current.step
        if step == "make" and failure is None:
            self.staged.add(worker)
        elif step in ("keep", "drop"):
            failure = None
            self.staged.remove(worker)
            self.has[worker] = "two" if step == "keep" else self.has[worker]
        current.answered(worker, failure)


@given(st.lists(st.integers(0, 999), min_size=64, max_size=64))
def test_all_workers_have_the_same_adapters_whatever_happens(draws: list[int]) -> None:
    # Deaths end when the draws do: a round must end however long they go on.
    source = iter(draws + [3] * 999)
    fleet, current = Fleet(lambda: next(source)), begun(LOAD)
    fleet.run(current)
    assert len(set(fleet.has.values())) == 1
    assert not fleet.staged
    assert (set(fleet.has.values()) == {"two"}) == (current.failure is None)
