"""Leads every request past its checks to its handler, under limits of bytes and time.

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

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trine.runtime.serving.api.responses.errors import error_response
from trine.runtime.serving.http.content_encoding import decompress
from trine.runtime.serving.http.entry_checks import FREE_METHODS, EntryChecks
from trine.runtime.serving.http.exchange import Exchange
from trine.runtime.serving.http.request_body import BodyReader, ClientLeft
from trine.runtime.serving.http.request_context import set_call_context
from trine.runtime.serving.http.request_watch import RequestWatch
from trine.runtime.serving.observability.request_record import RequestRecord
from trine.runtime.serving.observability.tracing import Tracer
from trine.runtime.serving.service.calls import CallContext, ServiceError

__all__ = ["RequestGate"]

logger = logging.getLogger(__name__)

#: Request ids that are taken over from the client.
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class RequestGate:
    """Guards an application.

    Args:
        app: that handles requests.
        checks: before the body is read.
        bodies: how much.
        tracer: of spans.
        record: of what was answered.
        timeout_s: of a request.
    """

    def __init__(
        self,
        app: ASGIApp,
        checks: EntryChecks,
        bodies: BodyReader,
        tracer: Tracer,
        record: RequestRecord,
        timeout_s: float,
    ) -> None:
        self._app = app
        self._checks = checks
        self.bodies = bodies
        self._tracer = tracer
        self._record = record
        self._timeout_s = timeout_s
        self._leaving = False
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def leave(self) -> None:
        """Close each connection with its next answer, so that clients open their next elsewhere."""
        self._leaving = True

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
                exchange = Exchange(
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
                    self._record.finish(exchange)
        finally:
            self._enter(-1)

    def _enter(self, change: int) -> None:
        self._in_flight += change
        self._record.in_flight(self._in_flight)
        if self._in_flight:
            self._idle.clear()
        else:
            self._idle.set()

    async def _answer(self, exchange: Exchange, receive: Receive, send: Send) -> None:
        """Answer a request, whatever happens."""

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [*message.get("headers", ()), *self._marks(exchange)]
            await send(message)

        error: ServiceError | None = None
        try:
            self._checks.admit(exchange, self._in_flight)
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

    async def _work(self, exchange: Exchange, receive: Receive, send: Send) -> None:
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
                body = await self.bodies.read(exchange.headers, receive)
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
            self.bodies.release(exchange.held)

    async def _unfold(self, exchange: Exchange, body: bytes) -> bytes:
        """Return a body without its Content-Encoding; what comes out counts as held, too.

        A thread does it: a few kilobytes may hold as much as a body may have.
        """
        encoding = exchange.headers["content-encoding"]
        whole = await asyncio.to_thread(decompress, body, encoding, self.bodies.max_bytes)
        self._hold(exchange, len(whole))
        return whole

    def _hold(self, exchange: Exchange, size: int) -> None:
        self.bodies.hold(size)
        exchange.held += size

    def _hold_fetched(self, exchange: Exchange, size: int) -> None:
        """Count an image that was fetched: all of a request's have the bounds of a body."""
        exchange.fetched += size
        if exchange.fetched > self.bodies.max_bytes:
            raise ServiceError(
                413,
                "images_too_large",
                f"the images at the request's URLs have more than {self.bodies.max_bytes} bytes "
                "together; split the request",
            )
        self._hold(exchange, size)

    async def _handle(
        self, exchange: Exchange, body: bytes, watch: RequestWatch, send: Send
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
        self, exchange: Exchange, error: ServiceError, send: Send, receive: Receive
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

    def _marks(self, exchange: Exchange) -> list[tuple[bytes, bytes]]:
        """Return the headers that every response has."""
        found = [
            (b"x-request-id", exchange.request_id.encode()),
            (b"traceparent", exchange.span.trace.header.encode()),
        ]
        if self._leaving:
            found.append((b"connection", b"close"))
        return found + self._checks.limit_headers(exchange)


def _slow_body() -> ServiceError:
    return ServiceError(408, "body_too_slow", "the request's body did not arrive in time")


def _too_late() -> ServiceError:
    return ServiceError(
        504, "deadline_exceeded", "the request's time was up before it was answered"
    )
