"""Logs as lines of JSON on the standard error, one line an event."""

import datetime
import logging
import sys

import orjson

__all__ = ["JsonFormatter", "set_up_logs"]

#: Fields of a log record that are not what the caller gave as `extra`.
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
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
