"""Says at once whether a call can be computed in time, and bounds what waits.

Everything here runs on the event loop's thread.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from trine.runtime.inputs import ImageText
from trine.runtime.serving.scheduler.batching import SHORT_TURNS, BatchBudget
from trine.runtime.serving.service.call_checks import num_images
from trine.runtime.serving.service.calls import EmbedItem, ServiceError

__all__ = [
    "CHARACTERS_PER_TOKEN",
    "Admission",
    "PatchRoom",
    "Reservation",
    "Work",
    "estimate_tokens",
    "estimate_work",
]

#: Characters a token stands for in most European languages; other scripts are counted as one each.
CHARACTERS_PER_TOKEN = 4
#: Part of the time left that the work ahead may be predicted to take. Predictions are rough, the
#: machine may have other work to do, and a deep queue makes every answer late without making more.
SAFE_SHARE = 0.5
#: Longest Retry-After in seconds that clients of OpenAI's kind obey.
LONGEST_RETRY = 120


def estimate_tokens(items: Iterable[EmbedItem], max_length: int) -> int:
    """Return roughly how many tokens the texts of items have, without tokenising."""
    return sum(_estimate(item, max_length) for item in items)


def estimate_work(
    items: Sequence[EmbedItem], max_length: int, patches_per_image: int, budget: BatchBudget
) -> "Work":
    """Return roughly what a call asks of the engine.

    Args:
        items: of the call.
        max_length: tokens of each text.
        patches_per_image: at most.
        budget: that says what is short.
    """
    tokens = [_estimate(item, max_length) for item in items]
    images = sum(num_images(item) for item in items)
    short = not images and max(tokens, default=0) <= budget.short_tokens
    return Work(sum(tokens), images * patches_per_image, short)


def _estimate(item: EmbedItem, max_length: int) -> int:
    content = item.content
    text = content.text or "" if isinstance(content, ImageText) else content
    rate = CHARACTERS_PER_TOKEN if isinstance(text, str) and text.isascii() else 1
    return min(len(text) // rate + 4, max_length)


@dataclass(frozen=True, slots=True)
class Work:
    """What a call asks of the engine.

    Attributes:
        tokens: of the decoder.
        patches: of the vision tower.
        short: whether all its items are of the short lane.
    """

    tokens: int
    patches: int
    short: bool


class Reservation:
    """What one accepted call still asks of the engine."""

    def __init__(self, lane: "_Backlog", work: Work) -> None:
        self._lane = lane
        self.tokens = self.patches = 0
        self.change(work.tokens, work.patches)

    def change(self, tokens: int, patches: int) -> None:
        """Add to what is still to do; negative numbers for what was done or overestimated."""
        tokens, patches = max(tokens, -self.tokens), max(patches, -self.patches)
        self.tokens += tokens
        self.patches += patches
        self._lane.tokens += tokens
        self._lane.patches += patches

    def release(self) -> None:
        """Give back what is left."""
        self.change(-self.tokens, -self.patches)


@dataclass(slots=True)
class _Backlog:
    """What a lane's calls still ask of the engine."""

    tokens: int = 0
    patches: int = 0


class Admission:
    """Accepts calls while the work ahead of them is bounded and can be done in time.

    Each lane has its own bound, so that documents cannot keep queries out. A call is refused when
    the bound is reached already, so that one larger than what is left does not wait for ever; what
    waits in a lane is at most the bound and one call.

    Args:
        max_tokens: accepted and not yet computed, of each lane.
        budget: of one run.
        seconds: that so many tokens and patches take.
    """

    def __init__(
        self, max_tokens: int, budget: BatchBudget, seconds: Callable[[int, int], float]
    ) -> None:
        self._short = _Backlog()
        self._long = _Backlog()
        self._max_tokens = max_tokens
        self._budget = budget
        self._seconds = seconds

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
        self.check(work.short, time_left)
        return Reservation(self._short if work.short else self._long, work)

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
        if ahead > max(SAFE_SHARE * time_left, 0.0):
            raise ServiceError(
                429,
                "queue_too_long",
                f"the work ahead takes about {ahead:.1f} s, too long for the {time_left:.1f} s "
                "this request has; try again later",
                retry_after=self._retry_after(ahead - SAFE_SHARE * time_left),
            )

    def _time_ahead(self, short: bool) -> float:
        """Return the seconds of work that would be done before that of a new call."""
        short_time = self._seconds(self._short.tokens, self._short.patches)
        long_time = self._seconds(self._long.tokens, self._long.patches)
        if not short:
            return short_time + long_time
        # Long runs that come between: one under way, and one for each few short ones.
        one_run = self._seconds(self._budget.tokens, self._budget.patches)
        return short_time + min(long_time, one_run + short_time / SHORT_TURNS)

    @staticmethod
    def _retry_after(seconds: float) -> int:
        return min(max(math.ceil(seconds), 1), LONGEST_RETRY)


class PatchRoom:
    """Room for decoded images: callers wait in order until there is enough.

    Args:
        capacity: in patches.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._free = capacity
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def clip(self, patches: int) -> int:
        """Return how much of the room that many patches take: at most all of it."""
        return min(patches, self._capacity)

    async def acquire(self, patches: int) -> None:
        """Wait for room, and take it.

        Args:
            patches: a number of `clip`.
        """
        if not self._waiting and patches <= self._free:
            self._free -= patches
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
        self._free += patches
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            patches, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._free -= patches
                turn.set_result(None)
