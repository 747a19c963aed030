import asyncio
import logging
import multiprocessing

import pytest

from trine.runtime.serving.calls import ServiceError
from trine.runtime.serving.control import AdapterChange, WorkerChannel


class Refusing:
    """Adapters that cannot be changed."""

    async def load_adapter(self, name: str, folder: str, task: str | None = None) -> None:
        raise ServiceError(422, "unusable_adapter", "its folder is gone")

    async def unload_adapter(self, name: str) -> None:
        raise AssertionError(name)


def test_a_worker_that_cannot_catch_up_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def start() -> None:
        ours, theirs = multiprocessing.Pipe()
        stopped = asyncio.Event()
        await WorkerChannel(theirs, (AdapterChange("legal", "one"),)).start(Refusing(), stopped.set)
        ours.close()
        await asyncio.wait_for(stopped.wait(), 10)
        theirs.close()

    with caplog.at_level(logging.ERROR):
        asyncio.run(start())
    assert "its folder is gone" in caplog.text
