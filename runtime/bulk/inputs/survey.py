"""Reads all inputs once before work starts: schemas, counts, tasks, rows that cannot be used."""

import hashlib
from array import array
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trine.runtime.bulk.inputs.columns import ColumnOptions
from trine.runtime.bulk.inputs.file_kinds import TABLES
from trine.runtime.bulk.inputs.files import resolve_row
from trine.runtime.bulk.inputs.items import InputRow
from trine.runtime.bulk.inputs.rows import (
    JSON_FIELDS,
    ReadOptions,
    SourceRow,
    json_value,
    read_source,
)
from trine.runtime.bulk.inputs.sources import SourceFile
from trine.runtime.bulk.inputs.tables import import_pyarrow, table_schema
from trine.runtime.errors import InputError

__all__ = ["Survey", "Tasks", "checked_item", "survey_sources"]

INT64 = range(-(1 << 63), 1 << 63)


@dataclass(frozen=True, slots=True)
class Tasks:
    """Tasks that rows may have.

    Attributes:
        known: of the bundle.
        default: of rows that name none; None where each must.
    """

    known: tuple[str, ...]
    default: str | None


@dataclass(frozen=True, slots=True)
class Survey:
    """What the first reading found.

    Attributes:
        num_rows: of each file.
        tasks: of the rows.
        kept_schema: the Arrow schema of the columns that travel.
        first_fault: of the first row that cannot be used; None if all can.
        num_faults: rows that cannot be used.
        repeated: one sentence on ids that stand at several rows; None if there are none.
    """

    num_rows: tuple[int, ...]
    tasks: frozenset[str]
    kept_schema: Any
    first_fault: InputError | None
    num_faults: int
    repeated: str | None


def survey_sources(sources: Sequence[SourceFile], options: ReadOptions, tasks: Tasks) -> Survey:
    """Read all files and return what is in them.

    Raises:
        InputError: a file cannot be read, a column is missing or of a wrong type, or a column that
            travels has different types.
    """
    kept = _KeptTypes(options.columns)
    for source in sources:
        if source.kind in TABLES:
            _check_table(source, options.columns, kept)
    ids = _Ids()
    counts: list[int] = []
    found: set[str] = set()
    first_fault, num_faults = None, 0
    for source in sources:
        count = 0
        for row in read_source(source, options):
            count += 1
            kept.add_record(row)
            try:
                found.add(checked_item(row, tasks).task or "")
                ids.add(row)
            except InputError as fault:
                first_fault, num_faults = first_fault or fault, num_faults + 1
        counts.append(count)
    return Survey(
        num_rows=tuple(counts),
        tasks=frozenset(found),
        kept_schema=kept.schema(),
        first_fault=first_fault,
        num_faults=num_faults,
        repeated=ids.repeated(row for source in sources for row in read_source(source, options)),
    )


def checked_item(row: SourceRow, tasks: Tasks) -> InputRow:
    """Return the item of a row, with its task and the side that the task's name has.

    Raises:
        InputError: the row cannot be used, or its task is unknown.
    """
    if row.item is None:
        raise row.fault or InputError(f"{row.source}: row {row.number} holds nothing")
    return resolve_row(row.item, tasks.known, tasks.default)


def _check_table(source: SourceFile, columns: ColumnOptions, kept: "_KeptTypes") -> None:
    schema = table_schema(Path(source.path))
    names = schema.names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{source.path}: has the columns {twice} twice; rename them")
    explicit = [] if isinstance(columns.keep, str) else list(columns.keep)
    missing = [name for name in (*columns.named(), *explicit) if name not in names]
    if missing:
        raise InputError(f"{source.path}: has no column {missing[0]!r}; it has {names}")
    used = columns.used(names)
    ids = ("id", "_id") if columns.id is None else (columns.id,)
    if not set(used) - set(ids):
        raise InputError(
            f"{source.path}: has no column 'text' or 'image'; name one of {names} with "
            "--text-column, --image-column or --template"
        )
    for name in used:
        _check_type(source.path, name, schema.field(name).type, columns)
    for name in columns.kept(names):
        kept.add(name, schema.field(name).type, source.path)


def _check_type(where: str, name: str, type_: Any, columns: ColumnOptions) -> None:
    """Refuse a column whose type cannot hold what it is used for."""
    types = import_pyarrow().types
    value = type_.value_type if types.is_dictionary(type_) else type_
    text = types.is_string(value) or types.is_large_string(value) or types.is_null(value)
    if name == (columns.image or "image"):
        fits = text or types.is_nested(value) or types.is_binary(value)
        fits, wanted = fits or types.is_large_binary(value), "paths or bytes of images"
    elif name in (columns.text or "text",):
        fits, wanted = text, "strings"
    else:
        fits, wanted = text or types.is_integer(value), "strings or whole numbers"
    if not fits:
        raise InputError(f"{where}: column {name!r} is {type_}; name one of {wanted}")


class _KeptTypes:
    """The types of the columns that travel, which all inputs must agree on."""

    def __init__(self, columns: ColumnOptions) -> None:
        self._columns = columns
        self._arrow = import_pyarrow()
        self._types: dict[str, tuple[Any, str]] = {}
        self._kept: tuple[tuple[str, ...], list[str]] = ((), [])
        self._json_types = {
            type(None): self._arrow.null(),
            bool: self._arrow.bool_(),
            int: self._arrow.int64(),
            float: self._arrow.float64(),
            str: self._arrow.string(),
        }

    def add_record(self, row: SourceRow) -> None:
        """Take the types of a JSON line's fields."""
        if row.record is None:
            return
        names = tuple(row.record)
        if names != self._kept[0]:  # most lines have the fields of the line before
            self._kept = (names, self._columns.kept(names, JSON_FIELDS))
        where = f"{row.source}:{row.number}"
        for name in self._kept[1]:
            self.add(name, self._json_type(name, json_value(row.record[name]), where), where)

    def add(self, name: str, type_: Any, where: str) -> None:
        known, first = self._types.get(name, (self._arrow.null(), where))
        if known == type_ or type_ == self._arrow.null():
            self._types.setdefault(name, (known, first))
            return
        numbers = {self._arrow.int64(), self._arrow.float64()}
        if known == self._arrow.null():
            self._types[name] = (type_, where)
        elif {known, type_} == numbers:
            self._types[name] = (self._arrow.float64(), first)
        else:
            raise InputError(
                f"{where}: {name!r} is {type_}, but {known} in {first}; make them alike, or leave "
                "the column out with --keep"
            )

    def schema(self) -> Any:
        """Return the Arrow schema of all columns.

        Raises:
            InputError: a column that an option names is in no input.
        """
        keep = self._columns.keep
        missing = [] if isinstance(keep, str) else [n for n in keep if n not in self._types]
        if missing:
            raise InputError(
                f"--keep names {missing}, which no input has; known are {list(self._types)}"
            )
        return self._arrow.schema([(name, type_) for name, (type_, _) in self._types.items()])

    def _json_type(self, name: str, value: object, where: str) -> Any:
        if isinstance(value, int) and not isinstance(value, bool) and value not in INT64:
            raise InputError(
                f"{where}: {name!r} is {value}, no 64-bit number; write it as a string"
            )
        return self._json_types[type(value)]


class _Ids:
    """Which ids stand at several rows; eight bytes a row, whatever their length."""

    def __init__(self) -> None:
        self._hashes = array("Q")

    def add(self, row: SourceRow) -> None:
        if row.item is not None:
            self._hashes.append(_hash(row.item.id))

    def repeated(self, rows: Iterable[SourceRow]) -> str | None:
        """Return a sentence on repeated ids.

        Args:
            rows: all of them once more, read only if there seem to be some.
        """
        hashes = np.sort(np.frombuffer(self._hashes, np.uint64)) if self._hashes else np.empty(0)
        twice: Collection[int] = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        if not twice:
            return None
        first: dict[str, str] = {}
        for row in rows:
            if row.item is None or _hash(row.item.id) not in twice:
                continue
            if row.item.id in first:
                return (
                    f"{row.item.where}: id {row.item.id!r} is also that of {first[row.item.id]}; "
                    f"{len(twice)} ids are repeated, and all their rows are kept"
                )
            first[row.item.id] = row.item.where
        return None


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
