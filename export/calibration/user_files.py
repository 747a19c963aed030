"""Calibration inputs of the user's own: a file of texts or paths of images, or a folder."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trine.export.calibration.inputs import CalibrationSet, CalibrationText, built_in_calibration
from trine.runtime.bulk.inputs.files import Inputs, read_rows
from trine.runtime.bulk.inputs.items import InputRow
from trine.runtime.bulk.inputs.pdf_pages import PdfPage, render_page
from trine.runtime.errors import InputError
from trine.runtime.preprocessing.load_image import load_image

__all__ = ["read_calibration"]

#: More inputs than these make an export long and its scales no better.
MAX_TEXTS, MAX_IMAGES = 1_000, 200
#: Some 5,000 tokens of English; the reference's attention grows with the square of them.
MAX_CHARACTERS = 20_000
#: Pages of PDFs are drawn at this resolution, which exceeds what the model takes of a page.
DPI = 96


def read_calibration(path: Path) -> CalibrationSet:
    """Return the texts and images of a file or folder.

    A .txt file holds a text a line; a .jsonl file an object a line with `text`, `image` (a path
    relative to the file, or several) and `prompt` ("query" or "passage"; "passage" if it is left
    out); other files are images or PDFs. Of a folder all files are read, those in folders below
    too, in the order of their paths; files whose name begins with a dot are passed over, as are
    empty texts. If there are only texts, or only images, the small built-in set stands in for
    the others, and `source` says so.

    Args:
        path: of a file or folder.

    Raises:
        InputError: it cannot be read, holds nothing or too much, or a text is too long.
        DependencyError: a PDF is among the files and pypdfium2 is not installed.
    """
    texts: list[CalibrationText] = []
    images: list[NDArray[np.uint8]] = []
    inputs = Inputs(texts=(), names=_names(path), stdin=io.BytesIO(), dpi=DPI)
    for row in read_rows(inputs):
        if row.text:
            texts.append(_text(row, row.text))
        images += [_image(image, row.where) for image in row.images]
        _check_count(path, "texts", len(texts), MAX_TEXTS)
        _check_count(path, "images", len(images), MAX_IMAGES)
    if not texts and not images:
        raise InputError(f"{path}: holds no text and no image to calibrate with; add some")
    spare = built_in_calibration("small")
    missing = [name for name, found in (("texts", texts), ("images", images)) if not found]
    return CalibrationSet(
        source=f"{path}" + "".join(f", {name} built in" for name in missing),
        texts=tuple(texts) or spare.texts,
        images=tuple(images) or spare.images,
    )


def _names(path: Path) -> tuple[str, ...]:
    if not path.exists():
        raise InputError(f"the calibration inputs {str(path)!r} do not exist; check the path")
    if not path.is_dir():
        return (str(path),)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    hidden = [any(part.startswith(".") for part in f.relative_to(path).parts) for f in files]
    return tuple(str(file) for file, skip in zip(files, hidden, strict=True) if not skip)


def _text(row: InputRow, text: str) -> CalibrationText:
    if len(text) > MAX_CHARACTERS:
        raise InputError(
            f"{row.where}: the text has {len(text)} characters; calibration takes up to "
            f"{MAX_CHARACTERS}, shorten it"
        )
    return CalibrationText(text, row.prompt or "passage")


def _image(image: Path | PdfPage | bytes, where: str) -> NDArray[np.uint8]:
    return render_page(image) if isinstance(image, PdfPage) else load_image(image, where)


def _check_count(path: Path, what: str, count: int, limit: int) -> None:
    if count > limit:
        raise InputError(f"{path}: holds more than {limit} {what} to calibrate with; give fewer")
