"""Measures how far the event loop is behind: the one resource that no queue shows."""

import asyncio
import contextlib

__all__ = ["LoopLag"]

#: Seconds between two looks.
INTERVAL_S = 0.02
#: Weight of the newest look: one slow step alone does not make a loop busy.
NEWEST = 0.2
#: Seconds behind from which new requests are refused, so that refusals stay quick.
BUSY_S = 0.03


class LoopLag:
    """Watches the event loop it was started on."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether the loop has more to do than it can."""
        return self.seconds > BUSY_S

    def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.ensure_future(self._watch())

    async def stop(self) -> None:
        """Watch no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + INTERVAL_S
            await asyncio.sleep(INTERVAL_S)
            self.seconds += NEWEST * (max(loop.time() - due, 0.0) - self.seconds)
