import asyncio
import logging
import multiprocessing

import pytest

from trine.runtime.serving.service.calls import ServiceError
from trine.runtime.serving.workers.control import (
    AdapterChange,
    Done,
    Failure,
    Order,
    StagedAdapters,
    WorkerChannel,
)


class Refusing:
    """Adapters that cannot be changed."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def prepare(self, name: str, folder: str, task: str | None) -> str:
        raise self.error

    def commit(self, name: str) -> None:
        raise AssertionError(name)

    def abort(self, name: str) -> None:
        raise AssertionError(name)

    async def unload(self, name: str) -> None:
        raise self.error

    def miss(self, name: str, reason: str) -> None:
        self.missed = name, reason


class Reading:
    """Adapters whose files have one hash."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        self.done: list[str] = []

    async def prepare(self, name: str, folder: str, task: str | None) -> str:
        self.done.append("stage")
        return self.digest

    def commit(self, name: str) -> None:
        self.done.append("keep")

    def abort(self, name: str) -> None:
        self.done.append("drop")

    async def unload(self, name: str) -> None:
        self.done.append("unload")

    def miss(self, name: str, reason: str) -> None:
        self.done.append(reason)


def catch_up(adapters: StagedAdapters, *changes: AdapterChange) -> None:
    """Start a worker with changes that others made before."""

    async def start() -> None:
        ours, theirs = multiprocessing.Pipe()
        stopped = asyncio.Event()
        await WorkerChannel(theirs, changes).start(adapters, stopped.set)
        ours.close()
        await asyncio.wait_for(stopped.wait(), 10)
        theirs.close()

    asyncio.run(start())


def test_a_worker_that_cannot_catch_up_says_so(caplog: pytest.LogCaptureFixture) -> None:
    gone = Refusing(ServiceError(422, "unusable_adapter", "its folder is gone"))
    with caplog.at_level(logging.ERROR):
        catch_up(gone, AdapterChange("legal", "one", digest="a"))
    assert "its folder is gone" in caplog.text
    assert gone.missed == ("legal", "its folder is gone")


def test_a_worker_catches_up_with_what_others_loaded_and_nothing_else() -> None:
    same, other = Reading("a"), Reading("b")
    change = AdapterChange("legal", "one", digest="a")
    catch_up(same, change, AdapterChange("code"))
    catch_up(other, change)
    assert same.done == ["stage", "keep", "unload"]
    assert other.done == ["stage", "drop", "one: was changed since it was loaded"]


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (
            ServiceError(409, "adapter_in_use", "wait", param="name", retry_after=1),
            Failure(409, "adapter_in_use", "wait", "name", 1),
        ),
        (
            MemoryError(),
            Failure(500, "internal_error", "a worker failed to change its adapters"),
        ),
    ],
)
def test_every_order_is_answered(error: Exception, failure: Failure) -> None:
    async def ask() -> Done:
        ours, theirs = multiprocessing.Pipe()
        stopped = asyncio.Event()
        await WorkerChannel(theirs, ()).start(Refusing(error), stopped.set)
        ours.send(Order(7, AdapterChange("legal")))
        found = await asyncio.to_thread(ours.recv)
        ours.close()
        await asyncio.wait_for(stopped.wait(), 10)
        theirs.close()
        assert isinstance(found, Done)
        return found

    assert asyncio.run(ask()) == Done(7, failure)
    assert failure.error().retry_after == failure.retry_after
