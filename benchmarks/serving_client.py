"""A `trine serve` process and a small HTTP client for load: nothing between clock and socket."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Answer", "Connection", "ServerProcess", "request_bytes", "running_server"]

#: Seconds within which a server must be ready.
START_S = 300.0


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


class Connection:
    """A connection that is kept alive and opened again where the server closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> Answer:
        """Send a request and return the response.

        Raises:
            OSError: the connection broke.
            asyncio.IncompleteReadError: likewise, within the response.
        """
        started = time.perf_counter()
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        try:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            status = int(head.split(" ", 2)[1])
            fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            body = await reader.readexactly(int(fields.get("content-length", 0)))
        except BaseException:
            self.close()
            raise
        if fields.get("connection") == "close":
            self.close()
        return Answer(status, body, time.perf_counter() - started)

    async def leave(self, request: bytes, after_s: float) -> None:
        """Send a request and close the connection a moment later, without an answer."""
        self.close()
        _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(request)
        await asyncio.sleep(after_s)
        writer.close()

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


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

    def _children(self) -> list[int]:
        tasks = Path(f"/proc/{self.process.pid}/task")
        found = [(task / "children").read_text().split() for task in tasks.iterdir()]
        return [int(pid) for part in found for pid in part]


@contextlib.contextmanager
def running_server(bundle: Path, options: Sequence[str]) -> Iterator[ServerProcess]:
    """Run `trine serve` on a free port until the block ends.

    Raises:
        RuntimeError: it did not start; its log is in the message.
    """
    program = "import sys; from trine.export.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "serve", str(bundle), "--port", "0"]
    with tempfile.NamedTemporaryFile("r") as log:
        with open(log.name, "wb") as file:
            process = subprocess.Popen([*command, *options], stderr=file)
        try:
            port = _wait_until_ready(process, Path(log.name))
            yield ServerProcess(process, port)
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            process.kill()


def _wait_until_ready(process: "subprocess.Popen[bytes]", log: Path) -> int:
    limit = time.monotonic() + START_S
    while time.monotonic() < limit and process.poll() is None:
        events = {}
        for line in log.read_text().splitlines():
            with contextlib.suppress(ValueError):  # a line half written
                event = json.loads(line)
                events[event["message"]] = event
        if "listening" in events and "ready" in events:
            return int(events["listening"]["port"])
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start: {log.read_text()}")
