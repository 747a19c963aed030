"""Opens whatever a caller calls an image and returns its pixels.

As the published code does: the first frame of an animation, no rotation by EXIF, transparency
dropped rather than composited, every mode converted to RGB by Pillow (CMYK and palettes too).
Unlike
it: 16-bit greyscale is scaled to 8 bits instead of being clipped to white, and a text that looks
like a URL is refused instead of fetched.
"""

import io
import os
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trine.runtime.errors import DependencyError, InputError, missing_package
from trine.runtime.inputs import ImageSource
from trine.runtime.preprocessing.coded_size import is_heic
from trine.runtime.preprocessing.png_metadata import SIGNATURE, without_metadata

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["MAX_INPUT_PIXELS", "enable_heic", "load_image"]

#: Larger images are refused from their header, before they are decoded (Pillow's own bomb limit).
MAX_INPUT_PIXELS = 178_956_970
#: Of a file, that tell its format.
HEAD_BYTES = 12


def load_image(source: ImageSource, where: str = "the image") -> NDArray[np.uint8]:
    """Return uint8 [height, width, 3] RGB, C-order; it may share memory with an array given.

    Args:
        source: a path, the bytes of an image file, a file opened for them, a Pillow image, or
            uint8 [h, w], [h, w, 1], [h, w, 3] or [h, w, 4] (the fourth channel is dropped).
        where: names the image in messages, e.g. "image 3".

    Raises:
        InputError: the source is of another kind, cannot be read or decoded, or is too large.
        DependencyError: the file is HEIC, and pillow-heif is not installed.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, where)
    from PIL import Image

    if isinstance(source, Image.Image):
        return _decode(source, where)
    if isinstance(source, io.IOBase):
        source = _read_file(source, where)
    if isinstance(source, bytes | bytearray | memoryview):
        if not source:
            raise InputError(f"{where} is 0 bytes long; give the whole image file")
        data = bytes(source)
        head, label = data[:HEAD_BYTES], f"{where} ({len(source)} bytes)"
        file: io.BytesIO | str = io.BytesIO(without_metadata(data))
    elif isinstance(source, str | os.PathLike):
        file = os.fspath(source)
        if not isinstance(file, str):
            raise InputError(f"{where}: the path {file!r} is bytes; give it as str")
        label = f"{where} ({file!r})"
        _check_path(file, label)
        head, file = _without_png_metadata(file, label)
    else:
        raise InputError(
            f"{where} is a {type(source).__name__}; "
            "give a path, bytes, a Pillow image or a uint8 array, or a file opened for bytes"
        )
    with _open(file, head, label) as opened:
        return _decode(opened, label)


def _open(file: io.BytesIO | str, head: bytes, label: str) -> "Image.Image":
    from PIL import Image, UnidentifiedImageError

    try:
        enable_heic(head)
        return Image.open(file)
    except UnidentifiedImageError as cause:
        raise InputError(
            f"{label} is in no image format that Pillow knows; check that the file is an image"
        ) from cause
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as cause:
        raise InputError(
            f"{label} has more than {MAX_INPUT_PIXELS} pixels; shrink it first"
        ) from cause
    except (MemoryError, DependencyError):
        raise
    except Exception as cause:  # what Pillow's decoders raise is of every kind
        raise InputError(f"{label} cannot be opened: {cause}; check the file") from cause


def enable_heic(head: bytes) -> None:
    """Have Pillow read HEIC files from now on, if a file that begins with `head` is one.

    Raises:
        DependencyError: it is, and pillow-heif is not installed.
    """
    if not is_heic(head):
        return
    try:
        from pillow_heif import register_heif_opener
    except ImportError as cause:
        raise missing_package("pillow_heif", "heic", "to read HEIC images") from cause
    register_heif_opener()


def _read_file(file: io.IOBase, where: str) -> bytes:
    """Return what is left of an open file, which stays open."""
    try:
        data = file.read()
    except (OSError, ValueError, AttributeError) as cause:
        raise InputError(f"{where} cannot be read: {cause}; open it for reading first") from cause
    if not isinstance(data, bytes):
        raise InputError(f'{where} is a file opened for text; open it with mode "rb"')
    return data


def _without_png_metadata(path: str, label: str) -> tuple[bytes, io.BytesIO | str]:
    """Return how a file begins, and a PNG's bytes without metadata; the path of any other file."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
            if head.startswith(SIGNATURE):
                return head, io.BytesIO(without_metadata(head + file.read()))
            return head, path
    except OSError as cause:
        raise InputError(f"{label} cannot be opened: {cause}; check the file") from cause


def _check_path(path: str, label: str) -> None:
    if path.startswith(("http://", "https://")):
        raise InputError(f"{label} is a URL; download it first and give the path or the bytes")
    if not os.path.exists(path):
        raise InputError(f"{label} does not exist; check the path")
    if os.path.isdir(path):
        raise InputError(f"{label} is a folder; give the files in it")
    if os.path.getsize(path) == 0:
        raise InputError(f"{label} is 0 bytes long; give the whole image file")


def _from_array(array: NDArray[np.generic], where: str) -> NDArray[np.uint8]:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or 0 in array.shape:
        raise InputError(
            f"{where} is an array of {array.dtype} {list(array.shape)}; "
            "give uint8 [height, width, 3] in RGB"
        )
    pixels = array.astype(np.uint8, copy=False)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.shape[2] not in (1, 3, 4):
        raise InputError(
            f"{where} is an array {list(array.shape)}; the last axis holds 1, 3 or 4 channels"
        )
    _check_size(pixels.shape[1], pixels.shape[0], where)
    if pixels.shape[2] == 1:
        pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    return np.ascontiguousarray(pixels[:, :, :3])


def _check_size(width: int, height: int, label: str) -> None:
    if width < 1 or height < 1:
        raise InputError(f"{label} is {width}×{height} pixels; it has no content")
    if width * height > MAX_INPUT_PIXELS:
        raise InputError(
            f"{label} is {width}×{height} pixels, more than the limit of {MAX_INPUT_PIXELS}; "
            "shrink it first"
        )


def _decode(image: "Image.Image", label: str) -> NDArray[np.uint8]:
    _check_size(*image.size, label)
    try:
        if image.mode.startswith("I") or image.mode == "F":
            return _from_deep_grey(np.asarray(image), label)
        if image.mode == "P" and "transparency" in image.info:
            # The same colours; asked for directly, Pillow warns that transparency is lost.
            image = image.convert("RGBA")
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except (InputError, MemoryError):
        raise
    except Exception as cause:  # what Pillow's decoders raise is of every kind
        raise InputError(f"{label} cannot be decoded: {cause}; the file is damaged") from cause


def _from_deep_grey(values: NDArray[np.generic], label: str) -> NDArray[np.uint8]:
    """Return RGB of one-channel values deeper than 8 bits: 16-bit ones are scaled by 1/256."""
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 65535 and np.issubdtype(values.dtype, np.integer)):
        raise InputError(
            f"{label} holds {values.dtype} values from {low:g} to {high:g}; "
            "convert it to 8 or 16 bits per channel first"
        )
    grey = (values.astype(np.uint16) >> 8).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)
