"""Files of pairs: queries, each with what should be found for it.

A line of the file, UTF-8, is an object with the fields `query`, a text, and either `passage`, a
text, or `image`, a path relative to the file. Other fields and empty lines are passed over.
Equal texts are one candidate, as are equal paths; equal queries are one query, for which all the
candidates it is paired with should be found.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trine.runtime.bulk.inputs.items import check_text
from trine.runtime.errors import InputError
from trine.runtime.inputs import ImageText, Item

__all__ = ["PairItem", "PairSet", "read_pairs"]


@dataclass(frozen=True, slots=True)
class PairItem:
    """One side of pairs.

    Attributes:
        content: a text, or the path of an image, which is not opened yet.
        where: file and line it was first seen at, for messages.
    """

    content: str | Path
    where: str

    def item(self) -> Item:
        """Return what the embedder takes."""
        return self.content if isinstance(self.content, str) else ImageText((self.content,))


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSet:
    """What is to be searched, for what, and what should be found. None of it is empty.

    Attributes:
        queries: each text once, in the order of the file.
        candidates: each text and image once, likewise.
        relevant: for each query the places in `candidates` of what it is paired with.
        num_pairs: lines read.
    """

    queries: tuple[PairItem, ...]
    candidates: tuple[PairItem, ...]
    relevant: tuple[frozenset[int], ...]
    num_pairs: int

    @property
    def texts_only(self) -> bool:
        """Whether no candidate is an image."""
        return all(isinstance(candidate.content, str) for candidate in self.candidates)


def read_pairs(path: Path, limit: int | None = None) -> PairSet:
    """Return the pairs of a .jsonl file.

    Args:
        path: of the file.
        limit: how many pairs to read, the first ones; None for all.

    Raises:
        InputError: the file cannot be read or holds no pair, or a line cannot be used, or an
            image's file does not exist; the message has file and line.
    """
    if limit is not None and limit < 1:
        raise InputError(f"the limit is {limit} pairs; give a number of at least 1")
    queries: dict[str, PairItem] = {}
    candidates: dict[str | Path, int] = {}
    items: list[PairItem] = []
    relevant: dict[str, set[int]] = {}
    num_pairs = 0
    for where, line in _lines(path):
        query, content = _pair(line, where, path.parent)
        if content not in candidates:
            candidates[content] = len(items)
            items.append(PairItem(content, where))
        queries.setdefault(query, PairItem(query, where))
        relevant.setdefault(query, set()).add(candidates[content])
        num_pairs += 1
        if num_pairs == limit:
            break
    if not num_pairs:
        raise InputError(
            f'{path}: holds no pair; write lines such as {{"query": "…", "passage": "…"}}'
        )
    return PairSet(
        queries=tuple(queries.values()),
        candidates=tuple(items),
        relevant=tuple(frozenset(places) for places in relevant.values()),
        num_pairs=num_pairs,
    )


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (file and line number, line) of the lines that are not empty."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                where = f"{path}:{number}"
                try:
                    # A byte-order mark is no part of the first object.
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                except UnicodeDecodeError as cause:
                    raise InputError(
                        f"{where}: byte {cause.start + 1} of the line is not UTF-8; "
                        "convert the file"
                    ) from cause
                if text:
                    yield where, text
    except OSError as cause:
        raise InputError(
            f"{path}: cannot be read ({cause.strerror}); give a .jsonl file of pairs"
        ) from cause


def _pair(line: str, where: str, folder: Path) -> tuple[str, str | Path]:
    """Return the query of a line and the text or the path that should be found for it."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as cause:
        raise InputError(f"{where}: not valid JSON ({cause}); write one object a line") from cause
    if not isinstance(fields, dict):
        raise InputError(
            f"{where}: holds {line[:40]!r}; write an object with query, and passage or image"
        )
    query = _text(fields, "query", where)
    if query is None:
        raise InputError(f"{where}: has no query; add the field, a string")
    passage, image = _text(fields, "passage", where), _text(fields, "image", where)
    if passage is not None and image is not None:
        raise InputError(f"{where}: has a passage and an image; give one, and a line for the other")
    if passage is not None:
        return query, passage
    if image is None:
        raise InputError(f"{where}: has neither a passage nor an image; give one of them")
    path = folder / image
    # Unlike `Path.is_file` False also for names that no file can have.
    if not os.path.isfile(path):
        raise InputError(f"{where}: the image {str(path)!r} does not exist; check the path")
    return query, path


def _text(fields: dict[str, object], name: str, where: str) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise InputError(f"{where}: {name} is {value!r}; give a string")
    return check_text(value, where)
