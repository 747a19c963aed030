"""The bundle the demonstration runs on, exported from the built-in checkpoint when missing."""

import time
from dataclasses import dataclass
from pathlib import Path

from trine.export.pipeline import ExportOptions, export_checkpoint
from trine.export.verify import verify_bundle
from trine.runtime.embedder import Embedder

__all__ = ["DemoBundle", "prepare_bundle"]

#: Name of the built-in checkpoint, as `trine export` takes it.
SOURCE = "nano"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoBundle:
    """A verified bundle and what it cost.

    Attributes:
        path: its folder.
        export_s: seconds the export took; None where an earlier run's bundle was kept.
        load_s: seconds until an embedder was ready.
        checkpoint_bytes: size of the checkpoint it was made from.
        bundle_bytes: size of the folder.
    """

    path: Path
    export_s: float | None
    load_s: float
    checkpoint_bytes: int
    bundle_bytes: int


def prepare_bundle(directory: Path) -> tuple[DemoBundle, Embedder]:
    """Return the bundle `directory/nano.bundle`, verified, and an embedder on it.

    A bundle that is already there is kept when it verifies and is an error otherwise.

    Args:
        directory: where the demo writes; made if missing.

    Raises:
        BundleError: the bundle there is damaged or of another version.
    """
    path = directory / "nano.bundle"
    export_s = None if path.exists() else _export(path)
    verify_bundle(path)
    start = time.perf_counter()
    embedder = Embedder.load(path)
    load_s = time.perf_counter() - start
    bundle = DemoBundle(
        path=path,
        export_s=export_s,
        load_s=load_s,
        checkpoint_bytes=_size_bytes(checkpoint_folder()),
        bundle_bytes=_size_bytes(path),
    )
    return bundle, embedder


def checkpoint_folder() -> Path:
    """Return the folder of the built-in checkpoint."""
    return Path(__file__).resolve().parent.parent / "nano" / "checkpoint"


def _export(path: Path) -> float:
    """Export the built-in checkpoint to `path` and return the seconds it took."""
    path.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    export_checkpoint(ExportOptions(source=SOURCE, bundle=path))
    return time.perf_counter() - start


def _size_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
