"""Embeds items without end: reads them as results are taken, window by window."""

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import cast

from trine.runtime.errors import InputError
from trine.runtime.inference.encoder import Encoder, Window
from trine.runtime.inference.self_test import SelfTest
from trine.runtime.inputs import ImageText, Item, StreamItem
from trine.runtime.outputs import Embedding
from trine.runtime.preprocessing.item_lists import item_problem, plain_item
from trine.runtime.preprocessing.prefetch import cut_chunks
from trine.runtime.request import Request
from trine.runtime.scoring.quantisation import Int8Ranges, check_output, quantise_embeddings
from trine.runtime.task_names import split_task

__all__ = ["StreamDefaults", "stream_embeddings"]


@dataclass(frozen=True, slots=True)
class StreamDefaults:
    """Options of a stream; of items, for those without their own.

    Attributes:
        request: checked options of all items.
        task: an adapter's bare name; None where each item must name one.
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

    def check(first: int, members: Sequence[StreamItem]) -> tuple[Request, InputError | None]:
        # One list for all checks of these items: adapters come and go meanwhile.
        return _check(first, members, defaults, encoder.engine.adapters.names)

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
    named = item if isinstance(item, StreamItem) else StreamItem(item)
    return replace(named, item=cast(Item, plain_item(named.item)))


def _check(
    first: int, members: Sequence[StreamItem], defaults: StreamDefaults, known_tasks: Sequence[str]
) -> tuple[Request, InputError | None]:
    """Return the options of the items before the first that cannot be used, and its error."""
    try:
        return _request(members, defaults, known_tasks), None
    except InputError as cause:
        problem = cause
    usable = 0
    for count in range(1, len(members)):
        try:
            _request(members[:count], defaults, known_tasks)
        except InputError as cause:
            problem = cause
            break
        usable = count
    error = InputError(f"item {first + usable}: {problem}")
    return _request(members[:usable], defaults, known_tasks), error


def _request(
    members: Sequence[StreamItem], defaults: StreamDefaults, known_tasks: Sequence[str]
) -> Request:
    tasks = []
    for member in members:
        if not isinstance(member.item, str | ImageText):
            raise InputError(item_problem(member.item))
        task = defaults.task if member.task is None else member.task
        if task is None:
            raise InputError(
                f"has no task; pass task=, set embedder.task, or give a StreamItem with one of "
                f"{list(known_tasks)}"
            )
        tasks.append(task)
    # What an item names itself goes before what the call names, in whichever way.
    prompts = [
        member.prompt_name or (None if _names_side(member, known_tasks) else defaults.prompt_name)
        for member in members
    ]
    return defaults.request.of_items(known_tasks, len(members), tasks, prompts)


def _names_side(member: StreamItem, known_tasks: Sequence[str]) -> bool:
    found = split_task(member.task, known_tasks) if isinstance(member.task, str) else None
    return found is not None and found[1] is not None


def _test(window: Window, self_test: SelfTest) -> None:
    """Have the engine tested for what a window holds before its vectors are trusted."""
    self_test.require("text")
    if any(sequence.images for sequence in window.sequences):
        self_test.require("image")
