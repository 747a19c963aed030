"""The adapters an embedder offers, and how a request holds the ones it uses."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trine.runtime.errors import InputError
from trine.runtime.inference.pooling import Projector

__all__ = ["AdapterHandle", "AdapterSource", "MergedAdapters"]


@dataclass(frozen=True, slots=True)
class AdapterHandle:
    """One adapter, as a request uses it from its first run to its last.

    Attributes:
        name: the task.
        slot: its place among the resident adapters; 0 where adapters are merged.
        projector: its multi-vector projection.
    """

    name: str
    slot: int
    projector: Projector


class AdapterSource(Protocol):
    """Hands out adapters by name. Implementations are safe to call from several threads."""

    @property
    def names(self) -> tuple[str, ...]:
        """Adapters that requests may use now."""
        ...

    def hold(self, names: Iterable[str]) -> AbstractContextManager[Mapping[str, AdapterHandle]]:
        """Return a context in which the named adapters stay as they are.

        Raises:
            InputError: a name is not known.
        """
        ...

    def prepare(self, name: str, folder: Path, task: str | None) -> AdapterHandle:
        """Read one more adapter into memory, where no request sees it: `commit` or `abort` it next.

        Raises:
            InputError: this source takes no adapters, or not this one.
            CheckpointError: the adapter's files are damaged or not supported.
        """
        ...

    def commit(self, staged: AdapterHandle) -> None:
        """Have requests find a staged adapter; one of its name is replaced. Cannot fail."""
        ...

    def abort(self, staged: AdapterHandle) -> None:
        """Forget a staged adapter. Cannot fail."""
        ...

    def unload(self, name: str, timeout_s: float | None) -> None:
        """Remove an adapter once no request uses it.

        Raises:
            InputError: the name is not known, or requests still used it after `timeout_s`.
        """
        ...


class MergedAdapters:
    """Adapters that are merged into decoders of their own: a fixed set."""

    def __init__(self, projectors: Mapping[str, Projector]) -> None:
        self._handles = {
            name: AdapterHandle(name, 0, projector) for name, projector in projectors.items()
        }

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._handles)

    def hold(self, names: Iterable[str]) -> AbstractContextManager[Mapping[str, AdapterHandle]]:
        return nullcontext(self._handles)

    def prepare(self, name: str, folder: Path, task: str | None) -> AdapterHandle:
        raise InputError(self._refusal(name))

    def commit(self, staged: AdapterHandle) -> None:
        raise InputError(self._refusal(staged.name))

    def abort(self, staged: AdapterHandle) -> None:
        raise InputError(self._refusal(staged.name))

    def unload(self, name: str, timeout_s: float | None) -> None:
        raise InputError(self._refusal(name))

    def _refusal(self, name: str) -> str:
        return (
            f"adapter {name!r} cannot be loaded or unloaded: this engine has its adapters merged "
            f"({list(self._handles)}); export with --adapters runtime"
        )
