"""Admission, queue and predicted speed together, over an engine and a clock that are simulated."""

import heapq
import random
from dataclasses import dataclass, field

import numpy as np
import pytest

from trine.runtime.adapters.base import AdapterHandle
from trine.runtime.adapters.projector import Projector
from trine.runtime.inference.batch_planner import BatchCosts, Load
from trine.runtime.preprocessing.sequence import text_sequence
from trine.runtime.serving.scheduler.admission import Admission, Reservation, UnderWay
from trine.runtime.serving.scheduler.batching import BatchBudget, is_short
from trine.runtime.serving.scheduler.engine_meter import EngineBatch, Speed
from trine.runtime.serving.scheduler.work import Amount, estimate_work
from trine.runtime.serving.scheduler.work_queue import Entry, WorkQueue
from trine.runtime.serving.service.calls import ServiceError

BUDGET = BatchBudget(tokens=2048, patches=4096, short_tokens=256)
HANDLE = AdapterHandle(
    "retrieval", 0, Projector(np.zeros((1, 1), np.float32), np.zeros(1, np.float32))
)
#: Of a server's start: seconds of a batch and of a token, like the published model's on two cores.
BATCH_S, TOKEN_S = 0.15, 0.004
MAX_WAIT = 5.0


@dataclass(frozen=True)
class Caller:
    """One call: its tokens, when it comes, the seconds until its deadline."""

    tokens: int
    at: float
    timeout: float = 60.0


def batch(tokens: int, seconds: float) -> EngineBatch:
    return EngineBatch(graph="decoder", units=tokens, slots=tokens, items=1, seconds=seconds)


@dataclass
class Simulation:
    """An engine whose batches take `batch_s` + tokens × `token_s`, times what `slow` says."""

    batch_s: float = BATCH_S
    token_s: float = TOKEN_S
    slow: float = 1.0
    now: float = 0.0
    waits: dict[Caller, float] = field(default_factory=dict)
    refused: list[tuple[Caller, int]] = field(default_factory=list)
    late: list[Caller] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.speed = Speed(BUDGET.tokens)
        # As `time_batches` does at a server's start.
        self.speed.begin_with(
            [batch(tokens, self.batch_s + tokens * self.token_s) for tokens in (16, 128) * 3]
        )
        self.under_way: UnderWay | None = None
        self.admission = Admission(
            131072, BUDGET, self.speed.seconds, MAX_WAIT, lambda: self.under_way, lambda: self.now
        )
        costs = BatchCosts(batch=16, slot_pair=0)
        self.queue = WorkQueue(BUDGET, costs, self.speed.cost)
        self.held: dict[int, tuple[Caller, Reservation]] = {}

    def learn(self, tokens: int, seconds: float) -> None:
        self.speed.add(batch(tokens, seconds))
        self.speed.finish(seconds)

    def come(self, caller: Caller) -> None:
        amount = Amount(caller.tokens)
        try:
            held = self.admission.admit(estimate_work([amount], BUDGET), caller.timeout)
        except ServiceError as error:
            self.refused.append((caller, error.retry_after or 0))
            return
        number = len(self.held)
        self.held[number] = caller, held
        deadline = self.now + caller.timeout
        self.queue.put(
            [
                Entry(
                    sequence=text_sequence(np.zeros(caller.tokens, np.int64), caller.tokens),
                    adapter=HANDLE,
                    load=Load(caller.tokens, 0, 0),
                    short=is_short(caller.tokens, 0, BUDGET),
                    spans=(),
                    deadline=deadline,
                    due=min(deadline, self.now + MAX_WAIT),
                    abandoned=bool,
                    owner=number,
                    index=0,
                    single=True,
                    multi=False,
                    normalize=True,
                )
            ]
        )

    def leave(self, entry: Entry) -> Caller:
        caller, held = self.held[entry.owner]  # type: ignore[index]
        held.release()
        return caller

    def run(self, callers: list[Caller]) -> None:
        """Let calls come, and the engine compute, until all is done."""
        coming = [(caller.at, number, caller) for number, caller in enumerate(callers)]
        heapq.heapify(coming)
        while coming or len(self.queue):
            while coming and coming[0][0] <= self.now:
                self.come(heapq.heappop(coming)[2])
            if not len(self.queue):
                self.now = max(self.now, coming[0][0]) if coming else self.now
                continue
            taken = self.queue.take(lambda: self.now)
            assert taken is not None
            entries, dropped = taken
            self.late += [self.leave(entry) for entry in dropped]
            if not entries:
                continue
            start = self.now
            tokens = sum(entry.load.tokens for entry in entries)
            seconds = self.slow * (self.batch_s + self.token_s * tokens)
            self.under_way = UnderWay(Amount(tokens), start)
            while coming and coming[0][0] <= start + seconds:
                self.now = coming[0][0]
                self.come(heapq.heappop(coming)[2])
            self.now = start + seconds
            self.under_way = None
            self.learn(tokens, seconds)
            self.admission.batch_ended(all(e.short for e in entries), start, self.now)
            for entry in entries:
                caller = self.leave(entry)
                self.waits[caller] = start - caller.at


def slowest(waits: list[float]) -> float:
    return float(np.percentile(waits, 99))


def burst(tokens: int, count: int = 400, at: float = 0.0) -> list[Caller]:
    # A little apart, so that each is a call of its own.
    return [Caller(tokens, at + number * 1e-6) for number in range(count)]


@pytest.mark.parametrize("tokens", [12, 40, 200])
def test_of_four_hundred_at_once_those_answered_wait_no_longer_than_allowed(tokens: int) -> None:
    found = Simulation()
    found.run(burst(tokens))
    assert len(found.waits) + len(found.refused) == 400
    assert not found.late
    waits = list(found.waits.values())
    assert slowest(waits) <= MAX_WAIT
    # It does not refuse what could have been done.
    answered = len(found.waits) * tokens * TOKEN_S
    assert answered >= min(0.6 * MAX_WAIT, 400 * tokens * TOKEN_S * 0.99)


def test_a_burst_after_single_queries_is_not_taken_for_as_many_batches() -> None:
    found = Simulation()
    found.run([Caller(12, second) for second in range(1000)])
    assert not found.refused
    before = len(found.waits)
    found.run(burst(12, 80, at=1000.0))
    # 80 × 12 tokens take 4 s together; one by one they would take 16.
    assert len(found.waits) - before >= 60


def test_who_comes_back_when_told_is_answered() -> None:
    found = Simulation()
    found.run(burst(40))
    assert found.refused
    first, retry_after = found.refused[0]
    after = Caller(40, first.at + retry_after)
    again = Simulation()
    again.run([*burst(40), after])
    assert after in again.waits


@pytest.mark.parametrize("load", [0.7, 1.5, 4.0])
def test_a_steady_load_is_answered_in_time_whatever_its_mix(load: float) -> None:
    """Queries and documents, some calls in a hurry; more than the engine can do is refused."""
    draw = random.Random(7)
    callers, at = [], 0.0
    while at < 300:
        tokens = draw.choice([10, 20, 60, 200, 200, 900, 1800])
        at += draw.expovariate(1.0) * tokens * 0.001 / load
        callers.append(Caller(tokens, at, draw.choice([60.0, 60.0, 8.0])))
    found = Simulation(batch_s=0.05, token_s=0.001)
    found.run(callers)
    assert slowest(list(found.waits.values())) <= 1.1 * MAX_WAIT
    for short in (True, False):
        lane = [c for c in found.waits if is_short(c.tokens, 0, BUDGET) is short]
        assert slowest([found.waits[caller] for caller in lane]) <= 1.35 * MAX_WAIT
        assert len(lane) > 20, "neither lane is kept out"
    assert len(found.late) <= 0.01 * len(callers)
    answered = sum(caller.tokens for caller in found.waits) * 0.001
    offered = sum(caller.tokens for caller in callers) * 0.001
    assert answered >= 0.8 * min(offered, 300.0)
    if load < 1:
        assert len(found.refused) <= 0.03 * len(callers)


def test_calls_in_a_hurry_do_not_pass_the_others_for_ever() -> None:
    patient = Caller(200, 0.5)
    hurried = [Caller(200, number * 0.5, timeout=6.0) for number in range(200)]
    found = Simulation()
    found.run([*hurried, patient])
    assert found.waits[patient] <= 1.1 * MAX_WAIT


def test_an_engine_that_has_become_slower_is_believed_within_some_batches() -> None:
    found = Simulation(slow=3.0)
    callers, at = [], 0.0
    while at < 120:
        at += 0.2
        callers.append(Caller(200, at))
    found.run(callers)
    settled = [wait for caller, wait in found.waits.items() if caller.at > 30]
    assert slowest(settled) <= 1.1 * MAX_WAIT
    assert len(settled) > 20
