"""One item of a bulk run, as it was named in a file: not opened yet, but checked.

A line of a .jsonl file is an object with the fields of `FIELDS`, at least a text or an image.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from trine.runtime.bulk.inputs.pdf_pages import PdfPage, render_page
from trine.runtime.errors import InputError
from trine.runtime.inputs import ImageText, Item, Prompt
from trine.runtime.preprocessing.image_base64 import decode_image_base64
from trine.runtime.preprocessing.load_image import load_image

__all__ = [
    "FIELDS",
    "InputRow",
    "check_text",
    "load_item",
    "object_from_json",
    "row_from_fields",
    "row_from_json",
]

#: Base64 of the smallest image files has about as many characters; shorter names are paths.
MIN_BASE64 = 48
FIELDS = ("id", "text", "image", "task", "prompt")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRow:
    """One item, its images not opened yet.

    Attributes:
        id: given, or made of the place.
        where: file and line, or file, for messages.
        text: or None.
        images: files, pages of PDFs and bytes of image files; empty for a text.
        task: of this item; None for that of the run.
        prompt: likewise.
    """

    id: str
    where: str
    text: str | None = None
    images: tuple[Path | PdfPage | bytes, ...] = ()
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
    content = object_from_json(line, where)
    unknown = sorted(set(content) - set(FIELDS))
    if unknown:
        raise InputError(f"{where}: fields {unknown} are unknown; known are {list(FIELDS)}")
    return row_from_fields(content, where, folder)


def object_from_json(line: str, where: str) -> dict[str, object]:
    """Return the object that a line of a .jsonl file holds.

    Raises:
        InputError: it is no JSON object.
    """
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as cause:
        raise InputError(f"{where}: not valid JSON ({cause}); write one object a line") from cause
    if not isinstance(content, dict):
        raise InputError(f'{where}: holds {line[:40]!r}; write an object such as {{"text": "…"}}')
    return content


def row_from_fields(content: Mapping[str, object], where: str, folder: Path) -> InputRow:
    """Return the item that the fields of a row describe.

    Args:
        content: of `FIELDS`; an image may be the bytes of its file, too.
        where: file and line.
        folder: that paths of images are relative to.

    Raises:
        InputError: a field is of the wrong kind, or an image's file does not exist.
    """
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
        images=_images(fields.get("image", []), where, folder),
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
            else load_image(image, _shown_place(row, image))
            for image in row.images
        ),
        row.text,
    )


def _shown_place(row: InputRow, image: Path | bytes) -> str:
    """Return what names an image in messages; one that is an input by itself is named by them."""
    alone = isinstance(image, Path) and row.where == str(image)
    return "image" if alone else row.where


def _string(fields: dict[str, object], name: str, where: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{where}: {name} is {value!r}; give a string")
    return value


def _images(value: object, where: str, folder: Path) -> tuple[Path | bytes, ...]:
    names = [value] if isinstance(value, str | bytes) else value
    if not isinstance(names, list):
        raise InputError(f"{where}: image is {repr(value)[:80]}; give a path or a list of paths")
    return tuple(_image(name, where, folder) for name in names)


def _image(name: object, where: str, folder: Path) -> Path | bytes:
    """Return the path, or the bytes of base64 or a data URI, which no file's name can be."""
    if isinstance(name, bytes):
        return name
    if not isinstance(name, str):
        raise InputError(f"{where}: image is {str(name)[:80]!r}; give a path, base64 or a data URI")
    if name[:5].lower() != "data:":
        path = folder / name
        if _is_file(path):
            return path
        if len(name) < MIN_BASE64:
            raise InputError(f"{where}: the image {str(path)!r} does not exist; check the path")
    try:
        return decode_image_base64(name)
    except InputError as cause:
        raise InputError(
            f"{where}: the image {name[:40]!r}… is neither a file that exists nor base64 nor a "
            "data URI; check the path or the encoding"
        ) from cause


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with a zero byte: base64, or damaged
        return False
