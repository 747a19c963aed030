"""Checks that a bundle may be written where it is to be: nothing in the way, and room."""

import os
import shutil
from pathlib import Path

from trine.runtime.bundle.bundle import MANIFEST_NAME
from trine.runtime.bundle.manifest import FORMAT
from trine.runtime.commands.progress import format_bytes
from trine.runtime.errors import BundleError

__all__ = ["check_destination", "check_disk_space"]


def check_destination(
    bundle: Path, force: bool, manifest: str = MANIFEST_NAME, kind: str = FORMAT
) -> None:
    """Raise BundleError unless a bundle may be written at `bundle`.

    Without `force` nothing may be there but an empty folder; with it a former bundle may, but no
    other content, which is never deleted.

    Args:
        bundle: the folder.
        force: whether to replace what an export wrote there.
        manifest: name of the file that every export of its kind writes.
        kind: the format that is named in it.
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
    if not _is_ours(bundle / manifest, kind):
        raise BundleError(f"{bundle}: exists and is no bundle; give another path or move it away")
    if not force:
        raise BundleError(f"{bundle}: a bundle is there already; use --force to replace it")


def _is_ours(manifest: Path, kind: str) -> bool:
    """Whether a manifest of ours is there, be it damaged; other programs call theirs the same."""
    try:
        text = manifest.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return f'"{kind}"' in text


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
