"""Finds the input files of a bulk job: files, folders and globs, in an order that never changes."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trine.runtime.bulk.inputs.file_kinds import LINES, TABLES, kind_of
from trine.runtime.errors import InputError

__all__ = ["SourceFile", "find_sources"]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One input file, and how to see whether it is still the same.

    Attributes:
        path: as given, or below the folder given.
        size: in bytes.
        mtime_ns: when it was changed last.
    """

    path: str
    size: int
    mtime_ns: int

    @property
    def kind(self) -> str:
        """What it holds, as `kind_of` says."""
        return kind_of(Path(self.path))


def find_sources(names: Sequence[str], output: Path) -> list[SourceFile]:
    """Return the files that names stand for: in the order given, those of folders and globs sorted.

    Args:
        names: of files and folders, or patterns with *, ? or [.
        output: the job's own folder, whose files are never inputs.

    Raises:
        InputError: there is no such file, its kind is unknown, or a folder or pattern holds none.
    """
    own = Path(os.path.realpath(output))
    found: list[SourceFile] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            paths: Iterable[Path] = _walk(path)
            fault = f"{path}: holds no file of a known kind; known are {', '.join(_kinds())}"
        elif path.exists() or not glob.has_magic(name):
            if path.exists() and not _is_known(path):
                raise InputError(
                    f"{path}: the suffix {path.suffix.lower()!r} is of no known kind of input; "
                    f"give {', '.join(_kinds())}"
                )
            paths, fault = [path], ""
        else:
            paths = [
                file
                for file in map(Path, sorted(glob.glob(name, recursive=True)))
                if file.is_file() and _is_known(file)
            ]
            fault = f"{name}: matches no file of a known kind; check the pattern and its quotes"
        added = [_source(file) for file in paths if own not in file.resolve().parents]
        if not added:
            raise InputError(fault or f"{name}: is in the output's folder; move it")
        found += added
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files of known kinds below a folder, sorted, without hidden ones."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(root, name)
            if not name.startswith((".", "_")) and _is_known(path):
                yield path


def _source(path: Path) -> SourceFile:
    try:
        status = path.stat()
    except FileNotFoundError as cause:
        raise InputError(f"{path}: does not exist; check the path") from cause
    except OSError as cause:
        raise InputError(f"{path}: cannot be read ({cause.strerror}); check the path") from cause
    if not path.is_file():
        raise InputError(f"{path}: is no file that can be read again; save its content to a file")
    return SourceFile(str(path), status.st_size, status.st_mtime_ns)


def _is_known(path: Path) -> bool:
    from PIL import Image

    kind = kind_of(path)
    if kind in (*TABLES, *LINES, ".pdf"):
        return True
    return Image.registered_extensions().get(kind) in Image.OPEN


def _kinds() -> list[str]:
    return [*LINES, *TABLES, ".pdf", "images such as .png and .jpg", "and .gz and .zst of lines"]
