import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trine.runtime.inputs import ImageText
from trine.runtime.serving.scheduler.admission import Admission, PatchRoom, UnderWay, expected_wait
from trine.runtime.serving.scheduler.batching import SHORT_TURNS, BatchBudget
from trine.runtime.serving.scheduler.work import Amount, Work, estimate_amount, estimate_work
from trine.runtime.serving.service.calls import EmbedItem, ServiceError

BUDGET = BatchBudget(tokens=20, patches=20, short_tokens=10)


def admission(
    max_tokens: int = 100,
    rate: float = 0.0,
    max_wait: float = 1e9,
    under_way: UnderWay | None = None,
    now: float = 0.0,
) -> Admission:
    return Admission(
        max_tokens,
        BUDGET,
        lambda tokens, patches: rate * (tokens + patches),
        max_wait,
        lambda: under_way,
        lambda: now,
    )


def short(tokens: int) -> Work:
    return Work(Amount(tokens))


def long(tokens: int, patches: int = 0) -> Work:
    return Work(long=Amount(tokens, patches))


@pytest.mark.parametrize("lane", [short, long])
def test_a_full_lane_refuses_and_says_when_to_come_back(lane: Callable[[int], Work]) -> None:
    queue = admission()
    first = queue.admit(lane(100), 60.0)
    with pytest.raises(ServiceError) as refused:
        queue.admit(lane(1), 60.0)
    assert (refused.value.status, refused.value.code) == (429, "queue_full")
    assert refused.value.retry_after is not None
    assert 1 <= refused.value.retry_after <= 120
    first.release()
    queue.admit(lane(1), 60.0)


def test_documents_do_not_keep_queries_out() -> None:
    queue = admission(rate=1.0)
    queue.admit(long(1000, 50000), 1e6)
    with pytest.raises(ServiceError):
        queue.admit(long(1), 60.0)
    # Ahead of a query is one run of 20 tokens and 20 patches: 40 s.
    queue.admit(short(1), 55.0)
    with pytest.raises(ServiceError):
        queue.admit(short(1), 45.0)


def test_one_call_larger_than_the_bound_is_taken_when_there_is_room() -> None:
    assert admission().admit(long(500), 60.0).tokens == 500


def test_what_cannot_be_done_in_time_is_refused_at_once() -> None:
    queue = admission(rate=1.0)
    queue.admit(short(50), 10.0)  # nothing is ahead of it, whatever its own size
    with pytest.raises(ServiceError) as refused:
        queue.admit(short(1), 60.0)
    assert refused.value.code == "queue_too_long"
    queue.admit(short(1), 110.0)


def test_what_would_wait_too_long_is_refused_however_much_time_it_has() -> None:
    queue = admission(rate=1.0, max_wait=20.0)
    first = queue.admit(short(17), 60.0)  # on an idle server, nothing waits
    with pytest.raises(ServiceError) as refused:
        queue.check(True, 60.0)
    assert (refused.value.status, refused.value.code) == (429, "queue_too_long")
    assert refused.value.retry_after == 1
    first.change(True, -1, 0)
    queue.admit(short(1), 60.0)


def test_nothing_is_refused_for_its_wait_before_speed_is_known() -> None:
    queue = admission(max_tokens=10_000, max_wait=0.1)
    for _ in range(400):
        queue.admit(short(20), 60.0)
        queue.admit(long(20), 60.0)


@pytest.mark.parametrize(
    ("is_short", "short_s", "long_s", "batch_s", "share", "wait"),
    [
        (True, 0.0, 0.0, 2.0, 0.0, 0.0),
        (False, 0.0, 0.0, 2.0, 0.0, 0.0),
        (False, 3.0, 5.0, 2.0, 0.0, 8.0),
        (True, 0.0, 1.0, 2.0, 0.0, 1.0),  # the one batch under way is smaller than a full one
        (True, 0.0, 50.0, 2.0, 0.0, 2.0),
        (True, 4.0, 50.0, 2.0, 0.9, 4.0 + 2.0 + 4.0 / SHORT_TURNS),
        (True, 4.0, 0.5, 2.0, 0.0, 4.5),
        (False, 1.0, 5.0, 2.0, 0.5, 12.0),  # as many short ones come as go meanwhile
        (False, 1.0, 5.0, 2.0, 1.0, SHORT_TURNS * 2.0 + 5 * 5.0),  # one long turn in five
        (False, 90.0, 0.0, 2.0, 0.0, SHORT_TURNS * 2.0),  # it does not wait for all short ones
    ],
)
def test_the_expected_wait_counts_the_own_lane_and_what_comes_between(
    is_short: bool, short_s: float, long_s: float, batch_s: float, share: float, wait: float
) -> None:
    assert expected_wait(is_short, short_s, long_s, batch_s, share) == pytest.approx(wait)


def test_what_the_engine_has_done_of_its_batch_is_not_waited_for_again() -> None:
    running = UnderWay(Amount(10), start=100.0)
    queue = admission(rate=1.0, max_wait=10.0, under_way=running, now=104.0)
    queue.admit(short(12), 60.0)
    queue.check(True, 60.0)  # 12 s less the 4 that are over
    slow = admission(rate=1.0, max_wait=10.0, under_way=running, now=900.0)
    slow.admit(short(19), 60.0)
    with pytest.raises(ServiceError, match=r"about 9\.0 s"):
        slow.check(True, 60.0)  # a batch that takes longer than predicted ends, but no earlier


def test_short_items_of_a_call_with_a_long_one_are_ahead_of_short_calls() -> None:
    queue = admission(rate=1.0, max_wait=30.0)
    held = queue.admit(Work(Amount(40), Amount(1), Amount(1)), 1e6)
    with pytest.raises(ServiceError):
        queue.check(True, 60.0)
    held.change(True, -40, 0)
    queue.check(True, 60.0)


def test_a_document_longer_than_a_batch_is_waited_for_as_a_whole() -> None:
    queue = admission(rate=1.0, max_wait=100.0)
    held = queue.admit(Work(long=Amount(90), largest=Amount(90)), 1e6)
    with pytest.raises(ServiceError, match=r"about 90\.0 s"):
        queue.check(True, 60.0)
    held.release()
    queue.admit(Work(long=Amount(90), largest=Amount(20)), 1e6)
    queue.check(True, 60.0)  # 40 s: a batch of 20 tokens and 20 patches


def test_long_items_wait_for_the_short_ones_that_keep_coming() -> None:
    queue = admission(rate=1.0, max_wait=20.0)
    queue.admit(long(9), 1e6)
    queue.check(False, 60.0)
    for start in range(100):
        queue.batch_ended(True, start, start + 0.7)
    with pytest.raises(ServiceError, match=r"about 29\.\d s"):
        queue.check(False, 60.0)
    for start in range(100, 200):
        queue.batch_ended(False, start, start + 1.0)
    queue.check(False, 60.0)


@given(st.lists(st.tuples(st.integers(-200, 200), st.integers(-200, 200)), max_size=20))
def test_reservations_never_go_below_nothing(changes: list[tuple[int, int]]) -> None:
    queue = admission()
    held = queue.admit(long(50, 20), 60.0)
    for tokens, patches in changes:
        held.change(False, tokens, patches)
        assert (queue.tokens, queue.patches) == (held.tokens, held.patches)
        assert min(queue.tokens, queue.patches) >= 0
    held.release()
    assert (queue.tokens, queue.patches) == (0, 0)


@pytest.mark.parametrize(
    ("contents", "work"),
    [
        (["a" * 24, "b" * 8], Work(Amount(16))),
        (["a" * 24, "b" * 80], Work(Amount(10), Amount(24), Amount(24))),
        (["b" * 80, "b" * 40], Work(Amount(), Amount(38), Amount(24))),
        (["a", ImageText((b"", b""))], Work(Amount(4), Amount(4, 200), Amount(4, 200))),
        ([], Work()),
    ],
)
def test_a_call_is_short_if_all_its_items_are(contents: list[str | ImageText], work: Work) -> None:
    items = [EmbedItem(content, "retrieval") for content in contents]
    found = estimate_work((estimate_amount([item], 1000, 100) for item in items), BUDGET)
    assert found == work
    assert found.all_short is (work.long == Amount())


def test_estimates_follow_the_script_and_the_limit() -> None:
    def estimate(content: str | tuple[int, ...] | ImageText, limit: int = 1000) -> int:
        return estimate_amount([EmbedItem(content, "retrieval")], limit).tokens

    assert estimate("a" * 400) == 104
    assert estimate("字" * 100) == 104
    assert estimate((1, 2, 3)) == 7
    assert estimate("a" * 40000, 512) == 512
    assert estimate(ImageText((b"",), "a" * 40)) == 14


def test_room_is_given_in_order_and_never_overdrawn() -> None:
    async def scenario() -> list[int]:
        room, order, used = PatchRoom(10), [], 0

        async def use(number: int, patches: int) -> None:
            nonlocal used
            await room.acquire(patches)
            used += patches
            assert used <= 10
            order.append(number)
            await asyncio.sleep(0)
            used -= patches
            room.release(patches)

        await asyncio.gather(*(use(i, size) for i, size in enumerate([6, 6, 3, 10, 1])))
        return order

    assert asyncio.run(scenario()) == [0, 1, 2, 3, 4]


def test_a_waiting_caller_that_leaves_lets_the_next_one_in() -> None:
    async def scenario() -> None:
        room = PatchRoom(10)
        await room.acquire(8)
        large = asyncio.ensure_future(room.acquire(10))
        small = asyncio.ensure_future(room.acquire(2))
        await asyncio.sleep(0)
        assert not small.done()
        large.cancel()
        await asyncio.wait_for(small, 1)
        room.release(10)
        await asyncio.wait_for(room.acquire(10), 1)

    asyncio.run(scenario())


def test_room_given_to_a_caller_that_left_comes_back() -> None:
    async def scenario() -> None:
        room = PatchRoom(10)
        await room.acquire(10)
        waiting = asyncio.ensure_future(room.acquire(10))
        await asyncio.sleep(0)
        room.release(10)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.wait_for(room.acquire(10), 1)

    asyncio.run(scenario())
