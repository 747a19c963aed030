"""Has workers and their supervisor agree on the adapters that are loaded.

A worker that is asked to change an adapter asks the supervisor, which has every worker do it, in
the steps of `trine.runtime.serving.workers.rounds`, and then answers. Messages are pickled over a
pipe between processes of this program only.
"""

import asyncio
import contextlib
import itertools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal, Protocol, TypeAlias

from trine.runtime.serving.service.calls import ServiceError

__all__ = [
    "AdapterChange",
    "AdapterControl",
    "Done",
    "Failure",
    "Message",
    "Order",
    "StagedAdapters",
    "Step",
    "WorkerChannel",
]


logger = logging.getLogger(__name__)


class AdapterControl(Protocol):
    """Changes adapters; `trine.runtime.serving.service.calls.Embedding` says how."""

    async def load_adapter(self, name: str, folder: str, task: str | None = None) -> None: ...

    async def unload_adapter(self, name: str) -> None: ...


class StagedAdapters(Protocol):
    """Changes the adapters of one process, in steps; `AdapterAdmin` says how."""

    async def prepare(self, name: str, folder: str, task: str | None) -> str: ...

    def commit(self, name: str) -> None: ...

    def abort(self, name: str) -> None: ...

    async def unload(self, name: str) -> None: ...

    def miss(self, name: str, reason: str) -> None: ...


#: What a worker does of a change: all that can fail, which for a load calls do not see; then, of a
#: load, either of the others.
Step: TypeAlias = Literal["make", "keep", "drop"]


@dataclass(frozen=True, slots=True)
class AdapterChange:
    """What is to happen.

    Attributes:
        name: of the adapter.
        folder: to load it from; None to unload it.
        task: which of the folder's adapters.
        digest: hash of what was loaded; None if nothing was yet.
    """

    name: str
    folder: str | None = None
    task: str | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A `ServiceError` on its way between processes."""

    status: int
    code: str
    message: str
    param: str | None = None
    retry_after: int | None = None

    def error(self) -> ServiceError:
        """Return the error."""
        return ServiceError(
            self.status, self.code, self.message, param=self.param, retry_after=self.retry_after
        )


@dataclass(frozen=True, slots=True)
class Order:
    """Asks the other side for a step of a change; `number` is the sender's."""

    number: int
    change: AdapterChange
    step: Step = "make"


@dataclass(frozen=True, slots=True)
class Done:
    """Answers an order of that number, with the hash of the adapter that it loaded, if it did."""

    number: int
    failure: Failure | None = None
    digest: str | None = None


#: What goes over the pipe, either way.
Message = Order | Done


async def _take_step(adapters: StagedAdapters, order: Order) -> Done:
    """Carry out a step of a change and return how that went."""
    change, step = order.change, order.step
    digest = None
    try:
        if step == "keep":
            adapters.commit(change.name)
        elif step == "drop":
            adapters.abort(change.name)
        elif change.folder is None:
            await adapters.unload(change.name)
        else:
            digest = await adapters.prepare(change.name, change.folder, change.task)
    except ServiceError as error:
        failure = Failure(error.status, error.code, error.message, error.param, error.retry_after)
        return Done(order.number, failure)
    except Exception:  # an order without an answer would hold up all that follow
        logger.exception("a change of adapters failed", extra={"adapter": change.name})
        failure = Failure(500, "internal_error", "a worker failed to change its adapters")
        return Done(order.number, failure)
    return Done(order.number, digest=digest)


async def _catch_up(adapters: StagedAdapters, change: AdapterChange) -> None:
    """Carry out all steps of a change that others made.

    Where that fails the name must not go on standing for what it stood for before, which the other
    workers have no more.
    """
    made = await _take_step(adapters, Order(0, change))
    if change.folder is None:
        return
    reason = None if made.failure is None else made.failure.message
    if reason is None and made.digest != change.digest:
        adapters.abort(change.name)
        reason = f"{change.folder}: was changed since it was loaded"
    if reason is None:
        adapters.commit(change.name)
        return
    adapters.miss(change.name, reason)
    logger.error(
        "this worker lacks an adapter that others have: %s",
        reason,
        extra={"adapter": change.name},
    )


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

    async def start(self, local: StagedAdapters, stop: Callable[[], object]) -> None:
        """Catch up with the other workers' adapters, then follow the supervisor.

        Args:
            local: changes the adapters of this process.
            stop: called when the supervisor is gone.
        """
        for change in self._changes:
            await _catch_up(local, change)
        loop = asyncio.get_running_loop()

        def read() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and so will the process
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

    def _received(self, message: Message, local: StagedAdapters) -> None:
        if isinstance(message, Done):
            answer = self._waiting.get(message.number)
            if answer is not None and not answer.done():
                answer.set_result(message.failure)
            return
        task = asyncio.ensure_future(self._obey(message, local))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _obey(self, order: Order, local: StagedAdapters) -> None:
        self._pipe.send(await _take_step(local, order))
