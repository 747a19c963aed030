"""Prepares items ahead of the engine, on worker threads, in order and within bounds."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

from trine.runtime.errors import InputError
from trine.runtime.inputs import ImageText, Item, StreamItem
from trine.runtime.preprocessing.preprocessor import Preprocessor
from trine.runtime.preprocessing.sequence import TokenSequence
from trine.runtime.request import Request

__all__ = ["Chunk", "PreparedChunk", "cut_chunks", "prefetch_chunks"]

#: What is tokenised in one go; more would only hold more memory.
MAX_TEXTS = 256
MAX_CHARACTERS = 1 << 16
#: Characters that make a token in the languages that need most tokens for their bytes; a guess on
#: the safe side, for bounds only.
CHARACTERS_PER_TOKEN = 3


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive items that one worker prepares: texts, or a single item with images.

    Attributes:
        first: number of its first item.
        items: the items.
        request: their options.
        error: of the item behind the last, which could not be used; None if there was none.
    """

    first: int
    items: tuple[Item, ...]
    request: Request
    error: InputError | None = None


@dataclass(frozen=True, slots=True)
class PreparedChunk:
    """What a chunk came to.

    Attributes:
        sequences: of its items, up to the first that could not be used.
        tasks: of the same items.
        error: of the item behind them; None if all could be used.
    """

    sequences: tuple[TokenSequence, ...]
    tasks: tuple[str, ...]
    error: InputError | None


#: Returns the options of items that begin at a number, up to the first that cannot be used, and its
#: error; None if all can be.
Check: TypeAlias = Callable[[int, Sequence[StreamItem]], tuple[Request, InputError | None]]


def cut_chunks(items: Iterable[StreamItem], check: Check) -> Iterator[Chunk]:
    """Yield chunks that hold all items in order; the last has the error, if an item has one.

    Args:
        items: read one by one, as chunks are asked for.
        check: of each chunk's items.
    """
    members: list[StreamItem] = []
    first = characters = 0
    for item in items:
        alone = not isinstance(item.item, str)
        full = len(members) >= MAX_TEXTS or characters >= MAX_CHARACTERS
        if members and (alone or full):
            yield _checked(first, members, check)
            first, members, characters = first + len(members), [], 0
        members.append(item)
        if alone:
            yield _checked(first, members, check)
            first, members = first + 1, []
        elif isinstance(item.item, str):
            characters += len(item.item)
    if members:
        yield _checked(first, members, check)


def _checked(first: int, members: Sequence[StreamItem], check: Check) -> Chunk:
    request, error = check(first, members)
    items = tuple(member.item for member in members[: len(request.tasks)])
    return Chunk(first, items, request, error)


def prefetch_chunks(
    chunks: Iterator[Chunk],
    preprocessor: Preprocessor,
    max_tokens: int,
    tokens_per_pixel: float,
    num_workers: int,
) -> Generator[PreparedChunk, None, None]:
    """Yield chunks in order, prepared; while the caller is busy, workers go on with those behind.

    `chunks` is read by the caller's thread. A single chunk is prepared there too. Closing this
    iterator ends the workers, after what each of them is doing.

    Args:
        chunks: ends with one that has an error.
        preprocessor: of the checkpoint.
        max_tokens: about as many are prepared and not yet yielded, at least two chunks a worker.
        tokens_per_pixel: of images after resizing.
        num_workers: threads that prepare.
    """
    first = next(chunks, None)
    if first is None:
        return
    second = next(chunks, None) if first.error is None else None
    if second is None:
        yield _prepare(first, preprocessor, num_workers)
        return
    chunks = chain((first, second), chunks)
    pending: deque[tuple[int, Future[PreparedChunk]]] = deque()
    room = max_tokens
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="trine-prepare")
    try:
        ended = False
        while pending or not ended:
            # Images are guessed at their largest, so workers have some whatever the guess.
            while not ended and (room > 0 or len(pending) < 2 * num_workers):
                chunk = next(chunks, None)
                if chunk is None:
                    ended = True
                    break
                size = _estimate(chunk, tokens_per_pixel)
                pending.append((size, pool.submit(_prepare, chunk, preprocessor, 1)))
                room -= size
                ended = chunk.error is not None
            if pending:
                size, future = pending.popleft()
                prepared = future.result()
                room += size
                yield prepared
                if prepared.error is not None:
                    return
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _estimate(chunk: Chunk, tokens_per_pixel: float) -> int:
    """Return about how many tokens a chunk comes to; of what is no item nothing is known yet."""
    total = 0
    for item in chunk.items:
        text = item.text if isinstance(item, ImageText) else item
        images = item.images if isinstance(item, ImageText) else ()
        num_images = len(images) if isinstance(images, Sized) else 0
        length = len(text) if isinstance(text, str) else 0
        pixels = num_images * chunk.request.max_pixels
        total += 1 + length // CHARACTERS_PER_TOKEN + int(pixels * tokens_per_pixel)
    return total


def _prepare(chunk: Chunk, preprocessor: Preprocessor, threads: int) -> PreparedChunk:
    found: list[TokenSequence] = []
    try:
        found += preprocessor.sequences(chunk.items, chunk.request, chunk.first, threads)
    except InputError as cause:
        found, error = _until_error(chunk, preprocessor, cause)
        return PreparedChunk(tuple(found), chunk.request.tasks[: len(found)], error)
    return PreparedChunk(tuple(found), chunk.request.tasks, chunk.error)


def _until_error(
    chunk: Chunk, preprocessor: Preprocessor, cause: InputError
) -> tuple[list[TokenSequence], InputError]:
    """Return the sequences of the items before the one that cannot be used, and its error."""
    found: list[TokenSequence] = []
    for place, item in enumerate(chunk.items):
        try:
            found += preprocessor.sequences(
                (item,), chunk.request.part(place, place + 1), chunk.first + place
            )
        except InputError as error:
            return found, error
    return found, cause
