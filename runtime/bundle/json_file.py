"""Reads a JSON file that must hold an object."""

import json
from pathlib import Path

from trine.runtime.errors import TrineError

__all__ = ["read_json"]


def read_json(path: Path, error: type[TrineError]) -> dict[str, object]:
    """Return the object in a JSON file.

    Args:
        path: the file.
        error: the error class to raise.

    Raises:
        error: the file is missing, is not JSON, or holds something else than an object.
    """
    try:
        content = json.loads(
            path.read_bytes()
        )  # which knows UTF-8 and UTF-16, with a mark or without
    except OSError as cause:
        raise error(f"{path}: cannot be read ({cause.strerror}); the file is needed") from cause
    except (ValueError, RecursionError) as cause:
        raise error(f"{path}: not valid JSON ({cause}); download it again") from cause
    if not isinstance(content, dict):
        raise error(f"{path}: holds a {type(content).__name__}, not a JSON object")
    return content
