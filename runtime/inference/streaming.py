"""Embeds items without end: reads them as results are taken, window by window."""

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from trine.runtime.errors import InputError
from trine.runtime.inference.encoder import Encoder, Window
from trine.runtime.inference.self_test import SelfTest
from trine.runtime.inputs import ImageText, Item, StreamItem
from trine.runtime.outputs import Embedding
from trine.runtime.preprocessing.prefetch import cut_chunks
from trine.runtime.request import Request
from trine.runtime.scoring.quantisation import Int8Ranges, check_output, quantise_embeddings

__all__ = ["StreamDefaults", "stream_embeddings"]


@dataclass(frozen=True, slots=True)
class StreamDefaults:
    """Options of a stream; of items, for those without their own.

    Attributes:
        request: checked options of all items.
        task: an adapter's name; None where each item must name one.
        prompt_name: "query" (also if None) or "passage".
    """

    request: Request
    task: str | None
    prompt_name: str | None


def stream_embeddings(
    items: Iterable[Item | StreamItem],
    defaults: StreamDefaults,
    encoder: Encoder,
    self_test: SelfTest,
    ranges: Int8Ranges,
) -> Generator[Embedding, None, None]:
    """Yield the vectors of items, as `Embedder.encode_stream` describes.

    Raises:
        InputError: an item cannot be used.
    """

    def check(first: int, members: Sequence[StreamItem]) -> Request:
        return _check(members, defaults, encoder.engine.adapters.names)

    chunks = cut_chunks(map(_stream_item, items), check)
    options = defaults.request
    with closing(encoder.stream(chunks, options.heads)) as windows:
        for window, forward in windows:
            check_output(replace(options, tasks=tuple(window.tasks)), ranges)
            _test(window, self_test)
            found = quantise_embeddings(forward(), window.tasks, options.output_dtype, ranges)
            for row in range(len(window.tasks)):
                yield Embedding(
                    single=None if found.single is None else found.single[row],
                    multi=None if found.multi is None else found.multi[row],
                    num_tokens=int(found.num_tokens[row]),
                    truncated=bool(found.truncated[row]),
                )


def _stream_item(item: Item | StreamItem) -> StreamItem:
    return item if isinstance(item, StreamItem) else StreamItem(item)


def _check(
    members: Sequence[StreamItem], defaults: StreamDefaults, known_tasks: Sequence[str]
) -> Request:
    tasks = []
    for member in members:
        if not isinstance(member.item, str | ImageText):
            kind = type(member.item).__name__
            raise InputError(f"is a {kind}; give a str, or ImageText((image,)) for an image")
        task = defaults.task if member.task is None else member.task
        if task is None:
            raise InputError(
                f"has no task; pass task=, set embedder.task, or give a StreamItem with one of "
                f"{list(known_tasks)}"
            )
        tasks.append(task)
    prompts = [member.prompt_name or defaults.prompt_name or "query" for member in members]
    return defaults.request.of_items(known_tasks, len(members), tasks, prompts)


def _test(window: Window, self_test: SelfTest) -> None:
    """Have the engine tested for what a window holds before its vectors are trusted."""
    self_test.require("text")
    if any(sequence.images for sequence in window.sequences):
        self_test.require("image")
