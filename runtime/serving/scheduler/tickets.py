"""One accepted call from its acceptance to its vectors. For the event loop's thread only."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

from trine.runtime.adapters.base import AdapterHandle
from trine.runtime.serving.scheduler.admission import PatchRoom, Reservation
from trine.runtime.serving.scheduler.preparing import Prepared
from trine.runtime.serving.scheduler.vectors import ItemVectors, image_spans
from trine.runtime.serving.scheduler.work_queue import Entry
from trine.runtime.serving.service.calls import CallContext, EmbedCall, ImageSpan, Timings

__all__ = ["Ticket", "ticket_of"]


class Ticket:
    """Holds what a call has taken, until the engine is done with all of it.

    Args:
        call: that was accepted.
        context: who asked, until when.
        reservation: of engine work.
        room: for decoded images.
        adapters: context that holds the call's adapters.
        merge: patches per image token along each side.

    Attributes:
        begun: whether the engine has taken some of it; set in the engine's thread.
    """

    def __init__(
        self,
        call: EmbedCall,
        context: CallContext,
        reservation: Reservation,
        room: PatchRoom,
        adapters: AbstractContextManager[Mapping[str, AdapterHandle]],
        merge: int,
    ) -> None:
        self.call = call
        self.context = context
        self.reservation = reservation
        self.closed = False
        self.begun = False
        self.accepted_at = time.monotonic()
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        num_items = len(call.items)
        self.vectors: list[ItemVectors] = [ItemVectors(None, None)] * num_items
        self.num_tokens = [0] * num_items
        self.num_image_tokens = [0] * num_items
        self.truncated = [False] * num_items
        self.spans: list[tuple[ImageSpan, ...]] = [()] * num_items
        self._merge = merge
        self._room = room
        self._missing = num_items
        self._outstanding = 0
        self._adapters: AbstractContextManager[Mapping[str, AdapterHandle]] | None = adapters
        self.handles = adapters.__enter__()
        self._first_queued: float | None = None
        self._last_queued = self._last_start = self.accepted_at
        self._first_start: float | None = None
        self._last_end = self.accepted_at

    @property
    def complete(self) -> bool:
        """Whether the vectors of all items are there."""
        return not self._missing

    def abandoned(self) -> bool:
        """Return whether nobody waits for the result; safe from any thread."""
        return self.closed or self.context.disconnected()

    def prepared(self, found: Prepared) -> None:
        """Note what an item came to."""
        sequence = found.sequence
        for place, (first, end) in enumerate(found.spans or ((0, len(sequence)),)):
            self.num_tokens[found.index + place] = end - first
        self.num_image_tokens[found.index] = len(sequence.image_slots)
        self.truncated[found.index] = sequence.truncated
        self.spans[found.index] = image_spans(sequence, self._merge)

    def queued(self, entries: Sequence[Entry]) -> None:
        """Note that entries went to the queue."""
        self._outstanding += len(entries)
        self._last_queued = time.monotonic()
        if self._first_queued is None:
            self._first_queued = self._last_queued

    def computed(
        self, entry: Entry, vectors: Sequence[ItemVectors], start: float, end: float
    ) -> None:
        """Take the vectors of an entry whose run lasted from `start` to `end`."""
        self._leave(entry)
        self.vectors[entry.index : entry.index + len(vectors)] = vectors
        self._missing -= len(vectors)
        self._first_start = start if self._first_start is None else min(self._first_start, start)
        self._last_start = max(self._last_start, start)
        self._last_end = max(self._last_end, end)
        if not self._missing and not self.finished.done():
            self.finished.set_result(None)

    def dropped(self, entry: Entry) -> None:
        """Note that an entry left the queue without a run."""
        self._leave(entry)

    def fail(self, entry: Entry, error: Exception) -> None:
        """Note that an entry's run failed."""
        self._leave(entry)
        self.end(error)

    def end(self, error: Exception) -> None:
        """End the wait for the vectors with an error, unless it has ended."""
        if not self.finished.done():
            self.finished.set_exception(error)

    def close(self) -> None:
        """Say that nobody waits any more; adapters are given back when the engine is done."""
        self.closed = True
        self.reservation.release()
        if self.finished.done() and not self.finished.cancelled():
            self.finished.exception()  # seen, so that asyncio does not warn of it
        self._give_back()

    def timings(self) -> Timings:
        """Return where the time went, once the call is finished."""
        first_start = self._last_end if self._first_start is None else self._first_start
        return Timings(
            prepare_s=max(self._last_queued - self.accepted_at, 0.0),
            queue_s=max(self._last_start - self._last_queued, 0.0),
            engine_s=max(self._last_end - first_start, 0.0),
            total_s=time.monotonic() - self.accepted_at,
        )

    def _leave(self, entry: Entry) -> None:
        self._outstanding -= 1
        self._room.release(self._room.clip(entry.load.patches))
        if not self.closed:
            self.reservation.change(entry.short, -entry.load.tokens, -entry.load.patches)
        self._give_back()

    def _give_back(self) -> None:
        if self.closed and not self._outstanding and self._adapters is not None:
            self._adapters.__exit__(None, None, None)
            self._adapters = None


def ticket_of(entry: Entry) -> Ticket:
    """Return the ticket of the call that an entry of the queue belongs to."""
    if not isinstance(entry.owner, Ticket):
        raise TypeError(entry.owner)
    return entry.owner
