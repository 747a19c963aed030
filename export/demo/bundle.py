"""The bundle the demonstration runs on, exported from the built-in checkpoint when missing."""

import importlib.metadata
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from trine.export.checkpoint.source import BUILT_IN, resolve_source
from trine.export.export import export_checkpoint
from trine.export.options import ExportOptions
from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.bundle.golden import worst
from trine.runtime.embedder import Embedder
from trine.runtime.errors import BundleError

__all__ = ["DemoBundle", "prepare_bundle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoBundle:
    """A verified bundle and what it cost.

    Attributes:
        path: its folder.
        export_s: seconds the export took; None where an earlier run's bundle was kept.
        load_s: seconds until an embedder was ready, its self-test included.
        checkpoint_bytes: size of the checkpoint it was made from.
        bundle_bytes: size of the folder.
        min_cosine: lowest cosine of its golden vectors, of all tasks, to the float32 reference.
        max_difference: largest difference of an element of them.
    """

    path: Path
    export_s: float | None
    load_s: float
    checkpoint_bytes: int
    bundle_bytes: int
    min_cosine: float
    max_difference: float


def prepare_bundle(directory: Path) -> tuple[DemoBundle, Embedder]:
    """Return the bundle `directory/nano.bundle`, verified, and an embedder on it.

    A bundle that is already there is kept if it is intact and this version wrote it, and is
    replaced otherwise.

    Args:
        directory: where the demo writes; made if missing.

    Raises:
        BundleError: something that is no bundle is in the way, or the folder cannot be written.
        EngineError: the engine cannot run here, or is off the bundle's golden vectors.
    """
    path = directory / "nano.bundle"
    export_s = None if _is_current(path) else _export(path)
    start = time.perf_counter()
    embedder = Embedder.load(path)
    load_s = time.perf_counter() - start
    cosine, difference = worst([*embedder.deviations("text"), *embedder.deviations("image")])
    bundle = DemoBundle(
        path=path,
        export_s=export_s,
        load_s=load_s,
        checkpoint_bytes=_size_bytes(resolve_source(BUILT_IN).folder),
        bundle_bytes=_size_bytes(path),
        min_cosine=cosine,
        max_difference=difference,
    )
    return bundle, embedder


def _is_current(path: Path) -> bool:
    """Return whether an intact bundle of the built-in checkpoint by this version is at `path`."""
    try:
        bundle = open_bundle(path)
    except BundleError:
        return False
    return (
        bundle.manifest.source.id == BUILT_IN
        and bundle.manifest.tools.get("trine") == importlib.metadata.version("trine")
        and not bundle.check_hashes()
    )


def _export(path: Path) -> float:
    """Export the built-in checkpoint to `path` and return the seconds it took."""
    start = time.perf_counter()
    export_checkpoint(ExportOptions(source=BUILT_IN, bundle=path, force=True), sys.stderr)
    return time.perf_counter() - start


def _size_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
