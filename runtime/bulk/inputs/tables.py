"""Reads tables (.parquet, .arrow, .csv, .tsv) as record batches of bounded size."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trine.runtime.bulk.inputs.file_kinds import kind_of
from trine.runtime.errors import InputError, missing_package

__all__ = ["BATCH_ROWS", "import_pyarrow", "read_table", "table_schema"]

#: Rows that are in memory at a time.
BATCH_ROWS = 1024
#: A row of a .csv file must fit into this many bytes.
CSV_BLOCK = 8 << 20


def import_pyarrow() -> Any:
    """Return the module pyarrow with its parts, or raise DependencyError."""
    try:
        import pyarrow
        import pyarrow.csv
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as cause:
        raise missing_package("pyarrow", "parquet", "to write and read datasets") from cause
    return pyarrow


def table_schema(path: Path) -> Any:
    """Return the Arrow schema of a table; every column of .csv and .tsv is text.

    Raises:
        InputError: the file is damaged or empty.
    """
    arrow = import_pyarrow()
    with _naming(path):
        kind = kind_of(path)
        if kind == ".parquet":
            return arrow.parquet.read_schema(path)
        if kind == ".arrow":
            with arrow.OSFile(str(path)) as file:
                return _open_ipc(file).schema
        with _open_csv(path, {}) as reader:
            names = reader.schema.names
        return arrow.schema([(name, arrow.string()) for name in names])


def read_table(path: Path, columns: Sequence[str], skip: int = 0) -> Iterator[Any]:
    """Yield record batches of at most `BATCH_ROWS` rows.

    Args:
        path: of the table.
        columns: to read.
        skip: rows to leave out at the beginning.

    Raises:
        InputError: the file is damaged.
    """
    with _naming(path):
        batches, skip = _batches(path, columns, skip)
        for batch in batches:
            for first in range(0, batch.num_rows, BATCH_ROWS):
                part = batch.slice(first, BATCH_ROWS)
                if skip >= part.num_rows:
                    skip -= part.num_rows
                    continue
                part, skip = part.slice(skip), 0
                yield part


def _batches(path: Path, columns: Sequence[str], skip: int) -> tuple[Iterator[Any], int]:
    """Return a table's batches, and how many of their rows are still to be left out."""
    if kind_of(path) != ".parquet":
        return _stream_batches(path, columns), skip
    footer = import_pyarrow().parquet.read_metadata(path)
    group = 0
    while group < footer.num_row_groups and skip >= footer.row_group(group).num_rows:
        skip -= footer.row_group(group).num_rows
        group += 1
    return _parquet_batches(path, columns, range(group, footer.num_row_groups)), skip


def _parquet_batches(path: Path, columns: Sequence[str], groups: range) -> Iterator[Any]:
    with import_pyarrow().parquet.ParquetFile(path) as file:
        yield from file.iter_batches(BATCH_ROWS, row_groups=list(groups), columns=list(columns))


def _stream_batches(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    arrow = import_pyarrow()
    if kind_of(path) == ".arrow":
        with arrow.OSFile(str(path)) as file:
            reader = _open_ipc(file)
            streamed = hasattr(reader, "read_next_batch")
            parts = reader if streamed else map(reader.get_batch, range(reader.num_record_batches))
            for batch in parts:
                yield batch.select(list(columns))
    else:
        types = {name: arrow.string() for name in table_schema(path).names}
        with _open_csv(path, types) as reader:
            for batch in reader:
                yield batch.select(list(columns))


def _open_ipc(file: Any) -> Any:
    """Return a reader of an Arrow file, or of an Arrow stream, as Hugging Face datasets are."""
    arrow = import_pyarrow()
    try:
        return arrow.ipc.open_file(file)
    except arrow.ArrowInvalid:
        file.seek(0)
        return arrow.ipc.open_stream(file)


def _open_csv(path: Path, types: dict[str, Any]) -> Any:
    csv = import_pyarrow().csv
    return csv.open_csv(
        path,
        read_options=csv.ReadOptions(block_size=CSV_BLOCK, use_threads=False),
        parse_options=csv.ParseOptions(
            delimiter="\t" if kind_of(path) == ".tsv" else ",", newlines_in_values=True
        ),
        convert_options=csv.ConvertOptions(column_types=types, strings_can_be_null=False),
    )


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn errors of pyarrow into one that names the file."""
    arrow = import_pyarrow()
    try:
        yield
    except (arrow.ArrowException, OSError) as cause:
        reason = " ".join(str(cause).split()).rstrip(".")
        raise InputError(
            f"{path}: cannot be read as {kind_of(path)} ({reason}); the file is damaged or "
            "of another kind"
        ) from cause
