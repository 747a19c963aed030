"""Adapters loaded and unloaded while the server runs, from folders that the operator allows."""

import asyncio
import re
from collections.abc import Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from trine.runtime.adapters.base import AdapterHandle, AdapterSource
from trine.runtime.bundle.bundle import Bundle
from trine.runtime.bundle.manifest import EngineEntry
from trine.runtime.errors import CheckpointError, InputError
from trine.runtime.serving.config.settings import ServerSettings
from trine.runtime.serving.service.calls import ServiceError
from trine.runtime.serving.workers.adapter_hashes import bundled_hash, folder_hash

__all__ = ["ADAPTER_IN_USE", "UNKNOWN_ADAPTER", "AdapterAdmin"]

T = TypeVar("T")

#: Codes of errors: the adapter is gone for new calls, but not from memory; there is none.
ADAPTER_IN_USE = "adapter_in_use"
UNKNOWN_ADAPTER = "unknown_adapter"

#: Names that can stand in a header, a model's alias and a path.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class AdapterAdmin:
    """Changes which adapters a worker has. For the event loop's thread; reading is done in others.

    A load has two steps, so that several workers make it together or not at all: `prepare` does all
    that can fail, unseen by calls, and `commit` or `abort` ends it.

    Args:
        bundle: of the engine.
        entry: of the engine.
        tasks: that it was opened with.
        settings: of the server.
    """

    def __init__(
        self,
        bundle: Bundle,
        entry: EngineEntry,
        tasks: tuple[str, ...],
        settings: ServerSettings,
    ) -> None:
        self._merged = entry.adapters == "merged"
        self._hashes = {task: bundled_hash(bundle, entry, task) for task in tasks}
        #: By name: an adapter that calls do not see yet, and its hash.
        self._staged: dict[str, tuple[AdapterHandle, str]] = {}
        #: Why an adapter that other workers have is not here, by name.
        self._missed: dict[str, str] = {}
        self._adapters: AdapterSource | None = None
        self.changing: set[asyncio.Task[Any]] = set()
        self._folder = settings.adapter_folder
        self._timeout_s = settings.request_timeout
        self._one_at_a_time = asyncio.Lock()

    def open(self, adapters: AdapterSource) -> None:
        """Take the engine's adapters, before anything else but `hashes` is used."""
        self._adapters = adapters

    @property
    def hashes(self) -> Mapping[str, str]:
        """The hash of each adapter that calls may name now, by task."""
        return self._hashes

    @property
    def names(self) -> tuple[str, ...]:
        """What calls may name now, in any worker."""
        return (*self._hashes, *self._missed)

    def require(self, names: Iterable[str]) -> None:
        """Return if none of these adapters is one that only other workers have.

        Raises:
            ServiceError: 503 one is.
        """
        for name in self._missed.keys() & set(names):
            raise ServiceError(
                503,
                "adapter_missed",
                f"adapter {name!r} could not be loaded again when this worker took the place of "
                f"another ({self._missed[name]}); try again, or load it anew",
                param="task",
                retry_after=1,
            )

    async def load(self, name: str, folder: str, task: str | None) -> None:
        """Make an adapter resident; errors as `Embedding.load_adapter` has them."""

        async def load() -> None:
            await self._prepare(name, folder, task)
            self.commit(name)

        await self._finish(load())

    async def prepare(self, name: str, folder: str, task: str | None) -> str:
        """Do all of `load` that can fail, with the same errors; return the adapter's hash."""
        return await self._finish(self._prepare(name, folder, task))

    def commit(self, name: str) -> None:
        """Have calls find the adapter that was staged under a name; one of that name is replaced.

        Calls are accepted on the same thread: what a name stands for and its hash change together.
        """
        staged, digest = self._staged.pop(name)
        self._source.commit(staged)
        self._hashes[name] = digest
        self._missed.pop(name, None)

    def abort(self, name: str) -> None:
        """Forget what was staged under a name, if anything was."""
        staged = self._staged.pop(name, None)
        if staged is not None:
            self._source.abort(staged[0])

    def miss(self, name: str, reason: str) -> None:
        """Refuse calls that name an adapter which other workers have, until it is loaded here.

        Args:
            name: of it; what it stood for here before is not used again.
            reason: why it is not here.
        """
        self._hashes.pop(name, None)
        self._missed[name] = reason

    async def unload(self, name: str) -> None:
        """Remove an adapter; errors as `Embedding.unload_adapter` has them."""
        await self._finish(self._unload(name))

    async def _prepare(self, name: str, folder: str, task: str | None) -> str:
        self._require_runtime(name)
        path = self._allowed(folder)
        if not NAME.fullmatch(name):
            raise ServiceError(
                422,
                "invalid_name",
                f"the adapter's name is {name!r}; give up to 64 letters, digits, - or _",
                param="name",
            )
        async with self._one_at_a_time:
            try:
                digest = await asyncio.to_thread(folder_hash, path)
            except OSError as cause:
                raise _unusable(f"{folder}: cannot be read ({cause.strerror})") from cause
            try:
                staged = await asyncio.to_thread(self._source.prepare, name, path, task)
            except (CheckpointError, InputError) as cause:
                raise _unusable(str(cause)) from cause
            self._staged[name] = staged, digest
            return digest

    async def _unload(self, name: str) -> None:
        self._require_runtime(name)
        async with self._one_at_a_time:
            if self._missed.pop(name, None) is not None:
                return
            if name not in self._hashes:
                raise ServiceError(
                    404,
                    UNKNOWN_ADAPTER,
                    f"no adapter is called {name!r}; loaded are {list(self._hashes)}",
                    param="name",
                )
            del self._hashes[name]
            try:
                await asyncio.to_thread(self._source.unload, name, self._timeout_s)
            except InputError as cause:
                # It is gone for new calls; calls that still use it keep its memory a while longer.
                raise ServiceError(
                    409, ADAPTER_IN_USE, str(cause), param="name", retry_after=1
                ) from cause

    async def _finish(self, change: Coroutine[Any, Any, T]) -> T:
        """Make a change to its end, even if whoever asked for it leaves; return what it does.

        A thread that reads an adapter cannot be stopped: what it makes resident must be known.
        """
        task = asyncio.ensure_future(change)
        self.changing.add(task)
        task.add_done_callback(self.changing.discard)
        return await asyncio.shield(task)

    @property
    def _source(self) -> AdapterSource:
        if self._adapters is None:
            raise RuntimeError("the engine is not open")
        return self._adapters

    def _require_runtime(self, name: str) -> None:
        if self._merged:
            raise ServiceError(
                409,
                "adapters_merged",
                f"adapter {name!r} cannot be loaded or unloaded: this engine has its adapters "
                "merged; export with --adapters runtime",
            )

    def _allowed(self, folder: str) -> Path:
        if self._folder is None:
            raise ServiceError(
                403,
                "adapter_folder_off",
                "no adapters may be loaded: the server was started without --adapter-folder",
                param="folder",
            )
        root = self._folder.resolve()
        try:
            path = (root / folder).resolve()
        except (OSError, ValueError) as cause:
            raise _unusable(f"{folder!r} is no path") from cause
        if not path.is_relative_to(root):
            raise ServiceError(
                403,
                "folder_not_allowed",
                f"{folder!r} is outside the adapter folder; give a path within it",
                param="folder",
            )
        return path


def _unusable(message: str) -> ServiceError:
    return ServiceError(422, "unusable_adapter", message, param="folder")
