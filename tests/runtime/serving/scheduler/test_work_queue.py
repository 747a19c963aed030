import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from trine.runtime.adapters.base import AdapterHandle
from trine.runtime.adapters.projector import Projector
from trine.runtime.inference.batch_planner import BatchCosts, Load
from trine.runtime.preprocessing.sequence import text_sequence
from trine.runtime.serving.scheduler.batching import LOOK_AHEAD, BatchBudget, is_short
from trine.runtime.serving.scheduler.work_queue import Entry, WorkQueue

COSTS = BatchCosts(batch=16, slot_pair=0)
BUDGET = BatchBudget(tokens=100, patches=200, short_tokens=20)
HANDLE = AdapterHandle(
    "retrieval", 0, Projector(np.zeros((1, 1), np.float32), np.zeros(1, np.float32))
)


def entry(
    tokens: int = 5,
    deadline: float = 10.0,
    owner: object = None,
    abandoned: Callable[[], bool] = bool,
    due: float | None = None,
) -> Entry:
    return Entry(
        sequence=text_sequence(np.arange(tokens), tokens),
        adapter=HANDLE,
        load=Load(tokens, 0, "a"),
        short=is_short(tokens, 0, BUDGET),
        spans=(),
        deadline=deadline,
        due=deadline if due is None else due,
        abandoned=abandoned,
        owner=owner,
        index=0,
        single=True,
        multi=False,
        normalize=True,
    )


def test_the_earliest_deadline_goes_first() -> None:
    queue = WorkQueue(BUDGET, COSTS)
    late, soon, between = entry(90, 9.0), entry(90, 3.0), entry(90, 5.0)
    queue.put([late, soon])
    queue.put([between])
    order = [queue.take(lambda: 0.0) for _ in range(3)]
    assert order == [([soon], []), ([between], []), ([late], [])]


def test_what_is_due_goes_before_what_has_the_earlier_deadline() -> None:
    queue = WorkQueue(BUDGET, COSTS)
    waited, new = entry(90, 60.0, due=5.0), entry(90, 7.0)
    queue.put([new, waited])
    assert [queue.take(lambda: 6.0) for _ in range(2)] == [([waited], []), ([new], [])]


def test_a_long_item_that_is_overdue_goes_before_short_ones_that_are_not() -> None:
    queue = WorkQueue(BUDGET, COSTS)
    long, new, old = entry(90, 60.0, due=5.0), entry(5, 60.0, due=9.0), entry(5, 60.0, due=4.0)
    queue.put([long, new])
    assert queue.take(lambda: 4.9) == ([new], [])
    queue.put([new])
    # What fits beside it goes along.
    assert queue.take(lambda: 5.0) == ([long, new], [])
    queue.put([long, old])
    assert queue.take(lambda: 5.0) == ([old], [])


def test_what_is_overdue_is_dropped_at_its_deadline_only() -> None:
    queue = WorkQueue(BUDGET, COSTS)
    overdue, late = entry(deadline=60.0, due=1.0), entry(deadline=1.5, due=1.5)
    queue.put([overdue, late])
    assert queue.take(lambda: 2.0) == ([overdue], [late])


def test_equal_deadlines_go_in_order_of_arrival() -> None:
    queue = WorkQueue(BUDGET, COSTS)
    entries = [entry() for _ in range(5)]
    queue.put(entries)
    assert queue.take(lambda: 0.0) == (entries, [])


def test_what_nobody_waits_for_is_dropped_without_a_run() -> None:
    queue = WorkQueue(BUDGET, COSTS)
    late, left, wanted = entry(deadline=1.0), entry(abandoned=lambda: True), entry()
    queue.put([late, left, wanted])
    taken = queue.take(lambda: 1.0)
    assert taken == ([wanted], [late, left])


def test_only_dropped_entries_are_handed_over_too() -> None:
    queue = WorkQueue(BUDGET, COSTS)
    gone = entry(deadline=1.0)
    queue.put([gone])
    assert queue.take(lambda: 2.0) == ([], [gone])
    assert len(queue) == 0


def test_only_what_may_be_in_the_run_is_asked_whether_anybody_waits() -> None:
    asked: list[int] = []

    def note(number: int) -> bool:
        asked.append(number)
        return number == 1

    queue = WorkQueue(BUDGET, COSTS)
    late = [entry(deadline=1.0) for _ in range(3)]
    waiting = [entry(abandoned=lambda n=number: note(n)) for number in range(LOOK_AHEAD + 5)]
    queue.put([*waiting, *late])
    taken = queue.take(lambda: 1.0)
    assert taken is not None
    assert taken[1] == [*late, waiting[1]]
    assert taken[0] == [waiting[0], *waiting[2:21]]
    assert asked == list(range(LOOK_AHEAD))


def test_an_owners_entries_can_be_removed() -> None:
    queue = WorkQueue(BUDGET, COSTS)
    ours, theirs = entry(owner="us"), entry(owner="them")
    queue.put([ours, theirs])
    assert queue.remove("us") == [ours]
    assert queue.take(lambda: 0.0) == ([theirs], [])


def test_a_closed_queue_is_emptied_first() -> None:
    queue = WorkQueue(BUDGET, COSTS)
    last = entry()
    queue.put([last])
    queue.close()
    assert queue.take(lambda: 0.0) == ([last], [])
    assert queue.take(lambda: 0.0) is None


@pytest.mark.parametrize("wake", ["put", "close"])
def test_taking_waits_for_entries(wake: str) -> None:
    queue = WorkQueue(BUDGET, COSTS)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(queue.take(lambda: 0.0)))
    thread.start()
    new = entry()
    queue.put([new]) if wake == "put" else queue.close()
    thread.join(5)
    assert found == [([new], []) if wake == "put" else None]


def test_a_run_waits_for_others_until_a_time_only() -> None:
    queue = WorkQueue(BUDGET, COSTS)
    first, second, third = (entry(deadline=float("inf")) for _ in range(3))
    queue.put([first])
    threading.Timer(0.05, lambda: queue.put([second])).start()
    assert queue.take(time.monotonic, wanted=2, until=time.monotonic() + 30) == (
        [first, second],
        [],
    )
    queue.put([third])
    started = time.monotonic()
    assert queue.take(time.monotonic, wanted=2, until=started + 0.05) == ([third], [])
    assert 0.04 < time.monotonic() - started < 10


def test_a_run_waits_no_longer_for_what_was_removed() -> None:
    queue = WorkQueue(BUDGET, COSTS)
    queue.put([entry(owner="gone")])
    threading.Timer(0.02, lambda: queue.remove("gone")).start()
    assert queue.take(time.monotonic, wanted=2, until=time.monotonic() + 0.1) == ([], [])
