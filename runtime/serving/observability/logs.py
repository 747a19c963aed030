"""Logs as lines of JSON on the standard error, one line an event."""

import asyncio
import datetime
import logging
import os
import sys
import time

import orjson

__all__ = ["JsonFormatter", "RequestLog", "set_up_logs"]

#: Fields of a log record that are not what the caller gave as `extra`.
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
#: Seconds after which lines of requests are written, all of them at once.
WRITE_AFTER_S = 0.1
#: What uvicorn says below is said here with more to it.
UVICORN_LEVEL = "warning"


class JsonFormatter(logging.Formatter):
    """Writes time, level, logger and message, and every field given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, object] = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        line |= {name: value for name, value in vars(record).items() if name not in STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode("utf-8", "replace")


def set_up_logs(level: str) -> None:
    """Send the logs of this program and of uvicorn to the standard error, from `level` on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name, lowest in (("trine", level), ("uvicorn", UVICORN_LEVEL)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(lowest.upper())


class RequestLog:
    """Writes a line for each request, at level "info". For the event loop's thread.

    At a thousand requests a second, a log record and a system call for each would take a tenth of
    the server's time. So the lines go past `logging`, and out together, ten times a second.

    Args:
        enabled: whether lines of that level are wanted.
    """

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._lines: list[tuple[float, dict[str, object]]] = []
        self._process = os.getpid()

    def add(self, fields: dict[str, object]) -> None:
        """Log a request.

        Args:
            fields: of its line, for JSON.
        """
        if not self._enabled:
            return
        if not self._lines:
            asyncio.get_running_loop().call_later(WRITE_AFTER_S, self.write)
        self._lines.append((time.time(), fields))

    def write(self) -> None:
        """Write what is there."""
        lines, self._lines = self._lines, []
        written = b"".join(
            orjson.dumps(self._line(*line), option=orjson.OPT_APPEND_NEWLINE) for line in lines
        )
        sys.stderr.write(written.decode())
        sys.stderr.flush()

    def _line(self, seconds: float, fields: dict[str, object]) -> dict[str, object]:
        time_of_day = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
        head = {
            "time": time_of_day.isoformat(timespec="milliseconds"),
            "level": "info",
            "logger": __name__,
            "message": "request",
            "process": self._process,
        }
        return head | fields
