"""Reads what the demonstration searches: sections of queries and candidates in a folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trine.runtime.errors import InputError

__all__ = ["Candidate", "Query", "Section", "Task", "demo_folder", "read_sections"]

Task = Literal["retrieval", "code"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Something to be found.

    Attributes:
        key: what a query's `expected` names.
        label: one line for people.
        content: what is embedded, a text or the path of an image.
    """

    key: str
    label: str
    content: str | Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A query and the key of the candidate that should come first.

    Attributes:
        text: the query.
        expected: key of the right candidate.
        shown: whether its rankings are printed; the others only count.
    """

    text: str
    expected: str
    shown: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One kind of search.

    Attributes:
        title: heading for people.
        task: adapter that embeds both sides.
        candidates: texts only or images only.
        queries: each names one of `candidates`.
        min_single: expected hits that must come first by single vectors.
        min_multi: the same for multi-vectors.
    """

    title: str
    task: Task
    candidates: tuple[Candidate, ...]
    queries: tuple[Query, ...]
    min_single: int
    min_multi: int

    def __post_init__(self) -> None:
        keys = {candidate.key for candidate in self.candidates}
        for query in self.queries:
            if query.expected not in keys:
                raise InputError(
                    f"the query {query.text!r} of {self.title!r} expects {query.expected!r}, which "
                    "is not among the candidates; correct the demo's files"
                )


def demo_folder() -> Path:
    """Return the folder of the built-in demo's texts and images."""
    return Path(__file__).resolve().parent.parent / "nano" / "demo"


def read_sections(folder: Path) -> tuple[Section, ...]:
    """Return the demonstration's searches.

    The least numbers of right hits are a little below what the float32 model reaches on these
    files (single 35, 7, 24, 4; multi 24, 6, 21, 1), so that a near tie may fall either way.

    Args:
        folder: the demo folder: `documents.txt`, `functions.txt`, `images/`, `captions.json`,
            `queries.json` (the ones to show), `code_queries.json` and `report.json` (the others).

    Raises:
        InputError: a query expects something that is not there.
    """
    clear = _read_json(folder / "queries.json")
    report = _read_json(folder / "report.json")
    shown = {row["query"] for row in clear}
    rows = report["rows_text"]
    num_english = report["english_text"]["tried"]
    documents = tuple(
        Candidate(key=line, label=line, content=line)
        for line in (folder / "documents.txt").read_text(encoding="utf-8").splitlines()
    )
    return (
        Section(
            title="English text → text",
            task="retrieval",
            candidates=documents,
            queries=_queries(rows[:num_english], shown),
            min_single=33,
            min_multi=22,
        ),
        Section(
            title="Other languages → English text",
            task="retrieval",
            candidates=documents,
            queries=_queries(rows[num_english:]),
            min_single=6,
            min_multi=5,
        ),
        Section(
            title="Text → image",
            task="retrieval",
            candidates=_images(folder),
            queries=_queries(report["rows_images"], shown),
            min_single=22,
            min_multi=19,
        ),
        Section(
            title="Docstring → Python function",
            task="code",
            candidates=_functions(folder / "functions.txt"),
            queries=_queries(_read_json(folder / "code_queries.json")),
            min_single=3,
            min_multi=1,
        ),
    )


def _queries(rows: list[dict[str, str]], shown: set[str] | None = None) -> tuple[Query, ...]:
    return tuple(
        Query(
            text=row["query"],
            expected=row["expected"],
            shown=shown is None or row["query"] in shown,
        )
        for row in rows
    )


def _images(folder: Path) -> tuple[Candidate, ...]:
    captions = _read_json(folder / "captions.json")
    return tuple(
        Candidate(key=name, label=caption, content=folder / "images" / name)
        for name, caption in sorted(captions.items())
    )


def _functions(path: Path) -> tuple[Candidate, ...]:
    sources = path.read_text(encoding="utf-8").strip().split("\n\n\n")
    return tuple(
        Candidate(
            key=source.removeprefix("def ").split("(")[0],
            label=source.splitlines()[0].rstrip(":"),
            content=source,
        )
        for source in sources
    )


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
