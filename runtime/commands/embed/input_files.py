"""The inputs of a bulk run: files and texts on the command line, as a stream of rows.

`-`, .txt   a text a line, UTF-8 (an empty line is an empty text)
.jsonl      an object a line (trine.runtime.commands.embed.input_rows)
.pdf        an image a page
images    what Pillow opens, by suffix
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from trine.runtime.commands.embed.input_rows import InputRow, check_text, row_from_json
from trine.runtime.commands.embed.pdf_pages import PdfPage, count_pages
from trine.runtime.errors import InputError

__all__ = ["STDIN", "Inputs", "Survey", "read_rows", "row_task", "survey_rows"]

#: Name of the standard input among the inputs.
STDIN = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a run reads.

    Attributes:
        texts: given as they are; they come first.
        names: of files, or `STDIN`.
        stdin: what `STDIN` stands for, in bytes.
        dpi: that pages of PDFs are drawn with.
    """

    texts: tuple[str, ...]
    names: tuple[str, ...]
    stdin: BinaryIO
    dpi: int


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
            yield from _text_rows(_lines(inputs.stdin, "stdin"))
            continue
        path = Path(name)
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give the files in it")
        if not path.exists():
            raise InputError(f"{path}: does not exist; check the path")
        yield from _file_rows(path, inputs.dpi)


def survey_rows(inputs: Inputs, known_tasks: Iterable[str], default_task: str | None) -> Survey:
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
    tasks = set()
    for row in read_rows(inputs):
        tasks.add(row_task(row, known_tasks, default_task))
        count += 1
    return Survey(count, frozenset(tasks))


def row_task(row: InputRow, known_tasks: Iterable[str], default_task: str | None) -> str:
    """Return the task of a row.

    Raises:
        InputError: there is none, or the bundle has no such task.
    """
    task = default_task if row.task is None else row.task
    if task is None:
        raise InputError(f"{row.where}: no task; give --task, one of {list(known_tasks)}")
    if task not in known_tasks:
        raise InputError(f"{row.where}: task is {task!r}; the bundle has {list(known_tasks)}")
    return task


def _is_rereadable(name: str) -> bool:
    """Return whether `name` is no pipe; what does not exist is left to be reported."""
    path = Path(name)
    return name != STDIN and (path.is_file() or path.is_dir() or not path.exists())


def _file_rows(path: Path, dpi: int) -> Iterator[InputRow]:
    suffix = path.suffix.lower()
    if suffix in (".txt", ".jsonl"):
        try:
            with path.open("rb") as file:
                lines = _lines(file, str(path))
                yield from _text_rows(lines) if suffix == ".txt" else _json_rows(lines, path.parent)
        except OSError as cause:
            raise InputError(
                f"{path}: cannot be read ({cause.strerror}); check its permissions"
            ) from cause
    elif suffix == ".pdf":
        for index in range(count_pages(path)):
            name = f"{path}#page={index + 1}"
            yield InputRow(id=name, where=name, images=(PdfPage(path, index, dpi),))
    elif _is_image_suffix(suffix):
        yield InputRow(id=str(path), where=str(path), images=(path,))
    else:
        raise InputError(
            f"{path}: the suffix {suffix!r} is of no known kind of input; give .txt, .jsonl, .pdf, "
            "or images such as .png and .jpg"
        )


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


def _lines(file: BinaryIO, name: str) -> Iterator[tuple[str, str]]:
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
