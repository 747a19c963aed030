"""How workers and their supervisor agree on the adapters that are loaded.

A worker that is asked to change an adapter asks the supervisor, which has every worker do it and
then answers. Messages are pickled over a pipe between processes of this program only.
"""

import asyncio
import itertools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

from trine.runtime.serving.calls import ServiceError

__all__ = [
    "AdapterChange",
    "AdapterControl",
    "Done",
    "Failure",
    "Message",
    "Order",
    "WorkerChannel",
    "apply_change",
]


logger = logging.getLogger(__name__)


class AdapterControl(Protocol):
    """Changes adapters; `trine.runtime.serving.calls.Embedding` says how."""

    async def load_adapter(self, name: str, folder: str, task: str | None = None) -> None: ...

    async def unload_adapter(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class AdapterChange:
    """What is to happen.

    Attributes:
        name: of the adapter.
        folder: to load it from; None to unload it.
        task: which of the folder's adapters.
    """

    name: str
    folder: str | None = None
    task: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A `ServiceError` on its way between processes."""

    status: int
    code: str
    message: str
    param: str | None

    def error(self) -> ServiceError:
        """Return the error."""
        return ServiceError(self.status, self.code, self.message, param=self.param)


@dataclass(frozen=True, slots=True)
class Order:
    """Asks the other side for a change; `number` is the sender's."""

    number: int
    change: AdapterChange


@dataclass(frozen=True, slots=True)
class Done:
    """Answers an order of that number."""

    number: int
    failure: Failure | None = None


#: What goes over the pipe, either way.
Message = Order | Done


async def apply_change(adapters: AdapterControl, change: AdapterChange) -> Failure | None:
    """Carry out a change and return how it failed, if it did."""
    try:
        if change.folder is None:
            await adapters.unload_adapter(change.name)
        else:
            await adapters.load_adapter(change.name, change.folder, change.task)
    except ServiceError as error:
        return Failure(error.status, error.code, error.message, error.param)
    return None


class WorkerChannel:
    """A worker's end of the pipe. For the event loop's thread, but for one that reads.

    Args:
        pipe: to the supervisor.
        changes: that were made before this worker started.
    """

    def __init__(self, pipe: "Connection[Any, Any]", changes: tuple[AdapterChange, ...]) -> None:
        self._pipe = pipe
        self._changes = changes
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Failure | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, local: AdapterControl, stop: Callable[[], None]) -> None:
        """Catch up with the other workers' adapters, then follow the supervisor.

        Args:
            local: changes the adapters of this process.
            stop: called when the supervisor is gone.
        """
        for change in self._changes:
            failure = await apply_change(local, change)
            if failure is not None:
                logger.error(
                    "this worker lacks a change of adapters that others made: %s",
                    failure.message,
                    extra={"adapter": change.name},
                )
        loop = asyncio.get_running_loop()

        def read() -> None:
            try:
                while True:
                    loop.call_soon_threadsafe(self._received, self._pipe.recv(), local)
            except (EOFError, OSError):
                loop.call_soon_threadsafe(stop)

        threading.Thread(target=read, name="trine-control", daemon=True).start()

    async def load_adapter(self, name: str, folder: str, task: str | None = None) -> None:
        await self._ask(AdapterChange(name, folder, task))

    async def unload_adapter(self, name: str) -> None:
        await self._ask(AdapterChange(name))

    async def _ask(self, change: AdapterChange) -> None:
        number = next(self._numbers)
        answer: asyncio.Future[Failure | None] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self._pipe.send(Order(number, change))
            failure = await answer
        finally:
            del self._waiting[number]
        if failure is not None:
            raise failure.error()

    def _received(self, message: Message, local: AdapterControl) -> None:
        if isinstance(message, Done):
            answer = self._waiting.get(message.number)
            if answer is not None and not answer.done():
                answer.set_result(message.failure)
            return
        task = asyncio.ensure_future(self._obey(message, local))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _obey(self, order: Order, local: AdapterControl) -> None:
        failure = await apply_change(local, order.change)
        self._pipe.send(Done(order.number, failure))
