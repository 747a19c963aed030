"""Writes a slice's shard so that it is there whole or not at all, and reads what shards say.

A shard's footer holds the job's fingerprint, the slice's number, how many rows were read for it and
those that were skipped: what is done is known from the shards alone.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trine.runtime.bulk.inputs.rows import SourceRow
from trine.runtime.bulk.inputs.tables import import_pyarrow
from trine.runtime.bulk.output_rows import OutputRow
from trine.runtime.bundle.atomic import write_file
from trine.runtime.errors import InputError
from trine.runtime.outputs import OutputDtype, stored_shape

__all__ = [
    "SHARD_NAME",
    "Shard",
    "ShardLayout",
    "ShardWriter",
    "SkippedRow",
    "open_shard",
    "read_shard",
    "read_skipped",
    "shard_name",
    "stored_durably",
]

SHARD_NAME = re.compile(r"part-(\d{6,})\.parquet")
#: Vectors of so many bytes are a row group, which is what a reader has in memory at a time.
GROUP_BYTES = 16 << 20
GROUP_ROWS = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardLayout:
    """What all shards of a job have alike.

    Attributes:
        dim: of vectors before they are packed.
        multi: whether they are multi-vectors.
        output_dtype: of the vectors.
        kept_schema: Arrow schema of the columns that travel.
        metadata: of the schema.
    """

    dim: int
    multi: bool
    output_dtype: OutputDtype
    kept_schema: Any
    metadata: Mapping[str, str]

    def schema(self) -> Any:
        """Return the Arrow schema of a shard."""
        arrow = import_pyarrow()
        dtype, num_values = stored_shape(self.output_dtype, self.dim)
        vector = arrow.list_(arrow.from_numpy_dtype(dtype), num_values)
        name, type_ = ("embeddings", arrow.list_(vector)) if self.multi else ("embedding", vector)
        return arrow.schema(
            [
                ("id", arrow.string()),
                (name, type_),
                ("source", arrow.string()),
                ("row", arrow.int64()),
                *self.kept_schema,
                ("num_tokens", arrow.int64()),
                ("truncated", arrow.bool_()),
            ],
            metadata=dict(self.metadata),
        )


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """A row that could not be used."""

    source: str
    row: int
    id: str | None
    error: str


@dataclass(frozen=True, slots=True)
class Shard:
    """What a shard's footer says.

    Attributes:
        name: of its file.
        slice: number of its slice.
        fingerprint: of its job.
        num_rows: in it.
        num_read: rows of the inputs it was made of.
        num_skipped: those of them that could not be used.
        num_bytes: of its file.
    """

    name: str
    slice: int
    fingerprint: str
    num_rows: int
    num_read: int
    num_skipped: int
    num_bytes: int


def shard_name(number: int) -> str:
    """Return the file name of a slice's shard."""
    return f"part-{number:06}.parquet"


class ShardWriter:
    """Collects rows and writes them in row groups; `open_shard` makes it."""

    def __init__(self, file: BinaryIO, layout: ShardLayout) -> None:
        self._arrow = import_pyarrow()
        self._layout = layout
        self._schema = layout.schema()
        self._writer = self._arrow.parquet.ParquetWriter(
            file, self._schema, use_dictionary=["source"]
        )
        self._rows: list[tuple[SourceRow, OutputRow]] = []
        self._bytes = 0
        self.skipped: list[SkippedRow] = []
        self.num_rows = 0

    def add(self, row: SourceRow, result: OutputRow) -> None:
        """Take the next row."""
        self._rows.append((row, result))
        self._bytes += result.vectors.nbytes
        self.num_rows += 1
        if self._bytes >= GROUP_BYTES or len(self._rows) >= GROUP_ROWS:
            self._write_group()

    def skip(self, row: SourceRow, fault: InputError) -> None:
        """Note a row that cannot be used."""
        self.skipped.append(SkippedRow(row.source, row.number, row.id, str(fault)))

    def finish(self, number: int, fingerprint: str) -> None:
        """Write the rest and the footer."""
        if self._rows:
            self._write_group()
        self._writer.add_key_value_metadata(
            {
                "trine.fingerprint": fingerprint,
                "trine.slice": str(number),
                "trine.rows_read": str(self.num_rows + len(self.skipped)),
                "trine.rows_skipped": str(len(self.skipped)),
                "trine.skipped": json.dumps([asdict(row) for row in self.skipped]),
            }
        )
        self._writer.close()

    def close(self) -> None:
        """End the writer, if `finish` has not; its file is of no use then."""
        with suppress(OSError):  # the disk that is full, once more
            self._writer.close()

    def _write_group(self) -> None:
        arrow, results = self._arrow, [result for _, result in self._rows]
        sources = [row for row, _ in self._rows]
        columns = {
            "id": arrow.array([result.id for result in results], arrow.string()),
            "embeddings" if self._layout.multi else "embedding": self._vectors(results),
            "source": arrow.array([row.source for row in sources], arrow.string()),
            "row": arrow.array([row.number for row in sources], arrow.int64()),
            **self._kept(sources),
            "num_tokens": arrow.array([result.num_tokens for result in results], arrow.int64()),
            "truncated": arrow.array([bool(result.truncated) for result in results]),
        }
        self._writer.write_table(
            arrow.table([columns[name] for name in self._schema.names], schema=self._schema),
            row_group_size=GROUP_ROWS,
        )
        self._rows, self._bytes = [], 0

    def _vectors(self, results: list[OutputRow]) -> Any:
        arrow = self._arrow
        dtype, num_values = stored_shape(self._layout.output_dtype, self._layout.dim)
        arrays = [result.vectors.reshape(-1, num_values) for result in results]
        flat = np.concatenate(arrays).astype(dtype, copy=False).reshape(-1)
        vectors = arrow.FixedSizeListArray.from_arrays(arrow.array(flat), num_values)
        if not self._layout.multi:
            return vectors
        offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int32)
        return arrow.ListArray.from_arrays(arrow.array(offsets), vectors)

    def _kept(self, rows: list[SourceRow]) -> dict[str, Any]:
        """Return the columns that travel, made of the runs of rows of each batch."""
        arrow, schema = self._arrow, self._layout.kept_schema
        if not schema.names:
            return {}
        parts = []
        first = 0
        for last in range(1, len(rows) + 1):
            if last < len(rows) and _follows(rows[last - 1], rows[last]):
                continue
            kept, count = rows[first].kept, last - first
            if kept is None:
                nulls = [arrow.nulls(count, field.type) for field in schema]
                parts.append(arrow.record_batch(nulls, schema=schema))
            else:
                parts.append(kept[0].slice(kept[1], count))
            first = last
        table = arrow.Table.from_batches(parts, schema)
        return {name: table.column(name) for name in schema.names}


def _follows(before: SourceRow, row: SourceRow) -> bool:
    """Whether two rows stand one behind the other in one batch."""
    if before.kept is None or row.kept is None:
        return before.kept is row.kept
    return before.kept[0] is row.kept[0] and before.kept[1] + 1 == row.kept[1]


@contextmanager
def open_shard(path: Path, layout: ShardLayout) -> Iterator[ShardWriter]:
    """Yield a writer of a shard that becomes `path` when the block ends, after `finish`.

    Raises:
        InputError: the disk is full or cannot be written.
    """
    with stored_durably(path) as file:
        writer = ShardWriter(file, layout)
        try:
            yield writer
        finally:
            writer.close()


@contextmanager
def stored_durably(path: Path) -> Iterator[BinaryIO]:
    """Yield an empty file that becomes `path` when the block ends, and is then on the disk.

    Raises:
        InputError: the disk is full or cannot be written.
    """
    try:
        with write_file(path) as partial, partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as cause:
        raise InputError(
            f"{path}: cannot be written ({cause.strerror or cause}); shards that were finished are "
            "kept: make room, and the same command continues"
        ) from cause


def read_shard(path: Path) -> Shard:
    """Return what a shard's footer says.

    Raises:
        InputError: it is no whole shard of a job.
    """
    arrow = import_pyarrow()
    try:
        footer = arrow.parquet.read_metadata(path)
        notes = footer.metadata or {}
        return Shard(
            name=path.name,
            slice=int(notes[b"trine.slice"]),
            fingerprint=notes[b"trine.fingerprint"].decode(),
            num_rows=footer.num_rows,
            num_read=int(notes[b"trine.rows_read"]),
            num_skipped=int(notes[b"trine.rows_skipped"]),
            num_bytes=path.stat().st_size,
        )
    except (arrow.ArrowException, OSError, KeyError, ValueError) as cause:
        raise InputError(
            f"{path}: is no whole shard of a dataset; remove it, and the same command makes it anew"
        ) from cause


def read_skipped(path: Path) -> list[SkippedRow]:
    """Return the rows that were skipped for a shard, as `read_shard` checked it."""
    notes = import_pyarrow().parquet.read_metadata(path).metadata
    return [SkippedRow(**row) for row in json.loads(notes[b"trine.skipped"])]
