"""The inputs of a bulk run: files and texts on the command line, as a stream of rows.

.txt        a text a line, UTF-8 (an empty line is an empty text), or one text a file
.md         one text a file
.jsonl      an object a line (trine.runtime.bulk.inputs.items); .ndjson is another name
.gz, .zst   of these, e.g. texts.jsonl.gz
`-`         JSON lines if the first line that is not blank is a JSON object, else a text a line
.pdf        an image a page
images    what Pillow opens, by suffix
"""

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Literal, cast

from trine.runtime.bulk.inputs.file_kinds import LINES, kind_of, open_lines
from trine.runtime.bulk.inputs.items import InputRow, check_text, row_from_json
from trine.runtime.bulk.inputs.pdf_pages import PdfPage, count_pages
from trine.runtime.errors import InputError
from trine.runtime.inputs import Prompt
from trine.runtime.task_names import choose_prompt, split_task

__all__ = [
    "STDIN",
    "Inputs",
    "StdinFormat",
    "Survey",
    "TxtUnit",
    "file_rows",
    "numbered_lines",
    "read_rows",
    "resolve_row",
    "survey_rows",
]

#: What the standard input holds; "auto" looks at its first line that is not blank.
StdinFormat = Literal["auto", "text", "jsonl"]
#: What one item of a .txt file is.
TxtUnit = Literal["lines", "document"]

#: Name of the standard input among the inputs.
STDIN = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a run reads.

    Attributes:
        texts: given as they are; they come first.
        names: of files, or `STDIN`.
        stdin: what `STDIN` stands for, in bytes; None if it is closed.
        dpi: that pages of PDFs are drawn with.
        stdin_format: of the standard input.
        txt: whether a line or a whole .txt file is an item.
        pdf_password: of the PDFs that are encrypted.
    """

    texts: tuple[str, ...]
    names: tuple[str, ...]
    stdin: BinaryIO | None
    dpi: int
    stdin_format: StdinFormat = "auto"
    txt: TxtUnit = "lines"
    pdf_password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Survey:
    """What a first reading found.

    Attributes:
        num_rows: or None where an input can be read only once, so was not.
        tasks: of the run and of its rows; None likewise.
    """

    num_rows: int | None
    tasks: frozenset[str] | None


def read_rows(inputs: Inputs) -> Iterator[InputRow]:
    """Yield all rows in order; images are named, not opened.

    Raises:
        InputError: a file cannot be read or a line used; the message has both.
        DependencyError: a PDF is among them and pypdfium2 is not installed.
    """
    for number, text in enumerate(inputs.texts, 1):
        where = f"text:{number}"
        yield InputRow(id=where, where=where, text=check_text(text, where))
    for name in inputs.names:
        if name == STDIN:
            yield from _stdin_rows(inputs)
            continue
        path = Path(name)
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give the files in it, or -o out/")
        if not path.exists():
            raise InputError(f"{path}: does not exist; check the path")
        yield from file_rows(path, inputs)


def survey_rows(inputs: Inputs, known_tasks: Collection[str], default_task: str | None) -> Survey:
    """Read all rows once, so that a fault in the last line shows before the first is embedded.

    Args:
        inputs: to read; if among them is one that can be read only once, nothing is read.
        known_tasks: of the bundle.
        default_task: of rows that name none.

    Raises:
        InputError: as `read_rows`; or a row has no task, or one that the bundle has not.
    """
    if not all(_is_rereadable(name) for name in inputs.names):
        return Survey(None, None)
    count = 0
    tasks = set[str]()
    for row in read_rows(inputs):
        tasks.add(resolve_row(row, known_tasks, default_task).task or "")
        count += 1
    return Survey(count, frozenset(tasks))


def resolve_row(row: InputRow, known_tasks: Collection[str], default_task: str | None) -> InputRow:
    """Return a row with its task bare, and with the side that the task's name has as its prompt.

    Raises:
        InputError: there is no task, the bundle has no such task, or the row's task and prompt name
            different sides.
    """
    task = default_task if row.task is None else row.task
    if task is None:
        raise InputError(f"{row.where}: no task; give --task, one of {list(known_tasks)}")
    found = split_task(task, known_tasks)
    if found is None:
        raise InputError(f"{row.where}: task is {task!r}; the bundle has {list(known_tasks)}")
    try:
        prompt = choose_prompt(*found, row.prompt, "prompt")
    except InputError as cause:
        raise InputError(f"{row.where}: {cause}") from cause
    return replace(row, task=found[0], prompt=cast(Prompt | None, prompt))


def _is_rereadable(name: str) -> bool:
    """Return whether `name` is no pipe; what does not exist is left to be reported."""
    path = Path(name)
    return name != STDIN and (path.is_file() or path.is_dir() or not path.exists())


def _stdin_rows(inputs: Inputs) -> Iterator[InputRow]:
    if inputs.stdin is None:
        raise InputError("the standard input is closed; give files or --text, or open it")
    lines = numbered_lines(inputs.stdin, "stdin")
    as_json = inputs.stdin_format == "jsonl"
    if inputs.stdin_format == "auto":
        first: list[tuple[str, str]] = []
        for where, line in lines:
            first.append((where, line))
            if line.strip():
                as_json = _is_json_line(line, where)
                break
        lines = chain(first, lines)
    yield from _json_rows(lines, Path()) if as_json else _text_rows(lines)


def _is_json_line(line: str, where: str) -> bool:
    """Return whether JSON lines begin with `line`; JSON in another layout is refused."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        content = None
    if line.strip() in ("{", "[") or (
        isinstance(content, list) and any(isinstance(part, dict) for part in content)
    ):
        raise InputError(
            f"{where}: begins like JSON that is not one object a line ({line[:40]!r}); write an "
            "object a line (jq -c), or give --format text if these are texts"
        )
    return isinstance(content, dict)


def file_rows(path: Path, inputs: Inputs) -> Iterator[InputRow]:
    """Yield the rows of one file, as `read_rows`."""
    kind = kind_of(path)
    if kind in LINES:
        yield from _line_file_rows(path, kind, inputs.txt)
    elif kind == ".pdf":
        for index in range(count_pages(path, inputs.pdf_password)):
            name = f"{path}#page={index + 1}"
            page = PdfPage(path, index, inputs.dpi, inputs.pdf_password)
            yield InputRow(id=name, where=name, images=(page,))
    elif _is_image_suffix(kind):
        yield InputRow(id=str(path), where=str(path), images=(path,))
    else:
        raise InputError(
            f"{path}: the suffix {path.suffix.lower()!r} is of no known kind of input; give .txt, "
            ".md, .jsonl, these as .gz or .zst, .pdf, or images such as .png and .jpg"
        )


def _line_file_rows(path: Path, kind: str, txt: TxtUnit) -> Iterator[InputRow]:
    with open_lines(path) as file:
        lines = numbered_lines(file, str(path))
        if kind == ".jsonl":
            yield from _json_rows(lines, path.parent)
        elif txt == "document" or kind == ".md":
            text = "\n".join(line for _, line in lines)
            yield InputRow(id=str(path), where=str(path), text=text)
        else:
            yield from _text_rows(lines)


def _is_image_suffix(suffix: str) -> bool:
    from PIL import Image

    return Image.registered_extensions().get(suffix) in Image.OPEN


def _text_rows(lines: Iterable[tuple[str, str]]) -> Iterator[InputRow]:
    for where, line in lines:
        yield InputRow(id=where, where=where, text=line)


def _json_rows(lines: Iterable[tuple[str, str]], folder: Path) -> Iterator[InputRow]:
    for where, line in lines:
        if line.strip():
            yield row_from_json(line, where, folder)


def numbered_lines(file: BinaryIO, name: str) -> Iterator[tuple[str, str]]:
    """Yield (file and line number, line without its end) of UTF-8 text."""
    for number, line in enumerate(file, 1):
        where = f"{name}:{number}"
        try:
            # A byte-order mark is no part of the first text.
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as cause:
            raise InputError(
                f"{where}: byte {cause.start + 1} of the line is not UTF-8; convert the file"
            ) from cause
        yield where, text.removesuffix("\n").removesuffix("\r")
