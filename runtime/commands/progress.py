"""A one-line progress bar on a terminal; silence elsewhere."""

import os
import time
from typing import TextIO

__all__ = ["ProgressBar", "format_bytes", "is_terminal"]

#: Redraws are at least this far apart, in seconds.
INTERVAL_S = 0.1
BAR_WIDTH = 24


def format_bytes(count: float) -> str:
    """Return a byte count as people read it, e.g. "1.5 GB" (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError  # the loop returns at its last unit


def is_terminal(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that lines can be drawn over on."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


class ProgressBar:
    """Counts parts done of a known total.

    Args:
        stream: where to draw; nothing is drawn unless it is a terminal.
        label: what is being done.
        total: size of the whole in `unit`.
        unit: "B" for bytes, else the plural of what is counted.
    """

    def __init__(self, stream: TextIO, label: str, total: int, unit: str) -> None:
        self._stream = stream
        self._label = label
        self._total = max(total, 1)
        self._unit = unit
        self._done = 0
        self._parts = 0
        self._drawn_at = float("-inf")
        self._visible = is_terminal(stream)

    def advance(self, amount: int) -> None:
        """Count one more part of size `amount`."""
        self._done += amount
        self._parts += 1
        now = time.monotonic()
        if self._visible and now - self._drawn_at >= INTERVAL_S:
            self._drawn_at = now
            self._draw()

    def finish(self) -> None:
        """Draw the final state and end the line."""
        if self._visible:
            self._draw()
            self._stream.write("\n")
            self._stream.flush()

    def _draw(self) -> None:
        share = min(self._done / self._total, 1.0)
        filled = "█" * round(share * BAR_WIDTH)
        if self._unit == "B":
            counts = (
                f"{format_bytes(self._done)} of {format_bytes(self._total)}, {self._parts} tensors"
            )
        else:
            counts = f"{self._done} of {self._total} {self._unit}"
        self._stream.write(f"\r{self._label} {filled:░<{BAR_WIDTH}} {share:4.0%}  {counts}\x1b[K")
        self._stream.flush()
