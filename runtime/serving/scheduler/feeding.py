"""Prepares an accepted call's items in threads and queues each as soon as it is ready."""

import asyncio
import contextlib
import functools
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from trine.runtime.engines.base import Engine
from trine.runtime.inference.batch_planner import Load
from trine.runtime.serving.scheduler.admission import PatchRoom
from trine.runtime.serving.scheduler.batching import BatchBudget, is_short
from trine.runtime.serving.scheduler.preparing import Prepared, Preparer
from trine.runtime.serving.scheduler.text_pool import TextPool
from trine.runtime.serving.scheduler.tickets import Ticket
from trine.runtime.serving.scheduler.work import estimate_amount
from trine.runtime.serving.scheduler.work_queue import Entry, WorkQueue
from trine.runtime.serving.service.call_checks import document_groups, num_images
from trine.runtime.serving.service.calls import EmbedItem
from trine.runtime.serving.service.refusals import item_error, not_ready

__all__ = ["Feeder"]

#: Texts tokenised in one go, and their characters unless one alone has more; the first of a long
#: list reach the engine while others are prepared, and a list with too many tokens is refused
#: before all of it is tokenised.
CHUNK = 256
CHUNK_CHARACTERS = 262_144


class Feeder:
    """Brings calls to the queue. For the event loop's thread; the work is done in others.

    Texts and images have threads of their own, so that a query's tokens do not wait for the
    decoding of photographs.

    Args:
        preparer: that makes sequences.
        engine: that says which items may share a run.
        queue: where entries go.
        room: for decoded images.
        texts: threads for texts.
        image_threads: threads for images.
        max_call_tokens: of all items of a call.
        patches_per_image: at most.
        budget: of one batch.
        max_wait: seconds within which the engine is to begin with an item.
    """

    def __init__(  # noqa: PLR0913 - the parts that meet here
        self,
        *,
        preparer: Preparer,
        engine: Engine,
        queue: WorkQueue,
        room: PatchRoom,
        texts: TextPool,
        image_threads: ThreadPoolExecutor,
        max_call_tokens: int,
        patches_per_image: int,
        budget: BatchBudget,
        max_wait: float,
    ) -> None:
        self._preparer = preparer
        self._engine = engine
        self._queue = queue
        self._room = room
        self._texts = texts
        self._image_threads = image_threads
        self._max_call_tokens = max_call_tokens
        self._patches_per_image = patches_per_image
        self._budget = budget
        self._max_wait = max_wait
        self._ready: list[Entry] = []

    def feed_few(self, ticket: Ticket, max_length: int) -> bool:
        """Begin to prepare the items of a call if they are a few texts; return whether they are.

        Nothing waits for the preprocessor, as that would cost more than it does: what goes wrong
        ends the ticket, with the errors of `feed`.

        Args:
            ticket: of the call.
            max_length: tokens of each text.
        """
        items = ticket.call.items
        if ticket.call.late_chunking or len(items) > CHUNK or any(map(num_images, items)):
            return False
        characters = _characters(items)
        if len(items) > 1 and characters > CHUNK_CHARACTERS:
            return False
        indices = range(len(items))

        def done(found: list[Prepared] | None, error: Exception | None) -> None:
            if ticket.closed:
                return
            try:
                if error is not None:
                    raise error
                if found is not None:
                    self._enqueue(ticket, found, max_length)
            except Exception as cause:  # it is raised where the call waits
                ticket.end(cause)

        self._texts.submit(
            functools.partial(self._preparer.texts, ticket.call, indices, max_length),
            characters,
            lambda: not ticket.closed,
            done,
        )
        return True

    async def feed(self, ticket: Ticket, max_length: int) -> None:
        """Prepare and queue all items of a call.

        Args:
            ticket: of the call.
            max_length: tokens of each text.

        Raises:
            ServiceError: 413 more tokens than a call may have; 422 an item cannot be used.
        """
        call = ticket.call
        images = [index for index, item in enumerate(call.items) if num_images(item)]
        with_images = frozenset(images)
        texts = [index for index in range(len(call.items)) if index not in with_images]
        work: list[Coroutine[Any, Any, None]] = []
        if call.late_chunking:
            work += [
                self._feed_document(ticket, group, max_length) for group in document_groups(call)
            ]
        elif texts:
            work.append(self._feed_texts(ticket, texts, max_length))
        work += [self._feed_image(ticket, index, max_length) for index in images]
        await _all(work)

    async def _feed_texts(self, ticket: Ticket, texts: Sequence[int], max_length: int) -> None:
        items = ticket.call.items
        for chunk in _chunks(texts, [_characters((items[index],)) for index in texts]):
            work = functools.partial(self._preparer.texts, ticket.call, chunk, max_length)
            found = await self._texts.run(work, _characters(items[index] for index in chunk))
            self._enqueue(ticket, found, max_length)

    async def _feed_document(self, ticket: Ticket, group: range, max_length: int) -> None:
        found = await self._texts.run(
            lambda: [self._preparer.document(ticket.call, group, max_length)],
            _characters(ticket.call.items[index] for index in group),
        )
        self._enqueue(ticket, found, max_length)

    async def _feed_image(self, ticket: Ticket, index: int, max_length: int) -> None:
        images = num_images(ticket.call.items[index])
        held = self._room.clip(images * self._patches_per_image)
        await self._room.acquire(held)
        job = self._image_threads.submit(self._preparer.image, ticket.call, index, max_length)
        used = 0
        try:
            found = await asyncio.wrap_future(job)
            (entry,) = self._enqueue(ticket, [found], max_length)
            used = self._room.clip(entry.load.patches)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if job.cancelled() and task is not None and not task.cancelling():
                raise not_ready("draining") from None  # the threads were ended before its turn
            raise
        finally:
            # What the entry uses is given back when it leaves the engine.
            self._release_after(job, held - used)

    def _release_after(self, job: "Future[Prepared]", patches: int) -> None:
        """Give room back once a job's thread is done, which may be after its call was given up."""
        if job.done():
            self._room.release(patches)
            return
        loop = asyncio.get_running_loop()

        def ended(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and the room with it
                loop.call_soon_threadsafe(self._room.release, patches)

        job.add_done_callback(ended)

    def _enqueue(self, ticket: Ticket, found: Sequence[Prepared], max_length: int) -> list[Entry]:
        """Queue what items came to, unless the call has too many tokens by now."""
        call = ticket.call
        for prepared in found:
            ticket.prepared(prepared)
        if sum(ticket.num_tokens) > self._max_call_tokens:
            raise item_error(
                call.place(found[-1].index),
                f"the request has more than {self._max_call_tokens} tokens; split it",
                413,
                "too_many_tokens",
            )
        entries = []
        for prepared in found:
            adapter = ticket.handles[call.items[prepared.index].task]
            tokens = len(prepared.sequence)
            patches = sum(image.num_patches for image in prepared.sequence.images)
            short = is_short(tokens, patches, self._budget)
            # What was estimated at acceptance gives way to what it came to.
            last = prepared.index + max(len(prepared.spans), 1)
            guess = estimate_amount(
                call.items[prepared.index : last], max_length, self._patches_per_image
            )
            guessed_short = is_short(guess.tokens, guess.patches, self._budget)
            ticket.reservation.change(guessed_short, -guess.tokens, -guess.patches)
            ticket.reservation.change(short, tokens, patches)
            entries.append(
                Entry(
                    sequence=prepared.sequence,
                    adapter=adapter,
                    load=Load(tokens, patches, self._engine.batch_group(adapter)),
                    short=short,
                    spans=prepared.spans,
                    deadline=ticket.context.deadline,
                    due=min(ticket.context.deadline, ticket.accepted_at + self._max_wait),
                    abandoned=ticket.abandoned,
                    owner=ticket,
                    index=prepared.index,
                    single=call.single,
                    multi=call.multi,
                    normalize=call.normalize,
                )
            )
        ticket.queued(entries)
        self._hand_over(entries)
        return entries

    def _hand_over(self, entries: Sequence[Entry]) -> None:
        """Queue entries together with all others that are prepared in this turn of the event loop.

        The engine takes what is there when the first comes.
        """
        if not self._ready:
            asyncio.get_running_loop().call_soon(self._put_ready)
        self._ready += entries

    def _put_ready(self) -> None:
        ready, self._ready = self._ready, []
        self._queue.put(ready)


def _chunks(texts: Sequence[int], characters: Sequence[int]) -> Iterator[list[int]]:
    """Yield the numbers of texts that are tokenised together.

    Args:
        texts: numbers of the texts.
        characters: of each.
    """
    chunk: list[int] = []
    size = 0
    for index, more in zip(texts, characters, strict=True):
        if chunk and (len(chunk) == CHUNK or size + more > CHUNK_CHARACTERS):
            yield chunk
            chunk, size = [], 0
        chunk.append(index)
        size += more
    if chunk:
        yield chunk


def _characters(items: Iterable[EmbedItem]) -> int:
    return sum(len(item.content) for item in items if isinstance(item.content, str | tuple))


async def _all(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Await all; when one fails, stop the others and raise its error."""
    if len(work) == 1:
        await work[0]
        return
    tasks = [asyncio.ensure_future(part) for part in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
