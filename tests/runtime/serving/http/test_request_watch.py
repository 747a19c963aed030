import asyncio
import time
from typing import Any

import pytest

from trine.runtime.serving.http.event_loop import run_on_loop
from trine.runtime.serving.http.request_watch import WATCH_AFTER_S, RequestWatch


async def never() -> Any:
    await asyncio.get_running_loop().create_future()


async def leaving() -> Any:
    return {"type": "http.disconnect"}


def test_work_ends_when_its_time_is_up() -> None:
    async def request() -> str:
        watch = RequestWatch(time.monotonic() + 0.02, never)
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            assert watch.cancelled()
            assert not watch.client_has_left()
        finally:
            watch.stop()
        # The task goes on, to say so to the client.
        await asyncio.sleep(0)
        return str(watch.reason)

    assert run_on_loop(request()) == "time"


def test_work_ends_when_the_client_leaves_after_its_body_was_read() -> None:
    async def request() -> float:
        started = time.monotonic()
        watch = RequestWatch(started + 30, leaving)
        await asyncio.sleep(2 * WATCH_AFTER_S)
        assert watch.reason is None, "nobody listens before the body is read"
        watch.body_is_read()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            assert watch.cancelled()
            assert watch.client_has_left()
        finally:
            watch.stop()
        return time.monotonic() - started

    assert run_on_loop(request()) < 10


def test_a_watch_that_was_stopped_ends_nothing() -> None:
    async def request() -> None:
        watch = RequestWatch(time.monotonic() + 0.01, leaving)
        watch.body_is_read()
        watch.stop()
        await asyncio.sleep(2 * WATCH_AFTER_S)
        assert watch.reason is None

    run_on_loop(request())


def test_a_cancellation_of_others_is_not_its_own() -> None:
    async def request() -> bool:
        watch = RequestWatch(time.monotonic() + 30, never)
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            return watch.cancelled()
        finally:
            watch.stop()
        return True

    async def cancel() -> bool:
        task = asyncio.ensure_future(request())
        await asyncio.sleep(0)
        task.cancel()
        return await task

    assert not run_on_loop(cancel())


def test_a_failure_is_raised_where_the_loop_was_started() -> None:
    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_on_loop(fail())
