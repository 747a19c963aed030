"""The supervisor replaces workers that die; the processes here only seem to be some."""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import pytest

from trine.runtime.serving.config.settings import ServerSettings
from trine.runtime.serving.workers.control import AdapterChange, Done, Failure, Order
from trine.runtime.serving.workers.supervisor import FAILED, Supervisor

M = TypeVar("M", Order, Done)
LOAD = AdapterChange("legal", "one")
UNLOAD = AdapterChange("legal")


class Process:
    """A worker's process, which does nothing."""

    numbers = iter(range(2**30, 2**31))

    def __init__(self, args: tuple[Any, ...], **_: object) -> None:
        # The supervisor closes its copy of the worker's end once the process has its own.
        self.pipe: Connection[Any, Any] = Connection(os.dup(args[4].fileno()))
        self.changes: tuple[AdapterChange, ...] = args[5]
        self.told: list[Order | Done] = []
        self.pid = next(self.numbers)
        self.exitcode: int | None = None
        self.sentinel, self._end = multiprocessing.Pipe(duplex=False)
        self._closing = threading.Lock()

    def is_alive(self) -> bool:
        # It gets no signals: its number is nobody's.
        return False

    def end(self) -> None:
        """End, as `sentinel` shows."""
        with self._closing:
            self._end.close()

    def start(self) -> None:
        pass

    def join(self, timeout: float | None = None) -> None:
        pass

    def close(self) -> None:
        # The supervisor may close it while the test's thread still ends it.
        with self._closing:
            for part in (self.pipe, self.sentinel, self._end):
                part.close()


class Context:
    """Makes such processes."""

    Pipe = staticmethod(multiprocessing.Pipe)
    Process = Process


class Driven:
    """A supervisor of two workers, whose steps a test takes."""

    def __init__(self, folder: Path) -> None:
        settings = ServerSettings(bundle=folder, workers=2)
        self.supervisor = Supervisor(settings, None, Context())  # type: ignore[arg-type]
        self.folder = folder
        self.start()

    def close(self) -> None:
        for worker in self.supervisor.workers:
            for part in (worker.process, worker.pipe):
                if part is not None:
                    part.close()
        self.supervisor.close()

    def start(self) -> None:
        for worker in self.supervisor.workers:
            worker.due = 0.0
        self.supervisor.start_due(self.folder)

    def process(self, number: int) -> Process:
        found = self.supervisor.workers[number].process
        assert isinstance(found, Process)
        return found

    def ask(self, number: int, change: AdapterChange, order: int = 0) -> None:
        self.process(number).pipe.send(Order(order, change))
        self.supervisor.read(self.supervisor.workers[number])

    def answer(self, number: int, failure: Failure | None = None) -> Order:
        """Take the order that a worker got, and answer it."""
        order = self._told(number, Order)
        self.process(number).pipe.send(Done(order.number, failure))
        self.supervisor.read(self.supervisor.workers[number])
        return order

    def load(self, change: AdapterChange) -> None:
        """Have both workers make a load, asked for by the first."""
        self.ask(0, change)
        for _ in ("make", "keep"):
            self.answer(0)
            self.answer(1)
        assert self.outcome(0).failure is None

    def outcome(self, number: int) -> Done:
        """Return the answer to what a worker asked."""
        return self._told(number, Done)

    def _told(self, number: int, kind: type[M]) -> M:
        process = self.process(number)
        while process.pipe.poll():
            process.told.append(process.pipe.recv())
        found = next(message for message in process.told if isinstance(message, kind))
        process.told.remove(found)
        return found

    def die(self, number: int, code: int = -9) -> int:
        worker = self.supervisor.workers[number]
        worker.process.exitcode = code
        return self.supervisor.bury(worker)


@pytest.fixture
def driven(metrics_folder: Path) -> Iterator[Driven]:
    opened = Driven(metrics_folder)
    yield opened
    opened.close()


def test_a_worker_started_during_a_change_makes_it_too(driven: Driven) -> None:
    driven.ask(0, LOAD)
    driven.answer(0)
    driven.die(1)
    driven.ask(0, UNLOAD, 1)
    driven.answer(0)  # keeps it
    driven.start()
    assert driven.process(1).changes == (LOAD,)
    driven.answer(0)
    assert driven.answer(1).change == UNLOAD, "it has what it was started with, and no more"
    assert [driven.outcome(0).failure for _ in range(2)] == [None, None]


def test_a_worker_started_while_others_keep_a_load_begins_with_it(driven: Driven) -> None:
    driven.ask(0, LOAD)
    driven.answer(0)
    driven.answer(1)
    driven.die(1)
    driven.start()
    assert driven.process(1).changes == (LOAD,)
    assert not driven.process(1).pipe.poll(0.1)
    assert driven.answer(0).step == "keep"
    assert driven.outcome(0).failure is None


def test_a_load_that_one_worker_cannot_make_is_made_by_none(driven: Driven) -> None:
    driven.load(LOAD)
    failure = Failure(422, "unusable_adapter", "all slots are taken", "folder")
    driven.ask(0, AdapterChange("legal", "two"), 1)
    driven.answer(0)
    driven.answer(1, failure)
    assert driven.answer(0).step == "drop"
    assert not driven.process(1).pipe.poll(0.1)
    assert driven.outcome(0).failure == failure
    driven.die(1)
    driven.start()
    assert driven.process(1).changes == (LOAD,), "the adapter before stays what it was"


def test_a_change_that_kills_whoever_makes_it_is_not_repeated(driven: Driven) -> None:
    driven.ask(0, LOAD)
    driven.die(0)
    driven.die(1)
    driven.start()
    assert driven.process(0).changes == driven.process(1).changes == ()


def test_the_order_of_a_dead_worker_is_not_answered_to_its_successor(driven: Driven) -> None:
    driven.ask(0, LOAD)
    driven.die(0)
    driven.start()
    driven.answer(1)
    assert driven.answer(0).step == "make"
    driven.answer(1)
    assert driven.answer(0).step == "keep"
    assert not driven.process(0).pipe.poll(0.1)


@pytest.mark.parametrize("code", ["adapter_in_use", "unknown_adapter"])
def test_an_adapter_that_is_gone_does_not_come_back(driven: Driven, code: str) -> None:
    driven.load(LOAD)
    failure = Failure(409 if code == "adapter_in_use" else 404, code, "no", "name")
    driven.ask(0, UNLOAD, 1)
    driven.answer(0, failure)
    driven.answer(1)
    # That some still use it is said; that some had it no more is no failure.
    assert driven.outcome(0).failure == (failure if code == "adapter_in_use" else None)
    driven.die(1)
    driven.start()
    assert driven.process(1).changes == (UNLOAD,)


def test_a_change_that_failed_everywhere_is_no_change(driven: Driven) -> None:
    failure = Failure(422, "unusable_adapter", "no", "folder")
    driven.ask(0, LOAD)
    driven.answer(0, failure)
    driven.answer(1, failure)
    assert driven.outcome(0).failure == failure
    driven.die(1)
    driven.start()
    assert driven.process(1).changes == ()


def test_a_worker_that_cannot_come_back_does_not_end_the_others(driven: Driven) -> None:
    driven.die(1)
    driven.start()
    assert driven.die(1, FAILED) == 0
    assert driven.process(0).exitcode is None
    assert driven.die(0, FAILED) == FAILED


def test_a_bundle_that_cannot_be_served_at_the_start_ends_all(driven: Driven) -> None:
    assert driven.die(1, FAILED) == FAILED


def test_a_change_under_way_when_all_is_to_end_is_made_to_its_end(driven: Driven) -> None:
    driven.ask(0, LOAD)
    answers: list[Order | Done] = []

    def live() -> None:
        processes = [driven.process(number) for number in range(2)]
        for _ in ("make", "keep"):
            for process in processes:
                answers.append(process.pipe.recv())
                process.pipe.send(Done(answers[-1].number))
        answers.append(processes[0].pipe.recv())
        for process in processes:
            process.end()

    workers = threading.Thread(target=live)
    workers.start()
    driven.supervisor.end()
    workers.join(10)
    assert answers[-1] == Done(0, None)
    assert all(worker.process is None for worker in driven.supervisor.workers)
