"""Reads the list of inputs that `trine embed --files-from` names."""

import sys
from collections.abc import Sequence
from pathlib import Path

from trine.runtime.errors import InputError

__all__ = ["read_list"]

STDIN = "-"


def read_list(source: str, inputs: Sequence[str]) -> list[str]:
    """Return the paths of a list, which has one a line; blank lines are left out.

    Args:
        source: a file, or "-" for the standard input.
        inputs: that were given otherwise.

    Raises:
        InputError: the list cannot be read, or names none.
    """
    try:
        if source != STDIN:
            text = Path(source).read_text(encoding="utf-8-sig")
        elif STDIN in inputs:
            raise InputError("the standard input holds either texts or a list of files; give one")
        elif sys.stdin is None:
            raise InputError("the standard input is closed; give the list as a file")
        else:
            text = sys.stdin.buffer.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as cause:
        reason = cause.strerror if isinstance(cause, OSError) else "it is not UTF-8"
        raise InputError(
            f"--files-from {source}: cannot be read ({reason}); give a text file with a path a line"
        ) from cause
    names = [line for line in text.splitlines() if line.strip()]
    if not names:
        raise InputError(f"--files-from {source}: names no file; give a path a line")
    return names
