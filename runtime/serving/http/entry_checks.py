"""Checks what can be checked before a request's body is read: the key, the load, the rate."""

import time
from collections.abc import Callable

from trine.runtime.serving.http.api_keys import KeyRing, presented_key
from trine.runtime.serving.http.exchange import Exchange
from trine.runtime.serving.http.rate_limits import Allowance, RateLimits
from trine.runtime.serving.observability.loop_lag import LoopLag
from trine.runtime.serving.service.calls import ServiceError

__all__ = ["FREE_METHODS", "EntryChecks"]

ADMIN_PREFIX = "/admin/"
#: Seconds by which a client may shorten its request's time.
TIMEOUT_HEADER = "x-request-timeout"
#: Methods that change and compute nothing: they need no key, so that health checks and clients
#: that list models before they send a key work.
FREE_METHODS = ("GET", "HEAD", "OPTIONS")
#: When the event loop is behind, only this part of `max_requests` is answered at once: what is
#: refused costs little, so that the loop catches up. With few requests it is behind for reasons of
#: the machine's, and refusing them would not help.
BUSY_DIVISOR = 16
#: Seconds after which a client should ask again when there were too many requests at once.
RETRY_BUSY = 1


class EntryChecks:
    """Decides at a request's head whether it is worked on.

    Args:
        check_load: raises what a call would be refused with now, given the seconds it has.
        lag: of the event loop.
        max_requests: being answered at once.
        keys: who may ask.
        limits: how often.
    """

    def __init__(
        self,
        check_load: Callable[[float], None],
        lag: LoopLag,
        max_requests: int,
        keys: KeyRing,
        limits: RateLimits,
    ) -> None:
        self._check_load = check_load
        self._lag = lag
        self._max_requests = max_requests
        self._keys = keys
        self._limits = limits

    def admit(self, exchange: Exchange, in_flight: int) -> None:
        """Identify who asks, and return if the request may be worked on.

        Args:
            exchange: whose key and deadline are set.
            in_flight: requests that are being answered, with this one.

        Raises:
            ServiceError: 400 a header, 401 or 403 the key, 429 too many requests, 503 not ready.
        """
        free = exchange.scope["method"] in FREE_METHODS
        admin = exchange.path.startswith(ADMIN_PREFIX)
        if admin:
            self._keys.require_admin(presented_key(exchange.headers))
        elif not free:
            exchange.key_name = self._keys.identify(presented_key(exchange.headers))
            exchange.counted = True
        if free:
            return
        wanted = exchange.headers.get(TIMEOUT_HEADER)
        if wanted is not None:
            exchange.deadline = min(exchange.deadline, time.monotonic() + _seconds(wanted))
        if admin:
            return  # a server that has too much to do is the one that must be reached
        limit = self._max_requests // (BUSY_DIVISOR if self._lag.busy else 1)
        if in_flight > limit:
            raise ServiceError(
                429,
                "too_many_requests",
                "the server has as many requests as it takes; try again later",
                retry_after=RETRY_BUSY,
            )
        # Its answer will wait for the event loop as long as it did itself.
        self._check_load(exchange.deadline - time.monotonic() - 2 * self._lag.seconds)
        if exchange.counted:
            self._limits.take_request(exchange.key_name)

    def limit_headers(self, exchange: Exchange) -> list[tuple[bytes, bytes]]:
        """Return the header fields that say what is left of the key's limits."""
        return _limit_headers(self._limits.allowance(exchange.key_name)) if exchange.counted else []


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise ServiceError(
            400, "invalid_timeout", f"{TIMEOUT_HEADER} is {text[:50]!r}; give seconds above 0"
        )
    return seconds


def _limit_headers(allowance: Allowance) -> list[tuple[bytes, bytes]]:
    found = []
    for name, standing in ((b"requests", allowance.requests), (b"tokens", allowance.tokens)):
        if standing is not None:
            found.append((b"x-ratelimit-limit-" + name, b"%d" % standing.limit))
            found.append((b"x-ratelimit-remaining-" + name, b"%d" % standing.remaining))
    return found
