"""Opens an embedder again, in a process that it is sent to."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.bundle.manifest import EngineEntry
from trine.runtime.engines.base import EngineOptions
from trine.runtime.inference.batch_planner import BatchLimits
from trine.runtime.scoring.quantisation import Int8Ranges

if TYPE_CHECKING:
    from trine.runtime.embedder import Embedder

__all__ = ["LoadedAdapter", "Opening", "reopen"]


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """What `Embedder.load_adapter` was given: an absolute path, and which of its adapters."""

    path: Path
    task: str | None


@dataclass(frozen=True, slots=True)
class Opening:
    """What `Embedder.open` was given, and what was done to the adapters since.

    Attributes:
        adapters: names, each with what was loaded under it last; None where it was unloaded.
    """

    folder: Path
    entry: EngineEntry
    options: EngineOptions
    limits: BatchLimits
    self_test: bool
    adapters: tuple[tuple[str, LoadedAdapter | None], ...] = ()

    def with_adapter(self, name: str, loaded: LoadedAdapter | None) -> "Opening":
        """Return the same with an adapter loaded, or unloaded if `loaded` is None."""
        others = tuple(pair for pair in self.adapters if pair[0] != name)
        # Only adapters of the bundle are there to be unloaded on the other side.
        if loaded is None and name not in self.options.tasks:
            return replace(self, adapters=others)
        return replace(self, adapters=(*others, (name, loaded)))


def reopen(
    kind: "type[Embedder]", opening: Opening, task: str | None, ranges: Int8Ranges
) -> "Embedder":
    """Return an embedder opened as another was, with the same adapters.

    Raises:
        BundleError, CheckpointError: the bundle or an adapter is not there any more.
    """
    embedder = kind.open(
        open_bundle(opening.folder),
        opening.entry,
        device=opening.options.device,
        tasks=opening.options.tasks,
        threads=opening.options.threads,
        limits=opening.limits,
        self_test=opening.self_test,
    )
    for name, loaded in opening.adapters:
        if loaded is None:
            embedder.unload_adapter(name)
        else:
            embedder.load_adapter(name, loaded.path, task=loaded.task)
    embedder.task, embedder.output_ranges = task, ranges
    return embedder
