"""Writes log lines to a descriptor from a thread of its own, and drops lines nobody reads.

A write to a pipe whose reader has stopped blocks for ever. If the event loop wrote its log lines
itself, the server would then answer nothing, not even a health check or SIGTERM.
"""

import contextlib
import datetime
import io
import json
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator

__all__ = ["LogWriter", "bounded_stderr"]

#: Bytes of lines that wait for the reader: some thousands of lines.
MAX_BYTES = 1_048_576
#: Bytes of one write. POSIX keeps so many in one piece when several processes share a pipe.
PIECE = select.PIPE_BUF
#: Seconds that the last lines get when the process ends.
FINISH_S = 1.0


class LogWriter(io.TextIOBase):
    """A text stream whose writes return at once. Safe to call from several threads.

    Args:
        descriptor: of the file that takes the lines.
        max_bytes: of lines that may wait; lines beyond are dropped and counted.
    """

    def __init__(self, descriptor: int, max_bytes: int = MAX_BYTES) -> None:
        self._descriptor = descriptor
        self._max_bytes = max_bytes
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._partial = ""
        self._dropped = 0
        self._untold = 0
        self._report: Callable[[int], object] | None = None
        self._finished = False
        # Reentrant, since a signal handler may log while its thread does.
        self._changed = threading.Condition(threading.RLock())
        self._thread = threading.Thread(target=self._run, name="trine-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines dropped so far."""
        return self._dropped

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Take a text; its whole lines are written soon, or dropped if too many wait."""
        with self._changed:
            whole, newline, rest = text.rpartition("\n")
            if not newline:
                self._partial += text
                return len(text)
            lines = (self._partial + whole + newline).encode("utf-8", "backslashreplace")
            self._partial = rest
            self._add(lines.splitlines(keepends=True))
            self._changed.notify()
        return len(text)

    def report_drops(self, report: Callable[[int], object]) -> None:
        """Call `report` with the number of lines dropped so far, and with each number to come."""
        with self._changed:
            self._report = report
            if self._dropped:
                report(self._dropped)

    def finish(self, seconds: float = FINISH_S) -> None:
        """Write what waits, for at most `seconds`; what is written to the stream later is lost."""
        with self._changed:
            if self._partial:
                self.write("\n")
            self._finished = True
            self._changed.notify()
        self._thread.join(seconds)

    def _add(self, lines: list[bytes]) -> None:
        before = self._dropped
        for line in lines:
            if self._size + len(line) > self._max_bytes:
                self._dropped += 1
            else:
                self._lines.append(line)
                self._size += len(line)
        more = self._dropped - before
        self._untold += more
        if more and self._report is not None:
            self._report(more)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._untold or self._finished)
                if not self._lines and not self._untold:
                    return
                piece = self._next_piece()
            with contextlib.suppress(OSError):  # the reader is gone, and nobody can be told
                while piece:
                    piece = piece[os.write(self._descriptor, piece) :]

    def _next_piece(self) -> bytes:
        """Remove and return the next lines; a count of dropped lines comes before them."""
        piece = b""
        if self._untold:
            piece, self._untold = _told(self._untold), 0
        while self._lines and (not piece or len(piece) + len(self._lines[0]) <= PIECE):
            line = self._lines.popleft()
            self._size -= len(line)
            piece += line
        return piece


def _told(dropped: int) -> bytes:
    """Return the log line that says how many lines were dropped."""
    line = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        "level": "warning",
        "logger": __name__,
        "message": "log lines were dropped, since nobody read them",
        "process": os.getpid(),
        "dropped": dropped,
    }
    return json.dumps(line).encode() + b"\n"


@contextlib.contextmanager
def bounded_stderr() -> Iterator[LogWriter]:
    """Let everything that this process writes to `sys.stderr` go through a `LogWriter`.

    That holds for logs, warnings and tracebacks alike; native code that writes to the descriptor
    itself is not covered.
    """
    before = sys.stderr
    writer = LogWriter(2 if before is None else before.fileno())
    sys.stderr = writer
    try:
        yield writer
    finally:
        sys.stderr = before
        writer.finish()
