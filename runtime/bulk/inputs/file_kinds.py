"""Says by a file's name what is in it, and opens it decompressed.

`a.jsonl.gz` and `a.ndjson.zst` are JSON lines, `a.md` is a text, `a.feather` is an Arrow file.
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from trine.runtime.errors import InputError, missing_package

__all__ = ["LINES", "TABLES", "kind_of", "open_lines"]

#: Kinds that hold lines; `.md` holds one text.
LINES = (".jsonl", ".txt", ".md")
TABLES = (".parquet", ".arrow", ".csv", ".tsv")
#: Other names of kinds.
ALIASES = {".ndjson": ".jsonl", ".feather": ".arrow"}
GZIP, ZSTD = ".gz", ".zst"
#: Kinds that are read compressed, too.
COMPRESSED = (*LINES, ".csv", ".tsv")


def kind_of(path: Path) -> str:
    """Return the suffix, in lower case, that says what a file holds once it is decompressed."""
    suffix = path.suffix.lower()
    inner = path.with_suffix("").suffix.lower()
    if suffix in (GZIP, ZSTD) and ALIASES.get(inner, inner) in COMPRESSED:
        suffix = inner
    return ALIASES.get(suffix, suffix)


@contextmanager
def open_lines(path: Path) -> Iterator[BinaryIO]:
    """Yield a file's bytes, decompressed, to read line by line.

    Raises:
        InputError: it cannot be read, or its compressed data are damaged.
        DependencyError: it is .zst, and pyarrow is not installed.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == GZIP:
            with gzip.open(path) as file:
                yield cast(BinaryIO, file)
        elif suffix == ZSTD:
            with _open_zstd(path) as file:
                yield cast(BinaryIO, io.BufferedReader(file))
        else:
            with path.open("rb") as file:
                yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as cause:
        raise InputError(f"{path}: its compressed data are damaged ({cause}); copy it again") from (
            cause
        )
    except OSError as cause:
        if cause.strerror is None or suffix == ZSTD:  # pyarrow's own, of damaged data
            raise InputError(
                f"{path}: its compressed data are damaged ({cause}); copy it again"
            ) from cause
        raise InputError(
            f"{path}: cannot be read ({cause.strerror}); check its permissions"
        ) from cause


def _open_zstd(path: Path) -> Any:
    try:
        import pyarrow
    except ImportError as cause:
        raise missing_package("pyarrow", "parquet", f"to read {path}") from cause
    return pyarrow.input_stream(str(path), compression="zstd")
