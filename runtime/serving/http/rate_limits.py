"""Requests and tokens a minute of each key: token buckets that all workers share.

A bucket holds as much as a minute's allowance and fills evenly. Buckets lie in a small shared file
mapping, two numbers each, so that the limit is the server's and not each worker's.
"""

import fcntl
import math
import mmap
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from trine.runtime.serving.service.calls import ServiceError

__all__ = ["Allowance", "RateLimits", "Standing"]

#: Level and time of the last change, float64 each.
BUCKET = struct.Struct("<dd")
MINUTE = 60.0
#: Longest Retry-After in seconds that clients of OpenAI's kind obey.
LONGEST_RETRY = 120


@dataclass(frozen=True, slots=True)
class Standing:
    """What is left of one limit.

    Attributes:
        limit: a minute.
        remaining: now, not below 0.
    """

    limit: int
    remaining: int


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left to one key; None where there is no limit."""

    requests: Standing | None
    tokens: Standing | None


class RateLimits:
    """The buckets of all keys. Safe to call from several processes; one thread of each.

    Args:
        keys: names of the keys; without any, all requests share one.
        requests_per_minute: of each key, or None.
        tokens_per_minute: likewise.
        file: opened for reading and writing, that all workers share; None for a single process.
        clock: seconds; one for all processes.
    """

    def __init__(
        self,
        keys: Sequence[str],
        requests_per_minute: int | None,
        tokens_per_minute: int | None,
        file: IO[bytes] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._places = {name: number for number, name in enumerate(keys)}
        self._limits = (requests_per_minute, tokens_per_minute)
        self._file = file
        self._clock = clock
        size = max(len(keys), 1) * 2 * BUCKET.size
        if file is None:
            self._memory = mmap.mmap(-1, size)
        else:
            file.truncate(size)
            self._memory = mmap.mmap(file.fileno(), size)

    def take_request(self, key: str | None) -> None:
        """Count a request.

        Raises:
            ServiceError: 429 the key has had its requests of this minute.
        """
        self._take(key, 0, 1, "requests")

    def take_tokens(self, key: str | None, tokens: int) -> None:
        """Count tokens before they are computed; more than a minute's can be taken from a full
        bucket, which then is in debt.

        Raises:
            ServiceError: 429 the key has had its tokens of this minute.
        """
        self._take(key, 1, tokens, "tokens")

    def correct_tokens(self, key: str | None, tokens: int) -> None:
        """Count `tokens` more, or give them back if negative, without refusing."""
        limit = self._limits[1]
        if limit is not None:
            with self._locked():
                level = self._level(key, 1, limit)
                self._store(key, 1, min(level - tokens, limit))

    def allowance(self, key: str | None) -> Allowance:
        """Return what is left to a key."""
        found: list[Standing | None] = []
        for kind, limit in enumerate(self._limits):
            if limit is None:
                found.append(None)
            else:
                with self._locked():
                    level = self._level(key, kind, limit)
                found.append(Standing(limit, max(math.floor(level), 0)))
        return Allowance(*found)

    def _take(self, key: str | None, kind: int, amount: int, what: str) -> None:
        limit = self._limits[kind]
        if limit is None:
            return
        with self._locked():
            level = self._level(key, kind, limit)
            wanted = min(amount, limit)
            if level >= wanted:
                self._store(key, kind, level - amount)
                return
        seconds = (wanted - level) * MINUTE / limit
        raise ServiceError(
            429,
            f"{what}_per_minute",
            f"this key has had its {limit} {what} a minute; wait {math.ceil(seconds)} s",
            retry_after=min(max(math.ceil(seconds), 1), LONGEST_RETRY),
        )

    def _offset(self, key: str | None, kind: int) -> int:
        place = self._places[key] if key is not None else 0
        return (2 * place + kind) * BUCKET.size

    def _level(self, key: str | None, kind: int, limit: int) -> float:
        level, changed = BUCKET.unpack_from(self._memory, self._offset(key, kind))
        if not changed:
            return limit
        return min(level + (self._clock() - changed) * limit / MINUTE, limit)

    def _store(self, key: str | None, kind: int, level: float) -> None:
        BUCKET.pack_into(self._memory, self._offset(key, kind), level, self._clock())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if self._file is None:
            yield
            return
        # The system takes the lock from a process that was killed.
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)
