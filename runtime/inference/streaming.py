"""Embeds items without end: reads them as results are taken, window by window."""

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.errors import InputError
from trine.runtime.inference.encoder import Encoder, Window
from trine.runtime.inference.self_test import SelfTest
from trine.runtime.inputs import ImageText, Item, StreamItem
from trine.runtime.outputs import Embedding, OutputDtype
from trine.runtime.preprocessing.prefetch import cut_chunks
from trine.runtime.request import Request, check_request
from trine.runtime.scoring.quantisation import Int8Ranges, check_output, quantise_embeddings

__all__ = ["StreamOptions", "stream_embeddings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """Options of a stream, as in `Embedder.encode_stream`; of items, those without their own."""

    task: str | None
    prompt_name: str | None
    truncate_dim: int | None
    max_length: int
    max_pixels: int | None
    single: bool
    multi: bool
    output_dtype: OutputDtype


def stream_embeddings(
    items: Iterable[Item | StreamItem],
    options: StreamOptions,
    model: ModelConfig,
    encoder: Encoder,
    self_test: SelfTest,
    ranges: Int8Ranges,
) -> Generator[Embedding, None, None]:
    """Return the generator of `Embedder.encode_stream`; options are checked here.

    Raises:
        InputError: an option is not usable; from the generator, an item.
    """

    def check(first: int, members: Sequence[StreamItem]) -> Request:
        return _check(members, options, model, encoder.engine.adapters.names)

    named = [] if options.task is None else [StreamItem("", options.task)]
    # Options that do not depend on the items, with the task that most items will have.
    request = check(0, named)
    dim = request.truncate_dim or model.decoder.hidden_size
    check_output(options.output_dtype, request.tasks, dim, options.multi, ranges)
    chunks = cut_chunks(map(_stream_item, items), check)

    def generate() -> Generator[Embedding, None, None]:
        windows = encoder.stream(chunks, request, options.single, options.multi)
        with closing(windows):
            for window, run in windows:
                check_output(options.output_dtype, window.tasks, dim, options.multi, ranges)
                _test(window, self_test)
                found = quantise_embeddings(run(), window.tasks, options.output_dtype, ranges)
                for row in range(len(window.tasks)):
                    yield Embedding(
                        single=None if found.single is None else found.single[row],
                        multi=None if found.multi is None else found.multi[row],
                        num_tokens=int(found.num_tokens[row]),
                        truncated=bool(found.truncated[row]),
                    )

    return generate()


def _stream_item(item: Item | StreamItem) -> StreamItem:
    return item if isinstance(item, StreamItem) else StreamItem(item)


def _check(
    members: Sequence[StreamItem],
    options: StreamOptions,
    model: ModelConfig,
    known_tasks: Sequence[str],
) -> Request:
    tasks = []
    for member in members:
        if not isinstance(member.item, str | ImageText):
            kind = type(member.item).__name__
            raise InputError(f"is a {kind}; give a str, or ImageText((image,)) for an image")
        task = options.task if member.task is None else member.task
        if task is None:
            raise InputError(
                f"has no task; pass task=, set embedder.task, or give a StreamItem with one of "
                f"{list(known_tasks)}"
            )
        tasks.append(task)
    return check_request(
        known_tasks,
        model,
        num_items=len(members),
        task=tasks,
        prompt_name=[m.prompt_name or options.prompt_name or "query" for m in members],
        truncate_dim=options.truncate_dim,
        max_length=options.max_length,
        max_pixels=options.max_pixels,
    )


def _test(window: Window, self_test: SelfTest) -> None:
    """Have the engine tested for what a window holds before its vectors are trusted."""
    self_test.require("text")
    if any(sequence.images for sequence in window.sequences):
        self_test.require("image")
