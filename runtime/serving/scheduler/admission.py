"""Says at once whether a call can be computed in time, and bounds what waits.

Everything here runs on the event loop's thread.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from trine.runtime.serving.scheduler.batching import SHORT_TURNS, BatchBudget
from trine.runtime.serving.scheduler.work import Amount, Work
from trine.runtime.serving.service.calls import ServiceError

__all__ = [
    "Admission",
    "PatchRoom",
    "Reservation",
    "UnderWay",
    "expected_wait",
]

#: Part of the time left, or of the longest wait, that a call may be predicted to wait: the machine
#: may have other work to do, and answers take a little longer than their place in the queue.
SAFE_SHARE = 0.8
#: Times the longest wait after which a call is given up that should not have waited as long.
PATIENCE = 1.25
#: Longest Retry-After in seconds that clients of OpenAI's kind obey.
LONGEST_RETRY = 120


@dataclass(frozen=True, slots=True)
class UnderWay:
    """The batch that the engine is computing.

    Attributes:
        amount: of work in it.
        start: on `time.monotonic()`'s clock.
    """

    amount: Amount
    start: float


def expected_wait(
    short: bool, short_s: float, long_s: float, batch_s: float, short_share: float = 0.0
) -> float:
    """Return the seconds until the engine would begin with a call that comes now.

    Args:
        short: whether the call is of the lane of short items.
        short_s: seconds that what waits in that lane takes.
        long_s: seconds that what waits in the other lane takes.
        batch_s: seconds of one batch, as long as one may be.
        short_share: part of the last seconds in which the engine computed short items: as many are
            expected to come, and to go before a long one as their turns allow.
    """
    if short:
        # Long batches that come between: one under way, and one for each few short ones.
        return short_s + min(long_s, batch_s + short_s / SHORT_TURNS)
    alternating = SHORT_TURNS * batch_s + (1 + SHORT_TURNS) * long_s
    if short_share >= 1:
        return alternating
    return min((short_s + long_s) / (1 - short_share), alternating)


@dataclass(slots=True)
class _Backlog:
    """What a lane's calls still ask of the engine."""

    tokens: int = 0
    patches: int = 0


class Reservation:
    """What one accepted call still asks of the engine.

    Args:
        lanes: the short lane and the other.
        work: of the call.
        released: called once, when the call asks for nothing any more.
    """

    def __init__(
        self,
        lanes: tuple[_Backlog, _Backlog],
        work: Work,
        released: Callable[["Reservation"], object] = lambda _: None,
    ) -> None:
        self._lanes = lanes
        self._held = (_Backlog(), _Backlog())
        self._released = released
        self.change(True, work.short.tokens, work.short.patches)
        self.change(False, work.long.tokens, work.long.patches)

    @property
    def tokens(self) -> int:
        """Still to be computed, of both lanes."""
        return sum(held.tokens for held in self._held)

    @property
    def patches(self) -> int:
        """Still to be computed, of both lanes."""
        return sum(held.patches for held in self._held)

    def change(self, short: bool, tokens: int, patches: int) -> None:
        """Add to what is still to do in a lane; negative numbers for what was done."""
        held = self._held[not short]
        tokens, patches = max(tokens, -held.tokens), max(patches, -held.patches)
        for backlog in (held, self._lanes[not short]):
            backlog.tokens += tokens
            backlog.patches += patches

    def release(self) -> None:
        """Give back what is left."""
        for short, held in zip((True, False), self._held, strict=True):
            self.change(short, -held.tokens, -held.patches)
        self._released(self)


class Admission:
    """Accepts calls while the work ahead of them is bounded and can be done in time.

    Each lane has its own bound, so that documents cannot keep queries out. A call is refused when
    the bound is reached already, so that one larger than what is left does not wait for ever; what
    waits in a lane is at most the bound and one call.

    Args:
        max_tokens: accepted and not yet computed, of each lane.
        budget: of one batch.
        seconds: that so many tokens and patches take; 0 while that is unknown.
        max_wait: seconds within which the engine is to begin with a call.
        under_way: returns the batch that is being computed, if any.
        now: the clock of `UnderWay.start`.
    """

    def __init__(
        self,
        max_tokens: int,
        budget: BatchBudget,
        seconds: Callable[[int, int], float],
        max_wait: float,
        under_way: Callable[[], UnderWay | None] = lambda: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._short = _Backlog()
        self._long = _Backlog()
        self._max_tokens = max_tokens
        self._budget = budget
        self._seconds = seconds
        self._max_wait = max_wait
        self._under_way = under_way
        self._now = now
        self._oversized: dict[Reservation, Amount] = {}
        self._short_share = 0.0
        self._last_end = -math.inf

    @property
    def tokens(self) -> int:
        """Accepted and not yet computed."""
        return self._short.tokens + self._long.tokens

    @property
    def patches(self) -> int:
        """Accepted and not yet computed."""
        return self._short.patches + self._long.patches

    def admit(self, work: Work, time_left: float) -> Reservation:
        """Accept a call.

        Args:
            work: estimated, of the call.
            time_left: seconds until its deadline.

        Raises:
            ServiceError: 429 too much waits already, or is ahead of it to be done in time.
        """
        self.check(work.all_short, time_left)
        reservation = Reservation((self._short, self._long), work, self._forget)
        largest = work.largest
        if largest.tokens > self._budget.tokens or largest.patches > self._budget.patches:
            self._oversized[reservation] = largest
        return reservation

    def check(self, short: bool, time_left: float) -> None:
        """Return if a call of a lane would be accepted now; otherwise as `admit`."""
        ahead = self._time_ahead(short)
        if (self._short if short else self._long).tokens >= self._max_tokens:
            raise ServiceError(
                429,
                "queue_full",
                "the server has as much work as it takes; try again later",
                retry_after=self._retry_after(ahead / 2),
            )
        limit = SAFE_SHARE * min(time_left, self._max_wait)
        if ahead > max(limit, 0.0):
            raise ServiceError(
                429,
                "queue_too_long",
                f"the work ahead takes about {ahead:.1f} s, too long for the {time_left:.1f} s "
                f"this request has and the {self._max_wait:.1f} s it may wait; try again later",
                retry_after=self._retry_after(ahead - limit),
            )

    def overdue(self, short: bool) -> ServiceError:
        """Return the refusal of a call that waited longer than expected.

        The machine has become slower since it was accepted. Its place goes to calls that come now
        and are answered in time, instead of all of them being late.

        Args:
            short: whether the call is of the short lane.
        """
        return ServiceError(
            429,
            "queue_too_long",
            f"the engine did not begin with this request within {self.patience:.1f} s, though that "
            "was expected; try again later",
            retry_after=self._retry_after(self._time_ahead(short)),
        )

    @property
    def patience(self) -> float:
        """Seconds after which a call with which the engine has not begun is given up."""
        return PATIENCE * self._max_wait

    def batch_ended(self, short: bool, start: float, end: float) -> None:
        """Learn how much of the engine's time short items take.

        Args:
            short: whether a batch held none but them.
            start, end: of it, on `now`'s clock; batches come in order.
        """
        since = max(min(end - self._last_end, self._max_wait), 1e-9)
        part = min((end - start) / since, 1.0) if short else 0.0
        kept = math.exp(-since / self._max_wait)
        self._short_share = kept * self._short_share + (1 - kept) * part
        self._last_end = end

    def _forget(self, reservation: Reservation) -> None:
        self._oversized.pop(reservation, None)

    def _time_ahead(self, short: bool) -> float:
        """Return the seconds until the engine would begin with a new call."""
        batches = [Amount(self._budget.tokens, self._budget.patches), *self._oversized.values()]
        wait = expected_wait(
            short,
            self._seconds(self._short.tokens, self._short.patches),
            self._seconds(self._long.tokens, self._long.patches),
            max(self._seconds(batch.tokens, batch.patches) for batch in batches),
            self._short_share,
        )
        current = self._under_way()
        if current is None:
            return wait
        # What is being computed is still in the backlog as a whole; part of it is done.
        done = self._seconds(current.amount.tokens, current.amount.patches)
        return max(wait - min(self._now() - current.start, done), 0.0)

    @staticmethod
    def _retry_after(seconds: float) -> int:
        return min(max(math.ceil(seconds), 1), LONGEST_RETRY)


class PatchRoom:
    """Room for decoded images: callers wait in order until there is enough.

    Args:
        capacity: in patches.

    Attributes:
        free: patches that nobody has.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.free = capacity
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def clip(self, patches: int) -> int:
        """Return how much of the room that many patches take: at most all of it."""
        return min(patches, self._capacity)

    async def acquire(self, patches: int) -> None:
        """Wait for room, and take it.

        Args:
            patches: a number of `clip`.
        """
        if not self._waiting and patches <= self.free:
            self.free -= patches
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((patches, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(patches)
            else:
                self._waiting.remove((patches, turn))
                self._wake()
            raise

    def release(self, patches: int) -> None:
        """Give room back."""
        self.free += patches
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self._waiting[0][0] <= self.free:
            patches, turn = self._waiting.popleft()
            if not turn.cancelled():
                self.free -= patches
                turn.set_result(None)
