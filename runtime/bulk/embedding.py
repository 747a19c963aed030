"""Embeds the rows of one slice; a row that cannot be used is reported, and the rest goes on."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import chain

from trine.runtime.bulk.inputs.rows import SourceRow
from trine.runtime.bulk.inputs.survey import Tasks, checked_item
from trine.runtime.bulk.output_rows import OutputRow
from trine.runtime.bulk.row_embedding import (
    RowOptions,
    encode_items,
    error_at,
    item_number,
    output_row,
    unopened_item,
)
from trine.runtime.embedder import Embedder
from trine.runtime.errors import InputError
from trine.runtime.inputs import StreamItem

__all__ = ["Report", "embed_slice"]

#: Told of each row that cannot be used, and why; may raise to end the job.
Report = Callable[[SourceRow, InputError], None]


def embed_slice(
    embedder: Embedder, rows: Iterable[SourceRow], options: RowOptions, report: Report
) -> Iterator[tuple[SourceRow, OutputRow]]:
    """Yield the rows that can be used with their vectors, in order.

    Batches are planned within the slice alone, so its vectors are the same bits whatever was
    embedded before it.

    Args:
        embedder: to use.
        rows: of the slice, read as they are needed.
        options: of the job.
        report: told of the other rows.
    """
    source = iter(rows)
    while True:
        waiting: deque[SourceRow] = deque()
        count = 0
        items = _items(source, waiting, report, Tasks(embedder.tasks, options.task))
        try:
            with closing(encode_items(embedder, items, options)) as found:
                for embedding in found:
                    row = waiting.popleft()
                    count += 1
                    if row.item is not None:
                        yield row, output_row(row.item, embedding)
            return
        except InputError as error:
            number = item_number(error)
            # All items before the one at fault have been yielded.
            if number != count or not waiting:
                raise
            row = waiting.popleft()
            report(row, error_at(error, [_place(row)], count))
            # What the stream had read ahead is embedded again.
            source = chain(waiting, source)


def _items(
    rows: Iterator[SourceRow], waiting: deque[SourceRow], report: Report, tasks: Tasks
) -> Iterator[StreamItem]:
    for row in rows:
        try:
            loaded = _load(row, tasks)
        except InputError as fault:
            report(row, fault)
            continue
        waiting.append(row)
        yield loaded


def _load(row: SourceRow, tasks: Tasks) -> StreamItem:
    """Return what to embed; pages of PDFs are drawn here.

    Raises:
        InputError: the row cannot be used.
    """
    item = checked_item(row, tasks)
    return StreamItem(unopened_item(item), item.task, item.prompt)


def _place(row: SourceRow) -> str:
    return f"{row.source}:{row.number}" if row.item is None else row.item.where
