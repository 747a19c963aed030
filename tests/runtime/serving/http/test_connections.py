"""Connections whose request heads do not end, over real sockets."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvicorn
from starlette.responses import PlainTextResponse

from trine.runtime.serving.http import connections
from trine.runtime.serving.http.connections import MAX_HEAD_BYTES, BoundedProtocol

#: More than the kernel holds for a connection, in bytes.
LARGE = 20_000_000

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def talk(conversation: Callable[[Callable[[], Coroutine[Any, Any, Streams]]], Any]) -> Any:
    """Serve, and hold a conversation, which is given what opens a connection."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        content = "x" * LARGE if scope["path"] == "/large" else "fine"
        if scope["path"] == "/echo":
            content = f"{scope['method']} {body.decode()}."
        await PlainTextResponse(content)(scope, receive, send)

    async def run() -> Any:
        config = uvicorn.Config(
            app, port=0, http=BoundedProtocol, lifespan="off", log_config=None, timeout_keep_alive=1
        )
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
        serving = asyncio.ensure_future(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        opened: list[asyncio.StreamWriter] = []

        async def connect() -> Streams:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            opened.append(writer)
            return reader, writer

        try:
            return await asyncio.wait_for(conversation(connect), 20)
        finally:
            for writer in opened:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
            server.should_exit = True
            await serving

    return asyncio.run(run())


async def send_on(writer: asyncio.StreamWriter, piece: bytes, limit: int) -> int:
    """Send a piece again and again until the connection is closed; return the bytes sent."""
    sent = 0
    with contextlib.suppress(OSError):
        while sent < limit and not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
            sent += len(piece)
    return sent


def test_a_head_that_does_not_end_is_refused() -> None:
    async def conversation(connect: Any) -> tuple[bytes, int]:
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n")
        answer = asyncio.ensure_future(reader.readline())
        sent = await send_on(writer, b"x-a: " + b"b" * 1000 + b"\r\n", 20_000_000)
        return await answer, sent

    status, sent = talk(conversation)
    assert status.startswith(b"HTTP/1.1 431 ")
    assert sent < 20_000_000


def test_trailers_that_do_not_end_close_the_connection() -> None:
    async def conversation(connect: Any) -> tuple[bytes, int]:
        reader, writer = await connect()
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n")
        answer = asyncio.ensure_future(reader.read())
        sent = await send_on(writer, b"x-a: " + b"b" * 1000 + b"\r\n", 20_000_000)
        with contextlib.suppress(OSError):
            return await answer, sent
        return b"", sent

    assert talk(conversation)[1] < 20_000_000


def test_a_slow_head_and_a_silent_connection_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.2)

    async def conversation(connect: Any) -> tuple[bytes, bytes]:
        slow, writer = await connect()
        writer.write(b"GET / HT")
        silent, _ = await connect()
        return await slow.readline(), await silent.read()

    status, nothing = talk(conversation)
    assert status.startswith(b"HTTP/1.1 408 ")
    assert nothing == b""


def test_large_bodies_and_many_requests_are_no_heads() -> None:
    async def conversation(connect: Any) -> list[bytes]:
        reader, writer = await connect()
        found = []
        for size in (0, 5 * MAX_HEAD_BYTES, 10, 3 * MAX_HEAD_BYTES):
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size)
            for start in range(0, size, 1000):
                writer.write(b"a" * min(1000, size - start))
                await writer.drain()
            found.append(await reader.readuntil(b"fine"))
        for _ in range(3):
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nx-a: " + b"b" * 30_000 + b"\r\n\r\n")
            found.append(await reader.readuntil(b"fine"))
        return found

    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in talk(conversation))


def test_a_client_that_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "STALL_S", 0.3)

    async def conversation(connect: Any) -> bytes:
        reader, writer = await connect()
        writer.write(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.sleep(1.5)
        with contextlib.suppress(OSError):
            return await reader.read()
        return b""

    assert b"fine" not in talk(conversation)


def test_a_client_that_reads_slowly_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "STALL_S", 2.0)

    async def conversation(connect: Any) -> int:
        reader, writer = await connect()
        writer.write(b"GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        read = 0
        while piece := await reader.read(1_000_000):
            read += len(piece)
            await asyncio.sleep(0.02)
        return read

    assert talk(conversation) > LARGE


OFFERS = (
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk",
    "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13",
    "connection: upgrade\r\nupgrade: x/1, TLS/1.0",
)
BODIES = {
    "content-length": "Content-Length: 5\r\n\r\nhello",
    "chunked": "Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("body", BODIES)
def test_an_offer_of_another_protocol_is_ignored(offer: str, body: str) -> None:
    request = f"POST /echo HTTP/1.1\r\nHost: x\r\n{offer}\r\n{BODIES[body]}".encode()
    plain = b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"

    async def conversation(connect: Any) -> list[bytes]:
        found = []
        for size in (1, 50, 10_000):
            reader, writer = await connect()
            # The connection goes on afterwards, also where requests do not wait for answers.
            sent = request + request + plain
            for start in range(0, len(sent), size):
                writer.write(sent[start : start + size])
                await asyncio.sleep(0)
            ends = (b"POST hello.", b"POST hello.", b"GET .")
            found += [await reader.readuntil(end) for end in ends]
        return found

    for answer in talk(conversation):
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.count(b"HTTP/1.1") == 1


def test_an_offer_without_a_body_is_answered_and_a_tunnel_is_not() -> None:
    async def conversation(connect: Any) -> tuple[bytes, bytes]:
        reader, writer = await connect()
        writer.write(f"GET /echo HTTP/1.1\r\nHost: x\r\n{OFFERS[0]}\r\n\r\n".encode())
        answer = await reader.readuntil(b"GET .")
        other, writer = await connect()
        writer.write(b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n")
        return answer, await other.readline()

    answer, refusal = talk(conversation)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert refusal.startswith(b"HTTP/1.1 4")


def test_thousands_of_offers_at_once_are_ignored_one_by_one() -> None:
    request = f"GET /echo HTTP/1.1\r\nHost: x\r\n{OFFERS[2]}\r\n\r\n".encode()

    async def conversation(connect: Any) -> int:
        reader, writer = await connect()
        writer.write(request * 2000)
        for _ in range(2000):
            await reader.readuntil(b"GET .")
        return 2000

    assert talk(conversation) == 2000
