"""HTTP connections whose request heads are bounded, in bytes and in time.

The parser sets no bounds of its own: what comes before a request's handler runs (the line of the
request and its header fields) and behind its body (trailer fields) would be held however much it
is, and a connection that sends nothing would stay open for ever. So would one whose client asks
and does not read: its responses, and the requests behind them, would be held as long.
"""

import asyncio
from array import array
from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from trine.runtime.serving.api.responses.errors import error_body
from trine.runtime.serving.service.calls import ServiceError

__all__ = ["BoundedProtocol"]

#: Bytes of a head, in pieces as they are read; common servers take 8 to 32 kB.
MAX_HEAD_BYTES = 65_536
#: Seconds that a head may take from its first byte on.
HEAD_S = 20.0
#: Seconds in which a client that has not read all of a response must read some of it.
STALL_S = 60.0
#: The dialect of an error before a path is known.
ANY_PATH = "/v1/"


class _OfferlessParser(httptools.HttpRequestParser):
    """A parser to which an offer of another protocol is no more than a header field.

    The parser of httptools takes what follows such a head for that other protocol, and so loses the
    body of a request whose client only offers to change, as Java's does. A server may ignore an
    offer (RFC 9110, 7.8): here the head is parsed again without it, and the body with that.
    """

    def __init__(self, protocol: "BoundedProtocol") -> None:
        super().__init__(protocol)
        self._protocol = protocol

    def feed_data(self, data: "bytes | bytearray | memoryview[int] | array[int]") -> None:
        rest = memoryview(data)
        while True:
            try:
                super().feed_data(rest)
                return
            except httptools.HttpParserUpgrade as offer:
                if self.get_method() == b"CONNECT":  # which asks for a tunnel, and offers nothing
                    raise
                rest = rest[offer.args[0] :]
                super().feed_data(self._protocol.head_without_offer())


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    Bytes count against the bounds until the parser makes something of them: a whole head, a piece
    of a body, the end of a request.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.parser = _OfferlessParser(self)
        # As uvicorn has it: a request may follow one that was to be the last.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._progress = False
        self._unparsed = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # As between two requests; the first byte ends it.
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def data_received(self, data: bytes) -> None:
        self._progress = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._progress:
            self._unparsed = 0
            self._stop_timer()
            return
        self._unparsed += len(data)
        if self._unparsed > MAX_HEAD_BYTES:
            self._refuse(
                431,
                "head_too_large",
                f"the request's header fields have more than {MAX_HEAD_BYTES} bytes; send fewer",
            )
        elif self._timer is None:
            self._timer = self.loop.call_later(
                HEAD_S,
                self._refuse,
                408,
                "head_too_slow",
                "the request's header fields did not arrive in time",
            )

    def head_without_offer(self) -> bytes:
        """Return the head that was just parsed, without its offer of another protocol."""
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                options = [option.strip() for option in value.split(b",")]
                value = b", ".join(o for o in options if o.lower() != b"upgrade")
            if name != b"upgrade":
                lines.append(name + b": " + value)
        return b"\r\n".join([*lines, b"", b""])

    def _is_offer(self) -> bool:
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def on_headers_complete(self) -> None:
        if self._is_offer():
            return  # the same head comes again
        self._progress = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._progress = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_offer():
            return
        self._progress = True
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader(None)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_stall()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_stall()
        super().connection_lost(exc)

    def _watch_reader(self, before: int | None) -> None:
        """Look again and again whether the client reads, and give it up if it does not.

        Args:
            before: bytes that waited for it at the last look.
        """
        waiting = self.transport.get_write_buffer_size()
        if before is not None and waiting >= before:
            self.transport.abort()
            return
        self._stall = self.loop.call_later(STALL_S, self._watch_reader, waiting)

    def _stop_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Close the connection, with an answer if none to an earlier request is under way."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            body = orjson.dumps(error_body(ServiceError(status, code, message), ANY_PATH))
            phrase = {408: b"Request Timeout", 431: b"Request Header Fields Too Large"}[status]
            self.transport.write(
                b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
                b"connection: close\r\n\r\n%b" % (status, phrase, len(body), body)
            )
        self.transport.close()
