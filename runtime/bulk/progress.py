"""Says how far a bulk job is: a line on a terminal, or lines of JSON for another program."""

import json
import time
from dataclasses import dataclass
from typing import TextIO

__all__ = ["Progress", "ProgressOutput"]

#: Seconds between two lines, on a terminal and of JSON.
TERMINAL_INTERVAL_S = 0.2
JSON_INTERVAL_S = 5.0


@dataclass(frozen=True, slots=True)
class ProgressOutput:
    """Where progress is told.

    Attributes:
        stream: to write to.
        as_json: a JSON object a line; else one line that is drawn anew, on terminals only.
    """

    stream: TextIO
    as_json: bool


class Progress:
    """Counts rows and tokens.

    Args:
        output: where to tell it.
        total: rows of the job.
        done: rows that an earlier process did.
        skipped: rows among them that could not be used.
    """

    def __init__(self, output: ProgressOutput, total: int, done: int, skipped: int) -> None:
        self._output = output
        self._total = total
        self._before = self._rows = done
        self._tokens = 0
        self.skipped = skipped
        self._source = ""
        self._started = time.monotonic()
        self._told_at = float("-inf")
        self._visible = output.as_json or output.stream.isatty()

    def advance(self, source: str, num_tokens: int) -> None:
        """Count one more row."""
        self._rows += 1
        self._tokens += num_tokens
        self._source = source
        interval = JSON_INTERVAL_S if self._output.as_json else TERMINAL_INTERVAL_S
        if self._visible and time.monotonic() - self._told_at >= interval:
            self._told_at = time.monotonic()
            self._tell("progress")

    def skip(self, source: str) -> None:
        """Count one more row that could not be used."""
        self.skipped += 1
        self.advance(source, 0)

    def finish(self) -> None:
        """Tell the final state and end the line."""
        if self._visible:
            self._tell("done")
            if not self._output.as_json:
                print(file=self._output.stream, flush=True)

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._started

    @property
    def rates(self) -> tuple[float, float]:
        """Rows and tokens a second."""
        seconds = max(self.seconds, 1e-9)
        return (self._rows - self._before) / seconds, self._tokens / seconds

    def _tell(self, event: str) -> None:
        rows, tokens = self.rates
        left = (self._total - self._rows) / rows if rows else None
        if self._output.as_json:
            content = {
                "event": event,
                "rows": self._rows,
                "total_rows": self._total,
                "skipped": self.skipped,
                "rows_per_second": round(rows, 2),
                "tokens_per_second": round(tokens, 1),
                "eta_seconds": None if left is None else round(left, 1),
                "source": self._source,
            }
            print(json.dumps(content), file=self._output.stream, flush=True)
            return
        share = self._rows / max(self._total, 1)
        line = f"{share:4.0%}  {self._rows} of {self._total} rows, {tokens:.0f} tokens/s"
        if left is not None:
            line += f", {_duration(left)} left"
        if self.skipped:
            line += f", {self.skipped} skipped"
        self._output.stream.write(f"\r{line}  {self._source[-40:]}\x1b[K")
        self._output.stream.flush()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
