"""Starts the program `trine`, so that an interrupt while it still loads ends in one line, too."""

import importlib
import os
import signal
from types import FrameType

__all__ = ["INTERRUPTED", "interrupts_raise", "main"]

#: The module that finds the verb and runs it.
PROGRAM = "trine.runtime.commands.program"
#: Exit code of a program that was interrupted, as shells have it.
INTERRUPTED = 130


def main() -> int:
    """Load the program, run it, and return its exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not told to ignore it
        signal.signal(signal.SIGINT, _leave)
    # Only now: an interrupt during these imports is answered, too.
    return int(importlib.import_module(PROGRAM).main())


def interrupts_raise() -> None:
    """Let an interrupt raise KeyboardInterrupt from now on, as work that is begun must clean up."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: FrameType | None) -> None:
    """End at once: nothing is begun, and an import that is interrupted may raise any error."""
    os.write(2, b"trine: interrupted\n")
    os._exit(INTERRUPTED)
