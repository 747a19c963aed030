import asyncio
import logging
import multiprocessing

import pytest

from trine.runtime.serving.calls import ServiceError
from trine.runtime.serving.control import AdapterChange, Done, Failure, Order, WorkerChannel


class Refusing:
    """Adapters that cannot be changed."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def stage(self, name: str, folder: str, task: str | None) -> None:
        raise self.error

    def keep(self, name: str) -> None:
        raise AssertionError(name)

    def drop(self, name: str) -> None:
        raise AssertionError(name)

    async def unload(self, name: str) -> None:
        raise self.error


def test_a_worker_that_cannot_catch_up_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def start() -> None:
        ours, theirs = multiprocessing.Pipe()
        stopped = asyncio.Event()
        gone = Refusing(ServiceError(422, "unusable_adapter", "its folder is gone"))
        await WorkerChannel(theirs, (AdapterChange("legal", "one"),)).start(gone, stopped.set)
        ours.close()
        await asyncio.wait_for(stopped.wait(), 10)
        theirs.close()

    with caplog.at_level(logging.ERROR):
        asyncio.run(start())
    assert "its folder is gone" in caplog.text


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
