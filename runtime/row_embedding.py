"""Embeds a stream of rows, a bounded number of them at a time."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from trine.runtime.embedder import Embedder
from trine.runtime.errors import InputError
from trine.runtime.input_files import row_task
from trine.runtime.input_rows import InputRow, load_item
from trine.runtime.inputs import Item, Prompt
from trine.runtime.output_rows import OutputRow
from trine.runtime.outputs import OutputDtype

__all__ = ["RowOptions", "embed_rows", "error_at"]

#: What fills a window alone. Few enough rows that memory stays small and progress is seen, enough
#: that sequences of like length find each other.
MAX_ROWS = 512
MAX_CHARACTERS = 1 << 16
MAX_PICTURES = 32
MAX_PIXELS = 1 << 26
#: How the embedder begins a message about one of the items it was given.
ITEM_NUMBER = re.compile(r"^(?:item|image|text) (\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowOptions:
    """Options of a run, as in `Embedder.encode`; `task` and `prompt` are of rows without their own.

    Attributes:
        multi: multi-vectors in place of single ones.
    """

    task: str | None
    prompt: Prompt
    dim: int | None
    max_length: int
    max_pixels: int | None
    multi: bool
    output_dtype: OutputDtype = "float32"


def embed_rows(
    embedder: Embedder, rows: Iterable[InputRow], options: RowOptions
) -> Iterator[list[OutputRow]]:
    """Yield the results of consecutive rows, all in order.

    Raises:
        InputError: a row cannot be used; the message has its file and line.
    """
    members: list[InputRow] = []
    items: list[Item] = []
    fill = 0.0
    for row in rows:
        item = load_item(row)
        members.append(row)
        items.append(item)
        fill += _share(item)
        if fill >= 1:
            yield _embed_window(embedder, members, items, options)
            members, items, fill = [], [], 0.0
    if members:
        yield _embed_window(embedder, members, items, options)


def _share(item: Item) -> float:
    """Return the part of a window that an item fills."""
    text = item if isinstance(item, str) else item.text or ""
    share = 1 / MAX_ROWS + len(text) / MAX_CHARACTERS
    if not isinstance(item, str):
        share += len(item.images) / MAX_PICTURES
        pixels = [i.shape[0] * i.shape[1] for i in item.images if isinstance(i, np.ndarray)]
        share += sum(pixels) / MAX_PIXELS
    return share


def _embed_window(
    embedder: Embedder, rows: Sequence[InputRow], items: Sequence[Item], options: RowOptions
) -> list[OutputRow]:
    try:
        found = embedder.encode(
            items,
            [row_task(row, embedder.tasks, options.task) for row in rows],
            prompt_name=[row.prompt or options.prompt for row in rows],
            truncate_dim=options.dim,
            max_length=options.max_length,
            max_pixels=options.max_pixels,
            return_single=not options.multi,
            return_multivector=options.multi,
            output_dtype=options.output_dtype,
        )
    except InputError as error:
        raise error_at(error, [row.where for row in rows]) from error
    vectors = found.single if found.multi is None else found.multi
    if vectors is None:
        raise ValueError("no head was asked for")
    return [
        OutputRow(
            id=row.id,
            vectors=vectors[index],
            num_tokens=int(found.num_tokens[index]),
            truncated=bool(found.truncated[index]),
        )
        for index, row in enumerate(rows)
    ]


def error_at(error: InputError, places: Sequence[str]) -> InputError:
    """Return an embedder's error about one item, with the item's place in the input for its number.

    Args:
        error: its message begins with "item", "image" or "text" and a number, or is not changed.
        places: of each item the embedder was given, e.g. "notes.txt:7".
    """
    message = str(error)
    match = ITEM_NUMBER.match(message)
    if match is None or int(match[1]) >= len(places):
        return error
    return InputError(f"{places[int(match[1])]}{message[match.end() :]}")
