"""Shows what a row of a dataset was made of, where its source is still there."""

import io
import json
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from trine.runtime.bulk.inputs.file_kinds import LINES, TABLES, kind_of, open_lines
from trine.runtime.bulk.inputs.pdf_pages import PdfPage, render_page
from trine.runtime.errors import DependencyError, InputError
from trine.runtime.preprocessing.load_image import load_image

if TYPE_CHECKING:
    from trine.runtime.bulk.search import Hit

__all__ = ["excerpt", "thumbnail"]

#: Columns that show what a row is about, the first that is there.
TEXT_COLUMNS = ("text", "title", "body", "content", "caption")
#: Longer side of a drawn image, in pixels, and resolution of a drawn page.
SIDE, PAGE_DPI = 320, 60


def excerpt(hit: "Hit") -> str | None:
    """Return a row's text, from its columns or its source's line; None if neither has it."""
    for name in TEXT_COLUMNS:
        value = hit.columns.get(name)
        if isinstance(value, str):
            return value
    path = Path(hit.source)
    if kind_of(path) not in LINES:
        return None
    with suppress(InputError, DependencyError, ValueError):
        with open_lines(path) as file:
            line = next(islice(file, hit.row - 1, None), b"").decode("utf-8-sig")
        if kind_of(path) != ".jsonl":
            return line
        record = json.loads(line)
        return next((record[name] for name in TEXT_COLUMNS if record.get(name)), None)
    return None


def thumbnail(hit: "Hit") -> bytes | None:
    """Return a small JPEG of the image or the PDF page that a row was; None if it was none."""
    from PIL import Image

    path = Path(hit.source)
    if kind_of(path) in (*LINES, *TABLES):
        return None
    try:
        pixels = (
            render_page(PdfPage(path, hit.row - 1, PAGE_DPI))
            if kind_of(path) == ".pdf"
            else load_image(path)
        )
    except (InputError, DependencyError):
        return None  # moved since, or of a kind that needs a password or a package
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    return data.getvalue()
