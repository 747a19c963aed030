"""Adapters loaded and unloaded while the server runs, from folders that the operator allows."""

import asyncio
import re
from pathlib import Path

from trine.runtime.adapters import AdapterHandle, AdapterSource
from trine.runtime.bundle import Bundle
from trine.runtime.errors import CheckpointError, InputError
from trine.runtime.manifest import EngineEntry
from trine.runtime.serving.adapter_hashes import AdapterHashes, bundled_hash, folder_hash
from trine.runtime.serving.calls import ServiceError
from trine.runtime.serving.settings import ServerSettings

__all__ = ["ADAPTER_IN_USE", "UNKNOWN_ADAPTER", "AdapterAdmin"]

#: Codes of errors: the adapter is gone for new calls, but not from memory; there is none.
ADAPTER_IN_USE = "adapter_in_use"
UNKNOWN_ADAPTER = "unknown_adapter"

#: Names that can stand in a header, a model's alias and a path.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class AdapterAdmin:
    """Changes which adapters a worker has. For the event loop's thread; reading is done in others.

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
        self._bundled = {task: bundled_hash(bundle, entry, task) for task in tasks}
        self._hashes = AdapterHashes(self._bundled)
        self._names = list(tasks)
        self._folder = settings.adapter_folder
        self._timeout_s = settings.request_timeout
        self._one_at_a_time = asyncio.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """Tasks that calls may name now."""
        return tuple(self._names)

    def hash_of(self, handle: AdapterHandle) -> str:
        """Return the hash of an adapter that a call holds."""
        return self._hashes.of(handle)

    def current_hashes(self) -> dict[str, str]:
        """Return the hash of each adapter that calls may name now."""
        return {name: self._hashes.of_name(name) for name in self._names}

    async def load(self, adapters: AdapterSource, name: str, folder: str, task: str | None) -> None:
        """Make an adapter resident; errors as `Embedding.load_adapter` has them."""
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
            current = None
            if name in self._names:
                with adapters.hold([name]) as handles:
                    current = handles[name]
            self._hashes.announce(name, digest, current)
            try:
                await asyncio.to_thread(adapters.load, name, path, task)
            except (CheckpointError, InputError) as cause:
                self._hashes.withdraw(name)
                raise _unusable(str(cause)) from cause
            if name not in self._names:
                self._names.append(name)

    async def unload(self, adapters: AdapterSource, name: str) -> None:
        """Remove an adapter; errors as `Embedding.unload_adapter` has them."""
        self._require_runtime(name)
        async with self._one_at_a_time:
            if name not in self._names:
                raise ServiceError(
                    404,
                    UNKNOWN_ADAPTER,
                    f"no adapter is called {name!r}; loaded are {self._names}",
                    param="name",
                )
            self._names.remove(name)
            try:
                await asyncio.to_thread(adapters.unload, name, self._timeout_s)
            except InputError as cause:
                # It is gone for new calls; calls that still use it keep its memory a while longer.
                raise ServiceError(
                    409, ADAPTER_IN_USE, str(cause), param="name", retry_after=1
                ) from cause

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
