"""Finds the string of a JSON body that holds half of a surrogate pair, and says where it is.

JSON can write such a half, as an escape or in bytes; it is no character, so no tokenizer takes it.
A strict parser refuses the whole body for it and cannot say which item to mend.
"""

import json
import re
from collections.abc import Iterator
from typing import TypeAlias

from trine.runtime.serving.service.calls import ServiceError

__all__ = ["surrogate_error"]

#: An escape or the bytes of any surrogate, paired or not.
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")
#: Half of a pair: the parser joins escapes of whole ones.
HALF = re.compile("[\ud800-\udfff]")

#: Characters of a path in a message.
LONGEST_SHOWN = 200

#: Keys and indices on the way to a value.
Path: TypeAlias = tuple[str | int, ...]


def surrogate_error(raw: bytes) -> ServiceError | None:
    """Return the 400 that names the item at fault, or None if a surrogate is not what is wrong.

    Args:
        raw: a JSON text that a strict parser refused.
    """
    if not SURROGATE.search(raw):
        return None
    try:
        value = json.loads(raw.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):  # something else is wrong as well
        return None
    path = next(_halves(value), None)
    if path is None:
        return None
    numbers = [step for step in path if isinstance(step, int)]
    # KServe's items stand in `inputs[0].data`, those of all others in the first list.
    index = None if not numbers else numbers[-1] if "data" in path else numbers[0]
    return ServiceError(
        400,
        "invalid_input",
        f"{_written(path)} holds half of a surrogate pair, which is no character; remove it",
        param=str(path[0]) if path else None,
        index=index,
    )


def _halves(value: object) -> Iterator[Path]:
    """Yield the path to each string with a half, in the order of the body."""
    # A stack instead of recursion: bodies may be nested deeply.
    left: list[tuple[Path, object]] = [((), value)]
    while left:
        path, found = left.pop()
        if isinstance(found, str):
            if HALF.search(found):
                yield path
        elif isinstance(found, dict):
            for key, inner in reversed(found.items()):
                left += [((*path, key), inner), (path, key)]
        elif isinstance(found, list):
            left += [((*path, index), found[index]) for index in range(len(found) - 1, -1, -1)]


def _written(path: Path) -> str:
    """Return a path as `input[1].text`."""
    steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in path]
    # A key of the body may itself hold the half.
    shown = "".join(steps).removeprefix(".").encode("utf-8", "replace").decode()
    return shown[:LONGEST_SHOWN] or "the request's body"
