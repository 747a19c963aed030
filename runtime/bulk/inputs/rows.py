"""Reads the rows of an input file, from any row on; those that cannot be used say why."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from trine.runtime.bulk.inputs.columns import ColumnOptions
from trine.runtime.bulk.inputs.file_kinds import TABLES, open_lines
from trine.runtime.bulk.inputs.files import Inputs, file_rows, numbered_lines
from trine.runtime.bulk.inputs.items import InputRow, object_from_json, row_from_fields
from trine.runtime.bulk.inputs.sources import SourceFile
from trine.runtime.bulk.inputs.tables import BATCH_ROWS, import_pyarrow, read_table, table_schema
from trine.runtime.errors import InputError

__all__ = ["JSON_FIELDS", "ReadOptions", "SourceRow", "json_value", "read_source"]

#: Fields of JSON lines that say how their item is embedded, so are no columns to keep.
JSON_FIELDS = ("task", "prompt")


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How files are read.

    Attributes:
        columns: what those of tables and JSON lines are.
        files: how text files and PDFs are read.
    """

    columns: ColumnOptions
    files: Inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRow:
    """One row of an input file.

    Attributes:
        source: path of the file.
        number: of its line, page or row, from 1.
        item: what to embed; None if the row cannot be used.
        given_id: as the input has it, also where the row cannot be used; None if it has none.
        record: its fields, of JSON lines; None for other files.
        kept: a record batch of the columns that travel, and the row's index in it; None for none.
        fault: why the row cannot be used; None if it can.
    """

    source: str
    number: int
    item: InputRow | None
    given_id: object = None
    record: Mapping[str, object] | None = None
    kept: tuple[Any, int] | None = None
    fault: InputError | None = None

    @property
    def id(self) -> str | None:
        """Of the item; None where the row cannot be used and has none."""
        if self.item is not None:
            return self.item.id
        return None if self.given_id is None else str(self.given_id)


def read_source(
    source: SourceFile, options: ReadOptions, kept_schema: Any = None, skip: int = 0
) -> Iterator[SourceRow]:
    """Yield the rows of a file, in order.

    Args:
        source: the file.
        options: how to read it.
        kept_schema: the Arrow schema of the columns that travel; None to leave them.
        skip: rows to leave out at the beginning.

    Raises:
        InputError: the file as a whole cannot be read.
    """
    if source.kind in TABLES:
        yield from _table_rows(source, options.columns, kept_schema, skip)
    elif source.kind == ".jsonl":
        yield from _json_rows(source, options.columns, kept_schema, skip)
    else:
        yield from islice(_plain_rows(source, options.files), skip, None)


def _plain_rows(source: SourceFile, files: Inputs) -> Iterator[SourceRow]:
    rows = file_rows(Path(source.path), files)
    try:
        for number, item in enumerate(rows, 1):
            yield SourceRow(source=source.path, number=number, item=item)
    except InputError as fault:
        if source.kind != ".pdf":  # a PDF is refused as a whole, before its first page
            raise
        yield SourceRow(source=source.path, number=1, item=None, fault=fault)


def _table_rows(
    source: SourceFile, columns: ColumnOptions, kept_schema: Any, skip: int
) -> Iterator[SourceRow]:
    path = Path(source.path)
    names = table_schema(path).names
    used = columns.used(names)
    kept = [] if kept_schema is None else columns.kept(names)
    number = skip
    for batch in read_table(path, list(dict.fromkeys([*used, *kept])), skip):
        records = batch.select(used).to_pylist()
        travelling = None if kept_schema is None else _conform(batch, kept_schema)
        for index, record in enumerate(records):
            number += 1
            where = f"{path}#row={number}"
            item, fault = _item(record, columns, where, path.parent)
            yield SourceRow(
                source=source.path,
                number=number,
                item=item,
                given_id=columns.id_of(record),
                kept=None if travelling is None else (travelling, index),
                fault=fault,
            )


def _conform(batch: Any, schema: Any) -> Any:
    """Return the columns of a schema: the batch's own, null where it has none."""
    arrow = import_pyarrow()
    arrays = [
        batch.column(field.name).cast(field.type)
        if field.name in batch.schema.names
        else arrow.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return _batch(arrays, schema, batch.num_rows)


def _batch(arrays: list[Any], schema: Any, num_rows: int) -> Any:
    arrow = import_pyarrow()
    if not arrays:  # a batch without columns does not know how long it is
        schema = arrow.schema([("", arrow.null())])
        return arrow.record_batch([arrow.nulls(num_rows)], schema=schema)
    return arrow.record_batch(arrays, schema=schema)


def _json_rows(
    source: SourceFile, columns: ColumnOptions, kept_schema: Any, skip: int
) -> Iterator[SourceRow]:
    with open_lines(Path(source.path)) as file:
        numbered = enumerate(numbered_lines(file, source.path), 1)
        filled = ((number, *line) for number, line in numbered if line[1].strip())
        lines = islice(filled, skip, None)
        while group := list(islice(lines, BATCH_ROWS)):
            yield from _json_group(source, group, columns, kept_schema)


def _json_group(
    source: SourceFile, lines: list[tuple[int, str, str]], columns: ColumnOptions, kept_schema: Any
) -> Iterator[SourceRow]:
    """Yield the rows of (number, place, line)s."""
    records: list[dict[str, object]] = []
    faults: list[InputError | None] = []
    for _, where, line in lines:
        try:
            records.append(object_from_json(line, where))
            faults.append(None)
        except InputError as fault:
            records.append({})
            faults.append(fault)
    batch = None if kept_schema is None else _json_batch(records, kept_schema)
    folder = Path(source.path).parent
    for index, (number, where, _) in enumerate(lines):
        item, why = None, faults[index]
        if why is None:
            item, why = _item(records[index], columns, where, folder, JSON_FIELDS)
        yield SourceRow(
            source=source.path,
            number=number,
            item=item,
            given_id=columns.id_of(records[index]),
            record=records[index],
            kept=None if batch is None else (batch, index),
            fault=why,
        )


def _json_batch(records: list[dict[str, object]], schema: Any) -> Any:
    arrow = import_pyarrow()
    arrays = [
        arrow.array([json_value(record.get(field.name)) for record in records], field.type)
        for field in schema
    ]
    return _batch(arrays, schema, len(records))


def json_value(value: object) -> object:
    """Return a field of a JSON line as it travels: lists and objects as their JSON text."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _item(
    record: Mapping[str, object],
    columns: ColumnOptions,
    where: str,
    folder: Path,
    also: tuple[str, ...] = (),
) -> tuple[InputRow | None, InputError | None]:
    """Return a record's item, or why it has none."""
    try:
        fields = columns.fields(record, where)
        fields |= {name: record[name] for name in also if name in record}
        return row_from_fields(fields, where, folder), None
    except InputError as fault:
        return None, fault
