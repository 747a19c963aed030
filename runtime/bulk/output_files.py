"""Writes an output file so that it is there whole or not at all."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import IO, BinaryIO

from trine.runtime.bulk.output_rows import (
    JsonLinesWriter,
    NpyWriter,
    NpzWriter,
    OutputRow,
    ParquetWriter,
    RowWriter,
    require_pyarrow,
)
from trine.runtime.bundle.atomic import write_file
from trine.runtime.errors import InputError
from trine.runtime.outputs import OutputDtype

__all__ = ["OutputFile", "check_output", "open_output"]

SUFFIXES = (".jsonl", ".npy", ".npz", ".parquet")


def check_output(path: Path, *, multi: bool, force: bool) -> None:
    """Check that vectors can be written to `path`, before they cost anything.

    Args:
        path: its suffix is the format.
        multi: whether multi-vectors will be.
        force: whether a file that is there may be replaced.

    Raises:
        InputError: the suffix is unknown or cannot hold multi-vectors, a file is there, or its
            folder is not.
        DependencyError: pyarrow is needed and not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(
            f"{path}: the suffix {suffix!r} is no output format; give one of {list(SUFFIXES)}"
        )
    if multi and suffix == ".npy":
        raise InputError(
            f"{path}: .npy holds one vector an item, and multi-vectors differ in their number; "
            "give .npz, .jsonl or .parquet"
        )
    if path.exists() and not force:
        raise InputError(f"{path}: exists already; use --force to replace it")
    if not path.parent.is_dir():
        raise InputError(f"{path}: its folder does not exist; make it first")
    if suffix == ".parquet":
        require_pyarrow()


class OutputFile:
    """An open file of results; `open_output` makes it."""

    def __init__(self, path: Path, writer: RowWriter) -> None:
        self._path = path
        self._writer = writer

    def write(self, rows: Sequence[OutputRow]) -> None:
        """Write more rows, in order.

        Raises:
            InputError: the disk is full or cannot be written.
        """
        with _naming(self._path):
            self._writer.write(rows)


@contextmanager
def open_output(
    path: Path, *, dim: int, multi: bool, output_dtype: OutputDtype = "float32"
) -> Iterator[OutputFile]:
    """Yield a file that becomes `path` when the block ends without an exception.

    Until then what is written lies beside it, and is removed if the block fails.

    Args:
        path: as checked by `check_output`.
        dim: of the vectors before they were packed.
        multi: whether they are multi-vectors.
        output_dtype: of the vectors.

    Raises:
        InputError: the file cannot be written.
    """
    with ExitStack() as whole:
        with _naming(path):
            partial = whole.enter_context(write_file(path))
        with ExitStack() as stack:
            with _naming(path):
                file = stack.enter_context(partial.open("wb"))
                writer = _open_writer(path, file, dim, multi, output_dtype, stack)
            yield OutputFile(path, writer)
            with _naming(path):
                writer.finish()
        with _naming(path):
            whole.close()


def _open_writer(
    path: Path,
    file: BinaryIO,
    dim: int,
    multi: bool,
    output_dtype: OutputDtype,
    stack: ExitStack,
) -> RowWriter:
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        return JsonLinesWriter(TextIOWrapper(file, encoding="utf-8", newline="\n"))
    if suffix == ".npy":
        return NpyWriter(file, dim, output_dtype)
    if suffix == ".npz":
        scratch = stack.enter_context(_scratch_file(path.parent))
        return NpzWriter(file, scratch, dim, multi, output_dtype)
    writer = ParquetWriter(file, multi, output_dtype)
    stack.callback(writer.close)
    return writer


@contextmanager
def _scratch_file(folder: Path) -> Iterator[IO[bytes]]:
    """Yield an empty file without a name in `folder`, where the output must have room as well."""
    with tempfile.TemporaryFile(dir=folder) as file:
        yield file


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn an error of the system into one that names the file the user asked for."""
    try:
        yield
    except OSError as cause:
        raise InputError(
            f"{path}: cannot be written ({cause.strerror or cause}); nothing was kept"
        ) from cause
