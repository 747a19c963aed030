"""Pages of PDF files as images, through pypdfium2 (the extra `pdf`)."""

from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from trine.runtime.errors import InputError, missing_package
from trine.runtime.preprocessing.load_image import MAX_INPUT_PIXELS

__all__ = ["PdfPage", "count_pages", "render_page"]

#: PDF lengths are in points, of which an inch has so many.
POINTS_PER_INCH = 72


@dataclass(frozen=True, slots=True)
class PdfPage:
    """One page, yet to be drawn.

    Attributes:
        path: of the PDF file.
        index: of the page, from 0.
        dpi: pixels an inch to draw it with.
        password: that opens the file; None for none.
    """

    path: Path
    index: int
    dpi: int
    password: str | None = field(default=None, repr=False)


def count_pages(path: Path, password: str | None = None) -> int:
    """Return the number of pages of a PDF file.

    Args:
        path: of the file.
        password: that opens it; a file that needs none is opened all the same.

    Raises:
        InputError: the file is no PDF that can be opened, e.g. needs a password.
        DependencyError: pypdfium2 is not installed.
    """
    pdfium = _import_pdfium()
    try:
        with closing(pdfium.PdfDocument(path, password=password)) as document:
            return len(document)
    except (pdfium.PdfiumError, OSError) as cause:
        # Versions before 5 say it in words only.
        encrypted = pdfium.raw.FPDF_ERR_PASSWORD
        if getattr(cause, "err_code", None) == encrypted or "password" in str(cause).lower():
            fault = "is encrypted" if password is None else "is not opened by the password given"
            raise InputError(
                f"{path}: {fault}; give its password with --pdf-password or in TRINE_PDF_PASSWORD"
            ) from cause
        raise InputError(
            f"{path}: cannot be opened as a PDF ({cause}); the file is damaged or no PDF"
        ) from cause


def render_page(page: PdfPage) -> NDArray[np.uint8]:
    """Return uint8 [height, width, 3] RGB, C-order: the page on white, forms filled in as they are.

    Raises:
        InputError: the page cannot be drawn, or has too many pixels.
        DependencyError: pypdfium2 is not installed.
    """
    pdfium = _import_pdfium()
    where = f"{page.path}#page={page.index + 1}"
    scale = page.dpi / POINTS_PER_INCH
    try:
        # Opened for each page: it takes little time, and no open file outlives the page.
        with closing(pdfium.PdfDocument(page.path, password=page.password)) as document:
            document.init_forms()
            sheet = document[page.index]
            width, height = (round(side * scale) for side in sheet.get_size())
            if width * height > MAX_INPUT_PIXELS:
                raise InputError(
                    f"{where} is {width}×{height} pixels at {page.dpi} dpi, more than the limit of "
                    f"{MAX_INPUT_PIXELS}; give a smaller --dpi"
                )
            return np.array(sheet.render(scale=scale).to_pil().convert("RGB"))
    except (pdfium.PdfiumError, OSError) as cause:
        raise InputError(f"{where}: cannot be drawn ({cause}); check the file") from cause


def _import_pdfium() -> ModuleType:
    try:
        import pypdfium2
    except ImportError as cause:
        raise missing_package("pypdfium2", "pdf", "to read PDF files") from cause
    module: ModuleType = pypdfium2
    return module
