"""What every request passes before its handler: identity, limits, body, deadline; and after it.

A plain ASGI middleware. It reads the body under its limits, runs the handler, and cancels it when
the client leaves or the request's time is up.
"""

import asyncio
import contextlib
import functools
import logging
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trine.runtime.serving.api.requests.bodies import decompress
from trine.runtime.serving.api.responses.errors import error_response
from trine.runtime.serving.http.api_keys import KeyRing, presented_key
from trine.runtime.serving.http.rate_limits import Allowance, RateLimits
from trine.runtime.serving.http.request_body import BodyReader, ClientLeft
from trine.runtime.serving.http.request_context import noted_error, set_call_context
from trine.runtime.serving.http.request_watch import RequestWatch
from trine.runtime.serving.observability.logs import RequestLog
from trine.runtime.serving.observability.loop_lag import LoopLag
from trine.runtime.serving.observability.metrics import ServerMetrics
from trine.runtime.serving.observability.tracing import RequestSpan, Tracer
from trine.runtime.serving.service.calls import CallContext, ServiceError

__all__ = ["ADMIN_PREFIX", "RequestGate"]

logger = logging.getLogger(__name__)

ADMIN_PREFIX = "/admin/"
#: Request ids that are taken over from the client.
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
#: Seconds by which a client may shorten its request's time.
TIMEOUT_HEADER = "x-request-timeout"
#: Methods that change and compute nothing: they need no key, so that health checks and clients
#: that list models before they send a key work.
FREE_METHODS = ("GET", "HEAD", "OPTIONS")
#: Routes that are asked all the time and say nothing.
QUIET_ROUTES = ("/health", "/health/live", "/health/ready", "/metrics")
#: When the event loop is behind, only this part of `max_requests` is answered at once: what is
#: refused costs little, so that the loop catches up. With few requests it is behind for reasons of
#: the machine's, and refusing them would not help.
BUSY_DIVISOR = 16
#: Seconds after which a client should ask again when there were too many requests at once.
RETRY_BUSY = 1


@dataclass(slots=True, kw_only=True)
class _Exchange:
    """One request under way."""

    scope: Scope
    headers: dict[str, str]
    request_id: str
    span: RequestSpan
    deadline: float
    started: float = field(default_factory=time.perf_counter)
    key_name: str | None = None
    #: Whether the request counts for the limits of `key_name`.
    counted: bool = False
    #: Bytes held for it: its body as it came, what that unfolded to, images fetched for it.
    held: int = 0
    fetched: int = 0
    client_left: bool = False
    #: Of the response; 0 until it began.
    status: int = 0
    error_code: str | None = None

    @property
    def path(self) -> str:
        return str(self.scope["path"])


class RequestGate:
    """Guards an application.

    Args:
        app: that handles requests.
        check_load: raises what a call would be refused with now, given the seconds it has.
        lag: of the event loop.
        max_requests: being answered at once.
        keys: who may ask.
        limits: how often.
        bodies: how much.
        metrics: to count with.
        tracer: of spans.
        log: of requests.
        route_of: the path's route, for metrics: a short list, whatever clients ask for.
        timeout_s: of a request.
    """

    def __init__(  # noqa: PLR0913 - the parts that meet here
        self,
        app: ASGIApp,
        *,
        check_load: Callable[[float], None],
        lag: LoopLag,
        max_requests: int,
        keys: KeyRing,
        limits: RateLimits,
        bodies: BodyReader,
        metrics: ServerMetrics,
        tracer: Tracer,
        log: RequestLog,
        route_of: Callable[[str], str],
        timeout_s: float,
    ) -> None:
        self._app = app
        self._check_load = check_load
        self._lag = lag
        self._max_requests = max_requests
        self._keys = keys
        self._limits = limits
        self._bodies = bodies
        self._metrics = metrics
        self._tracer = tracer
        self._log = log
        self._route_of = route_of
        self._timeout_s = timeout_s
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def wait_idle(self) -> None:
        """Return when no request is under way."""
        await self._idle.wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        given = headers.get("x-request-id", "")
        self._enter(+1)
        try:
            with self._tracer.span(scope["method"], headers) as span:
                exchange = _Exchange(
                    scope=scope,
                    headers=headers,
                    request_id=given
                    if REQUEST_ID.fullmatch(given)
                    else f"{random.getrandbits(128):032x}",
                    span=span,
                    deadline=time.monotonic() + self._timeout_s,
                )
                try:
                    await self._answer(exchange, receive, send)
                finally:
                    self._finish(exchange)
        finally:
            self._enter(-1)

    def _enter(self, change: int) -> None:
        self._in_flight += change
        self._metrics.in_flight.set(self._in_flight)
        if self._in_flight:
            self._idle.clear()
        else:
            self._idle.set()

    async def _answer(self, exchange: _Exchange, receive: Receive, send: Send) -> None:
        """Answer a request, whatever happens."""

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [*message.get("headers", ()), *self._marks(exchange)]
            await send(message)

        error: ServiceError | None = None
        try:
            self._admit(exchange)
            await self._work(exchange, receive, send_marked)
        except ClientLeft:
            exchange.client_left = True
        except ServiceError as refusal:
            error = refusal
        except Exception:
            logger.exception("request failed", extra={"request_id": exchange.request_id})
            error = ServiceError(500, "internal_error", "the server failed on this request")
        if error is not None:
            await self._refuse(exchange, error, send_marked, receive)

    def _admit(self, exchange: _Exchange) -> None:
        """Check what can be checked before the body is read.

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
        if self._in_flight > limit:
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

    async def _work(self, exchange: _Exchange, receive: Receive, send: Send) -> None:
        """Read the body and run the handler, as long as there is time and somebody waits.

        Raises:
            ServiceError: 408, 504 the time was up; 400, 413, 415, 429 the body is refused.
            ClientLeft: it did.
        """
        body: bytes | None = None
        watch = RequestWatch(exchange.deadline, receive)
        try:
            if exchange.scope["method"] in FREE_METHODS:
                body = b""
            else:
                body = await self._bodies.read(exchange.headers, receive)
                exchange.held = len(body)
                if exchange.headers.get("content-encoding", "identity") != "identity":
                    body = await self._unfold(exchange, body)
            await self._handle(exchange, body, watch, send)
        except asyncio.CancelledError:
            if not watch.cancelled():
                raise
            if watch.client_has_left():
                raise ClientLeft from None
            raise (_slow_body() if body is None else _too_late()) from None
        finally:
            watch.stop()
            self._bodies.release(exchange.held)

    async def _unfold(self, exchange: _Exchange, body: bytes) -> bytes:
        """Return a body without its Content-Encoding; what comes out counts as held, too.

        A thread does it: a few kilobytes may hold as much as a body may have.
        """
        encoding = exchange.headers["content-encoding"]
        whole = await asyncio.to_thread(decompress, body, encoding, self._bodies.max_bytes)
        self._hold(exchange, len(whole))
        return whole

    def _hold(self, exchange: _Exchange, size: int) -> None:
        self._bodies.hold(size)
        exchange.held += size

    def _hold_fetched(self, exchange: _Exchange, size: int) -> None:
        """Count an image that was fetched: all of a request's have the bounds of a body."""
        exchange.fetched += size
        if exchange.fetched > self._bodies.max_bytes:
            raise ServiceError(
                413,
                "images_too_large",
                f"the images at the request's URLs have more than {self._bodies.max_bytes} bytes "
                "together; split the request",
            )
        self._hold(exchange, size)

    async def _handle(
        self, exchange: _Exchange, body: bytes, watch: RequestWatch, send: Send
    ) -> None:
        """Run the handler under watch."""
        unread = [body]

        async def replay() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            # Nothing more comes: when the client leaves, the handler is cancelled.
            await asyncio.get_running_loop().create_future()
            raise RuntimeError("nothing ends this wait but cancellation")

        context = CallContext(
            request_id=exchange.request_id,
            key_name=exchange.key_name,
            deadline=exchange.deadline,
            disconnected=watch.client_has_left,
            hold=functools.partial(self._hold_fetched, exchange),
        )
        set_call_context(exchange.scope, context, body)
        watch.body_is_read()
        await self._app(exchange.scope, replay, send)

    async def _refuse(
        self, exchange: _Exchange, error: ServiceError, send: Send, receive: Receive
    ) -> None:
        exchange.error_code = error.code
        if exchange.status:
            return  # the response had begun; the server closes the connection
        response: Response = error_response(error, exchange.path)
        if error.status in (413, 503):
            # The rest of the body is not read, and a server that ends wants no more requests.
            response.headers["connection"] = "close"
        with contextlib.suppress(OSError):
            await response(exchange.scope, receive, send)

    def _marks(self, exchange: _Exchange) -> list[tuple[bytes, bytes]]:
        """Return the headers that every response has."""
        found = [
            (b"x-request-id", exchange.request_id.encode()),
            (b"traceparent", exchange.span.trace.header.encode()),
        ]
        if exchange.counted:
            found += _limit_headers(self._limits.allowance(exchange.key_name))
        return found

    def _finish(self, exchange: _Exchange) -> None:
        """Count and log a request."""
        # 499 is what others' logs say of a client that left.
        status = 499 if exchange.client_left and not exchange.status else exchange.status
        seconds = time.perf_counter() - exchange.started
        route = self._route_of(exchange.path)
        exchange.span.finish(route, status)
        self._metrics.observe_request(route, status, seconds)
        # Handlers answer their own errors, in their dialect, and leave a note of it.
        code = exchange.error_code or noted_error(exchange.scope)
        if code is not None:
            self._metrics.rejects.labels(code).inc()
        # Metrics count refusals; lines of thousands a second would slow them down.
        if status == 429 or route in QUIET_ROUTES:
            return
        self._log.add(
            {
                "request_id": exchange.request_id,
                "trace_id": exchange.span.trace.trace_id,
                "method": exchange.scope["method"],
                "path": exchange.path,
                "status": status,
                "ms": round(seconds * 1000, 2),
                "key": exchange.key_name,
                "error": code,
            }
        )


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


def _slow_body() -> ServiceError:
    return ServiceError(408, "body_too_slow", "the request's body did not arrive in time")


def _too_late() -> ServiceError:
    return ServiceError(
        504, "deadline_exceeded", "the request's time was up before it was answered"
    )
