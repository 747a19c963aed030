"""One item of a bulk run, as it was named in a file: not opened yet, but checked.

A line of a .jsonl file is an object with the fields of `FIELDS`, at least a text or an image.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from trine.runtime.commands.embed.pdf_pages import PdfPage, render_page
from trine.runtime.errors import InputError
from trine.runtime.inputs import ImageText, Item, Prompt
from trine.runtime.preprocessing.load_image import load_image

__all__ = ["FIELDS", "InputRow", "check_text", "load_item", "row_from_json"]

FIELDS = ("id", "text", "image", "task", "prompt")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRow:
    """One item, its images not opened yet.

    Attributes:
        id: given, or made of the place.
        where: file and line, or file, for messages.
        text: or None.
        images: files and pages of PDFs; empty for a text.
        task: of this item; None for that of the run.
        prompt: likewise.
    """

    id: str
    where: str
    text: str | None = None
    images: tuple[Path | PdfPage, ...] = ()
    task: str | None = None
    prompt: Prompt | None = None


def row_from_json(line: str, where: str, folder: Path) -> InputRow:
    """Return the item that a line of a .jsonl file describes.

    Args:
        line: one JSON object.
        where: file and line.
        folder: that paths of images are relative to.

    Raises:
        InputError: it is no JSON object, a field is unknown or of the wrong kind, or an image's
            file does not exist.
    """
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as cause:
        raise InputError(f"{where}: not valid JSON ({cause}); write one object a line") from cause
    if not isinstance(content, dict):
        raise InputError(f'{where}: holds {line[:40]!r}; write an object such as {{"text": "…"}}')
    unknown = sorted(set(content) - set(FIELDS))
    if unknown:
        raise InputError(f"{where}: fields {unknown} are unknown; known are {list(FIELDS)}")
    # A field that is null or empty is as good as absent, as in tables other programs write.
    fields = {name: value for name, value in content.items() if value not in (None, [])}
    if "text" not in fields and "image" not in fields:
        raise InputError(f"{where}: has neither a text nor an image; give one or both")
    text = _string(fields, "text", where)
    prompt = _string(fields, "prompt", where)
    if prompt is not None and prompt not in get_args(Prompt):
        raise InputError(f"{where}: prompt is {prompt!r}; known are {list(get_args(Prompt))}")
    given_id = fields.get("id")
    if given_id is not None and type(given_id) not in (str, int):
        raise InputError(f"{where}: id is {given_id!r}; give a string or a whole number")
    return InputRow(
        id=where if given_id is None else str(given_id),
        where=where,
        text=None if text is None else check_text(text, where),
        images=_image_paths(fields.get("image", []), where, folder),
        task=_string(fields, "task", where),
        prompt=cast(Prompt | None, prompt),
    )


def check_text(text: str, where: str) -> str:
    """Return `text`, or raise InputError if it holds what is no character."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as cause:
        raise InputError(
            f"{where}: character {cause.start + 1} is half of a surrogate pair, which is no "
            "character; write the text in UTF-8"
        ) from cause
    return text


def load_item(row: InputRow) -> Item:
    """Return the item of a row for `Embedder.encode`, its images decoded: uint8 [h, w, 3].

    Raises:
        InputError: an image cannot be read.
        DependencyError: the page of a PDF is asked for and pypdfium2 is not installed.
    """
    if not row.images:
        return row.text or ""
    return ImageText(
        tuple(
            render_page(image)
            if isinstance(image, PdfPage)
            else load_image(image, "image" if row.where == str(image) else row.where)
            for image in row.images
        ),
        row.text,
    )


def _string(fields: dict[str, object], name: str, where: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{where}: {name} is {value!r}; give a string")
    return value


def _image_paths(value: object, where: str, folder: Path) -> tuple[Path, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{where}: image is {value!r}; give a path or a list of paths")
    paths = tuple(folder / name for name in names)
    for path in paths:
        if not path.is_file():
            raise InputError(f"{where}: the image {str(path)!r} does not exist; check the path")
    return paths
