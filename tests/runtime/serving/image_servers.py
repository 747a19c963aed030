"""Servers on loopback that play hosts of the internet, and a network that records connections."""

import asyncio
import io
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import httpcore
from PIL import Image

from trine.runtime.serving.media.public_addresses import is_public_address
from trine.runtime.serving.media.url_fetch import FetchLimits, UrlFetcher

#: What the good host resolves to: a public address that nothing here really connects to.
PUBLIC = "93.184.216.34"

Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


def image(mode: str = "RGB", size: tuple[int, int] = (8, 6), form: str = "PNG") -> bytes:
    """Return an image file."""
    file = io.BytesIO()
    Image.new(mode, size, 7).save(file, form)
    return file.getvalue()


def reply(body: bytes, kind: str = "image/png", status: str = "200 OK", more: str = "") -> bytes:
    """Return a whole HTTP answer."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    """Return an answer that points elsewhere."""
    return reply(b"", "text/html", status, f"Location: {location}\r\n")


class RecordingNetwork(httpcore.AsyncNetworkBackend):
    """Connects public addresses to one port on loopback, and remembers all it was asked for."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connected: list[tuple[str, int]] = []
        self._tcp = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.AsyncNetworkStream:
        self.connected.append((host, port))
        if not is_public_address(host):
            raise httpcore.ConnectError(f"{host} was connected to")
        return await self._tcp.connect_tcp("127.0.0.1", self.port, timeout)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Resolver:
    """Answers from a table."""

    def __init__(self, table: Mapping[str, Sequence[str]]) -> None:
        self.table = {host: list(addresses) for host, addresses in table.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if host not in self.table:
            raise OSError(host)
        return self.table[host]


@asynccontextmanager
async def serving(answers: Mapping[str, Answer], tls: ssl.SSLContext | None = None) -> Any:
    """Run a server that answers each path with bytes or by a function; yields its port."""

    handlers: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(cast("asyncio.Task[None]", asyncio.current_task()))
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            answer = answers.get(head.split()[1].decode(), reply(b"", status="404 Not Found"))
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)


def fetcher(
    network: httpcore.AsyncNetworkBackend,
    resolver: Resolver,
    *,
    hosts: tuple[str, ...] = ("*",),
    timeout_s: float = 5.0,
) -> UrlFetcher:
    """Return a fetcher of the given network."""
    limits = FetchLimits(hosts=hosts, timeout_s=timeout_s, max_redirects=3)
    return UrlFetcher(limits, resolver, network)
