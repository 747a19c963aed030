"""Writes files and folders that are there whole or not at all, also after a kill.

What is being written lies beside its destination and is locked by the process that writes it. The
system drops such a lock with its process, in another container and (for clients that lock) over NFS
too. So whoever comes next tells what is under way, which it leaves alone, from what a killed
process left behind, which it removes; on Windows a single file left behind stays.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trine.runtime.bundle.file_lock import LOCKS_SHOW_LIFE, lock_file
from trine.runtime.errors import TrineError

__all__ = ["hold", "scratch_folder", "write_file", "write_folder"]

PARTIAL_SUFFIX = ".partial"
LOCK_SUFFIX = ".lock"
REPLACED_SUFFIX = ".replaced"


@contextmanager
def hold(path: Path, error: type[TrineError]) -> Iterator[None]:
    """Keep other processes, and threads, from holding `path` until the block ends.

    Args:
        path: what is worked on; the lock is a hidden file beside it.
        error: the error class to raise.

    Raises:
        error: another one holds it.
        OSError: the lock cannot be written.
    """
    lock = path.with_name(f".{path.name.lstrip('.')}{LOCK_SUFFIX}")
    while True:
        file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not lock_file(file):
                raise error(f"{path}: another process is writing it; wait for that, then try again")
            if _is_at(file, lock):
                try:
                    yield
                    return
                finally:
                    # Removed while it is held: whoever waits at the old file sees it is gone.
                    if LOCKS_SHOW_LIFE:
                        lock.unlink(missing_ok=True)
        finally:
            os.close(file)
            if not LOCKS_SHOW_LIFE:
                with suppress(OSError):  # another process has it open
                    lock.unlink(missing_ok=True)


@contextmanager
def scratch_folder(path: Path, error: type[TrineError]) -> Iterator[Path]:
    """Yield the empty folder `path`, which is this process's alone and goes when the block ends.

    Raises:
        error: another process has it.
        OSError: it cannot be made.
    """
    with hold(path, error):
        if path.exists():
            shutil.rmtree(path)
        path.mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)  # moved to its destination, if all went well


@contextmanager
def write_folder(path: Path, error: type[TrineError]) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` when the block ends without an exception.

    What was at `path` is replaced then, and kept otherwise. Parents are made.

    Raises:
        error: it cannot be written, or another process is writing it.
    """
    # What a link leads to is replaced, not the link; and "." has a name.
    target = Path(os.path.realpath(path))
    parents = [folder for folder in target.parents if not folder.exists()]
    partial = target.with_name(f".{target.name}{PARTIAL_SUFFIX}")
    began = False
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(partial, error):
            began = True
            _bring_back(target)
            yield partial
            _replace(partial, target)
    except OSError as cause:
        _remove_empty(parents)
        if began:
            raise error(
                f"{path}: stopped while writing ({cause.strerror or cause}); check the disk"
            ) from cause
        reason = cause.strerror if target.parent.is_dir() else f"{target.parent} is no folder"
        raise error(f"{path}: cannot be written ({reason}); check the path") from cause
    except BaseException:
        _remove_empty(parents)
        raise


@contextmanager
def write_file(path: Path) -> Iterator[Path]:
    """Yield an empty file that becomes `path` when the block ends without an exception.

    Of several processes that write one file at a time, the last to end decides.

    Raises:
        OSError: it cannot be written.
    """
    _remove_dead(path)
    partial, file = _own_file(path)
    try:
        if not LOCKS_SHOW_LIFE:
            os.close(file)
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
        if LOCKS_SHOW_LIFE:
            os.close(file)


def _own_file(path: Path) -> tuple[Path, int]:
    """Return a new file beside `path`, and its descriptor, which holds a lock on it."""
    while True:
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")
        file = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        # Between these lines another process may have taken it for left behind, and removed it.
        if lock_file(file) and _is_at(file, partial):
            return partial, file
        os.close(file)


def _remove_dead(path: Path) -> None:
    """Remove what killed processes left of `path`, where locks tell that they were killed."""
    if not LOCKS_SHOW_LIFE:
        return
    prefix = f".{path.name}."
    for name in os.listdir(path.parent):
        if name.startswith(prefix) and name.endswith(PARTIAL_SUFFIX):
            with suppress(OSError):  # another one removed it, or it is not ours to remove
                file = os.open(path.parent / name, os.O_RDWR)
                try:
                    if lock_file(file, known=False):
                        (path.parent / name).unlink()
                finally:
                    os.close(file)


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # something else was put there meanwhile
            folder.rmdir()


def _former(path: Path) -> Path:
    return path.with_name(f".{path.name}{REPLACED_SUFFIX}")


def _bring_back(path: Path) -> None:
    """Undo a replacement that a kill ended halfway."""
    former = _former(path)
    if former.exists() and not path.exists():
        os.rename(former, path)
    shutil.rmtree(former, ignore_errors=True)


def _replace(new: Path, path: Path) -> None:
    if not path.exists():
        os.rename(new, path)
        return
    former = _former(path)
    os.rename(path, former)
    try:
        os.rename(new, path)
    except OSError:
        os.rename(former, path)
        raise
    shutil.rmtree(former)
