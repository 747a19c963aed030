"""A `trine serve` process and a small HTTP client for load: nothing between clock and socket."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

__all__ = ["Answer", "Connection", "ServerProcess", "request_bytes", "running_server"]

#: Seconds within which a server must be ready.
START_S = 300.0
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """One response.

    Attributes:
        status: of HTTP.
        body: whole.
        seconds: from the first byte sent to the last received.
    """

    status: int
    body: bytes
    seconds: float


def request_bytes(
    body: object, path: str = "/v1/embeddings", timeout: float | None = None
) -> bytes:
    """Return a POST request as it goes over the wire.

    Args:
        body: bytes as they are, anything else as JSON.
        path: of the endpoint.
        timeout: in seconds, for the server's deadline; None for its own.
    """
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    deadline = "" if timeout is None else f"x-request-timeout: {timeout}\r\n"
    head = (
        f"POST {path} HTTP/1.1\r\nhost: server\r\ncontent-type: application/json\r\n{deadline}"
        f"content-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


class _Stream(asyncio.Protocol):
    """One open connection, one request at a time: a few callbacks where streams take a task."""

    def __init__(self) -> None:
        self.closed = False
        self._received = b""
        self._body_end = 0
        self._body_start = 0
        self._transport: asyncio.Transport | None = None
        self._answered: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes) -> "asyncio.Future[None]":
        """Send a request; the result is there when the whole response is."""
        self._received, self._body_end = b"", 0
        self._answered = asyncio.get_running_loop().create_future()
        if self._transport is None or self.closed:
            self._answered.set_exception(ConnectionResetError("the connection is closed"))
        else:
            self._transport.write(request)
        return self._answered

    def response(self) -> tuple[int, bytes, bool]:
        """Return status, body, and whether the server closes the connection."""
        head = self._received[: self._body_start].lower()
        return (
            int(head[9:12]),
            self._received[self._body_start : self._body_end],
            b"\r\nconnection: close\r\n" in head,
        )

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._body_end:
            head_end = self._received.find(b"\r\n\r\n")
            if head_end < 0:
                return
            found = LENGTH.search(self._received, 0, head_end + 2)
            self._body_start = head_end + 4
            self._body_end = self._body_start + (int(found[1]) if found else 0)
        waiting = self._answered
        if len(self._received) >= self._body_end and waiting is not None and not waiting.done():
            waiting.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error or ConnectionResetError("closed by the server"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Connection:
    """A connection that is kept alive and opened again where the server closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stream: _Stream | None = None

    async def ask(self, request: bytes) -> Answer:
        """Send a request and return the response.

        Raises:
            OSError: the connection broke.
        """
        started = time.perf_counter()
        stream = self._stream
        if stream is None or stream.closed:
            stream = self._stream = await self._open()
        try:
            await stream.ask(request)
        except BaseException:
            self.close()
            raise
        seconds = time.perf_counter() - started
        status, body, closing = stream.response()
        if closing:
            self.close()
        return Answer(status, body, seconds)

    async def leave(self, request: bytes, after_s: float) -> None:
        """Send a request and close the connection a moment later, without an answer."""
        stream = await self._open()
        answer = stream.ask(request)
        await asyncio.sleep(after_s)
        stream.close()
        await asyncio.gather(answer, return_exceptions=True)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    async def _open(self) -> _Stream:
        loop = asyncio.get_running_loop()
        _, stream = await loop.create_connection(_Stream, "127.0.0.1", self._port)
        return stream


class ServerProcess:
    """A running server."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.process = process
        self.port = port

    def resident_mb(self) -> float:
        """Return the memory of the server and its workers, in MB."""
        total = 0
        for pid in (self.process.pid, *self._children()):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith("RssAnon:"):
                        total += int(line.split()[1])
        return total / 1024

    def cpu_seconds(self) -> float:
        """Return the processor time of the server and its workers so far."""
        ticks = 0
        for pid in (self.process.pid, *self._children()):
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def workers(self) -> list[int]:
        """Return the numbers of the worker processes; none without a supervisor."""
        return [pid for pid in self._children() if b"spawn_main" in _command_line(pid)]

    def _children(self) -> list[int]:
        tasks = Path(f"/proc/{self.process.pid}/task")
        found = [(task / "children").read_text().split() for task in tasks.iterdir()]
        return [int(pid) for part in found for pid in part]


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@contextlib.contextmanager
def running_server(
    bundle: Path, options: Sequence[str], workers: int = 1
) -> Iterator[ServerProcess]:
    """Run `trine serve` on a free port until the block ends.

    Raises:
        RuntimeError: it did not start; its log is in the message.
    """
    program = "import sys; from trine.runtime.commands.program import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "serve", str(bundle), "--port", "0"]
    command += ["--workers", str(workers)]
    with tempfile.NamedTemporaryFile("r") as log:
        with open(log.name, "wb") as file:
            process = subprocess.Popen([*command, *options], stderr=file)
        try:
            port = _wait_until_ready(process, Path(log.name), workers)
            yield ServerProcess(process, port)
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            process.kill()


def _wait_until_ready(process: "subprocess.Popen[bytes]", log: Path, workers: int) -> int:
    limit = time.monotonic() + START_S
    while time.monotonic() < limit and process.poll() is None:
        events: list[dict[str, object]] = []
        for line in log.read_text().splitlines():
            with contextlib.suppress(ValueError):  # a line half written
                events.append(json.loads(line))
        ports = [event["port"] for event in events if event["message"] == "listening"]
        if ports and sum(event["message"] == "ready" for event in events) >= workers:
            return int(str(ports[0]))
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start: {log.read_text()}")
