"""Embeds a stream of rows, a bounded number of them at a time."""

import re
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

from trine.runtime.bulk.inputs.files import resolve_row
from trine.runtime.bulk.inputs.items import InputRow, load_item
from trine.runtime.bulk.inputs.pdf_pages import PdfPage
from trine.runtime.bulk.output_rows import OutputRow
from trine.runtime.embedder import Embedder
from trine.runtime.errors import InputError
from trine.runtime.inputs import ImageText, Item, Prompt, StreamItem
from trine.runtime.outputs import Embedding, OutputDtype

__all__ = [
    "RowOptions",
    "embed_rows",
    "encode_items",
    "error_at",
    "item_number",
    "output_row",
    "unopened_item",
]

#: Rows written at a time, few enough that progress is seen.
MAX_ROWS = 64
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

    Images are decoded on worker threads while the engine runs; pages of PDFs, whose library
    knows one thread only, when they are read.

    Raises:
        InputError: a row cannot be used; the message has its file and line.
    """
    waiting: deque[InputRow] = deque()
    num_done = 0

    def items() -> Iterator[StreamItem]:
        for row in rows:
            item = unopened_item(row)
            named = resolve_row(row, embedder.tasks, options.task)
            waiting.append(row)
            yield StreamItem(item, named.task, named.prompt)

    done: list[OutputRow] = []
    try:
        for found in encode_items(embedder, items(), options):
            done.append(output_row(waiting.popleft(), found))
            num_done += 1
            if len(done) == MAX_ROWS:
                yield done
                done = []
    except InputError as error:
        raise error_at(error, [row.where for row in waiting], num_done) from error
    if done:
        yield done


def encode_items(
    embedder: Embedder, items: Iterable[StreamItem], options: RowOptions
) -> Generator[Embedding, None, None]:
    """Yield the vectors of items, as `Embedder.encode_stream` with the options of the run."""
    return embedder.encode_stream(
        items,
        options.task,
        prompt_name=options.prompt,
        truncate_dim=options.dim,
        max_length=options.max_length,
        max_pixels=options.max_pixels,
        return_single=not options.multi,
        return_multivector=options.multi,
        output_dtype=options.output_dtype,
    )


def unopened_item(row: InputRow) -> Item:
    """Return the item of a row, its images as paths, its pages of PDFs as pixels."""
    if any(isinstance(image, PdfPage) for image in row.images):
        return load_item(row)
    return ImageText(row.images, row.text) if row.images else row.text or ""


def output_row(row: InputRow, found: Embedding) -> OutputRow:
    """Return what a row came to."""
    vectors = found.single if found.multi is None else found.multi
    if vectors is None:
        raise ValueError("no head was asked for")
    return OutputRow(
        id=row.id, vectors=vectors, num_tokens=found.num_tokens, truncated=found.truncated
    )


def error_at(error: InputError, places: Sequence[str], first: int = 0) -> InputError:
    """Return an embedder's error about one item, with the item's place in the input for its number.

    Args:
        error: its message begins with "item", "image" or "text" and a number, or is not changed.
        places: of the items the embedder was given and has not answered, e.g. "notes.txt:7".
        first: number of the first of them.
    """
    message = str(error)
    match = ITEM_NUMBER.match(message)
    number = item_number(error)
    if match is None or number is None or not first <= number < first + len(places):
        return error
    place, rest = places[number - first], message[match.end() :]
    # An image that is an input by itself would be named twice.
    return InputError(place + rest.removeprefix(f" ({place!r})"))


def item_number(error: InputError) -> int | None:
    """Return the number of the item that an embedder's error is about; None if it names none."""
    match = ITEM_NUMBER.match(str(error))
    return None if match is None else int(match[1])
