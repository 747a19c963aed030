"""Ends a request's work when its time is up or its client leaves."""

import asyncio
import time
from typing import Literal, TypeAlias

from starlette.types import Receive

__all__ = ["EndReason", "RequestWatch"]

#: Seconds from when on a request is watched for its client leaving. Most are answered sooner, and
#: a task that watches costs as much as their handling.
WATCH_AFTER_S = 0.05

#: Why a request's work was ended.
EndReason: TypeAlias = Literal["time", "client_left"]


class RequestWatch:
    """Watches over the task that makes it, until `stop`. For the event loop's thread.

    Args:
        deadline: on `time.monotonic()`'s clock.
        receive: of ASGI.
    """

    def __init__(self, deadline: float, receive: Receive) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._receive = receive
        self._timer = self._loop.call_later(
            max(deadline - time.monotonic(), 0.0), self._end, "time"
        )
        self._look: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None
        #: Why the task was cancelled; None if it was not, or not from here.
        self.reason: EndReason | None = None

    def body_is_read(self) -> None:
        """Say that from now on `receive` only tells that the client left."""
        self._look = self._loop.call_later(WATCH_AFTER_S, self._start)

    def client_has_left(self) -> bool:
        """Return whether the task was ended because its client left; safe from any thread."""
        return self.reason == "client_left"

    def cancelled(self) -> bool:
        """Return whether it was this watch that cancelled the task, which then goes on."""
        return self.reason is not None and self._task is not None and not self._task.uncancel()

    def stop(self) -> None:
        """Watch no more."""
        self._timer.cancel()
        if self._look is not None:
            self._look.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    def _start(self) -> None:
        self._watcher = self._loop.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._end("client_left")

    def _end(self, reason: EndReason) -> None:
        if self.reason is None and self._task is not None:
            self.reason = reason
            self._task.cancel()
