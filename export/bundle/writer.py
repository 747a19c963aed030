"""Writes a bundle so that it is there whole or not at all.

Files go into a sibling folder that is renamed at the end. Whatever ends the work early, an error or
Ctrl-C, removes the sibling and leaves what was at the destination.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from trine.runtime.bundle.bundle import MANIFEST_NAME
from trine.runtime.bundle.manifest import FORMAT
from trine.runtime.commands.progress import format_bytes
from trine.runtime.errors import BundleError

__all__ = ["check_destination", "check_disk_space", "write_atomically"]

PARTIAL_SUFFIX = ".partial"
REPLACED_SUFFIX = ".replaced"


def check_destination(bundle: Path, force: bool) -> None:
    """Raise BundleError unless a bundle may be written at `bundle`.

    Without `force` nothing may be there but an empty folder; with it a former bundle may, but no
    other content, which is never deleted.
    """
    try:
        if not bundle.exists() or (bundle.is_dir() and not any(bundle.iterdir())):
            if os.path.ismount(bundle):
                raise BundleError(
                    f"{bundle}: is a mounted disk, in whose place no folder can be put; give a "
                    "folder on it"
                )
            return
    except OSError as cause:
        raise BundleError(
            f"{bundle}: cannot be written ({cause.strerror}); check the path"
        ) from cause
    if not _is_bundle(bundle):
        raise BundleError(f"{bundle}: exists and is no bundle; give another path or move it away")
    if not force:
        raise BundleError(f"{bundle}: a bundle is there already; use --force to replace it")


def _is_bundle(folder: Path) -> bool:
    """Whether a manifest of ours is there, be it damaged; other programs call theirs the same."""
    try:
        text = (folder / MANIFEST_NAME).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return f'"{FORMAT}"' in text


def check_disk_space(bundle: Path, need: int) -> None:
    """Raise BundleError if the disk of `bundle` has less than `need` bytes free."""
    place = bundle.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < need:
        raise BundleError(
            f"{bundle}: needs {format_bytes(need)} of disk, {format_bytes(free)} are free; "
            "make room, or export fewer tasks"
        )


@contextmanager
def write_atomically(bundle: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `bundle` when the block ends without an exception.

    What was at `bundle` is replaced then, and kept otherwise.

    Raises:
        BundleError: the disk is full or cannot be written, or another export of the bundle is under
            way.
    """
    # What a link leads to is replaced, not the link; and "." has a name.
    place = Path(os.path.realpath(bundle))
    partial = place.with_name(f".{place.name}{PARTIAL_SUFFIX}")
    parents = [folder for folder in place.parents if not folder.exists()]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
    except OSError as cause:
        if os.path.isdir(partial):
            raise BundleError(
                f"{partial}: exists, so another export of this bundle is running or was killed; "
                "wait for it, or remove that folder"
            ) from cause
        reason = cause.strerror if place.parent.is_dir() else f"{place.parent} is no folder"
        raise BundleError(f"{bundle}: cannot be written ({reason}); check the path") from cause
    try:
        yield partial
        _replace(partial, place)
    except OSError as cause:
        _discard(partial, parents)
        raise BundleError(
            f"{bundle}: stopped while writing ({cause.strerror or cause}); check the disk"
        ) from cause
    except BaseException:
        _discard(partial, parents)
        raise


def _discard(partial: Path, parents: Sequence[Path]) -> None:
    """Remove what was written, and the folders made for it, innermost first."""
    shutil.rmtree(partial, ignore_errors=True)
    for folder in parents:
        with suppress(OSError):  # something else was put there meanwhile
            folder.rmdir()


def _replace(new: Path, bundle: Path) -> None:
    if not bundle.exists():
        os.rename(new, bundle)
        return
    old = bundle.with_name(f".{bundle.name}{REPLACED_SUFFIX}")
    shutil.rmtree(old, ignore_errors=True)
    os.rename(bundle, old)
    try:
        os.rename(new, bundle)
    except OSError:
        os.rename(old, bundle)
        raise
    shutil.rmtree(old)
