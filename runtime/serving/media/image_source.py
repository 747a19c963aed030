"""Turns what a request calls an image into the bytes of a file that is safe to decode.

The checks here read the file's header only. An image that passes has a format, a size and a number
of scans within bounds, so that decoding its first frame takes bounded memory and time; whether its
pixels are intact shows when it is decoded.
"""

import asyncio
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trine.runtime.errors import DependencyError, InputError
from trine.runtime.preprocessing.coded_size import coded_sizes, is_iso_media
from trine.runtime.preprocessing.image_base64 import decode_image_base64
from trine.runtime.preprocessing.load_image import enable_heic
from trine.runtime.preprocessing.png_metadata import without_metadata
from trine.runtime.serving.media.url_fetch import UrlFetcher
from trine.runtime.serving.service.calls import ServiceError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["FORMATS", "ImageLimits", "check_image", "decode_base64", "is_url", "read_image"]

#: Formats of files that begin as ISO's base media do, and those of all others.
ISO_FORMATS = ("AVIF", "HEIF")
PLAIN_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
#: Formats that requests may use; those of ISO where Pillow can read them.
FORMATS = PLAIN_FORMATS + ISO_FORMATS
#: Pixels on each side by which a codec may pad a frame.
PADDING = 64
#: Tags of the width and the height of a TIFF's tiles, which are decoded whole.
TILE_TAGS = (322, 323)
#: Scans of a progressive JPEG, which cost decoding time of the whole image each: 31 bytes buy
#: 9 ms at 16 megapixels. Encoders write about 10, and a thumbnail in the metadata some more.
MAX_JPEG_SCANS = 100
#: Characters before the base64 of a data URI, at most.
MAX_URI_HEAD = 1_200


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """How large an image of a request may be.

    Attributes:
        max_bytes: of its file.
        max_pixels: width × height that its header declares; above 178,956,970 that number holds.
    """

    max_bytes: int
    max_pixels: int


def is_url(source: str | bytes) -> bool:
    """Return whether `read_image` would fetch an image."""
    return isinstance(source, str) and source[:8].lower().startswith(("http://", "https://"))


async def read_image(source: str | bytes, limits: ImageLimits, fetcher: UrlFetcher | None) -> bytes:
    """Return the bytes of an image file in one of `FORMATS`, within the limits.

    Args:
        source: a data URI, base64 (standard or URL-safe alphabet, padded or not), an http or https
            URL, or the bytes of the file.
        limits: of size.
        fetcher: for URLs; None refuses them.

    Raises:
        ServiceError: 413 the file or the image is too large; 422 it is not an image of a known
            format, not decodable as base64, or the URL is refused or does not answer.
    """
    if isinstance(source, str) and is_url(source):
        if fetcher is None:
            raise ServiceError(
                422,
                "image_url_disabled",
                "this server fetches no URLs; send the image itself, as base64 or a data URI",
            )
        source = await fetcher.fetch(source, limits.max_bytes)
    # In a thread: 20 MB of base64 and a header full of metadata take tens of milliseconds.
    return await asyncio.to_thread(_read, source, limits)


def _read(source: str | bytes, limits: ImageLimits) -> bytes:
    data = decode_base64(source, limits.max_bytes) if isinstance(source, str) else source
    check_image(data, limits)
    return data


def decode_base64(source: str, max_bytes: int) -> bytes:
    """Return the bytes of a data URI or of bare base64.

    Args:
        source: `data:…;base64,…`, or base64 of the standard or the URL-safe alphabet; padding may
            be missing and white space is skipped.
        max_bytes: of what comes out; far more is refused before decoding.

    Raises:
        ServiceError: 413 it is larger; 422 it is not base64.
    """
    # Even were a quarter of it line ends, and its head as long as heads may be, more than the limit
    # would be left.
    if (len(source) - MAX_URI_HEAD) * 3 // 4 > max_bytes * 2 + 4:
        raise _too_many_bytes(len(source) * 3 // 4, max_bytes)
    try:
        data = decode_image_base64(source)
    except InputError as cause:
        raise _unusable(str(cause)) from cause
    if len(data) > max_bytes:
        raise _too_many_bytes(len(data), max_bytes)
    return data


def check_image(data: bytes, limits: ImageLimits) -> None:
    """Check an image file by its header, decoding no pixels.

    Args:
        data: the whole file.
        limits: that it must be within.

    Raises:
        ServiceError: 413 it has too many bytes or pixels; 422 it is in no format of `FORMATS`, has
            no pixels, or too many scans.
    """
    from PIL import Image, UnidentifiedImageError

    if len(data) > limits.max_bytes:
        raise _too_many_bytes(len(data), limits.max_bytes)
    try:
        with Image.open(io.BytesIO(without_metadata(data)), formats=_formats(data)) as opened:
            (width, height), name = opened.size, opened.format
            coded = _coded_sizes(opened, data)
    except DependencyError as cause:
        raise _unusable(f"this server reads no HEIC images: {cause}") from cause
    except UnidentifiedImageError as cause:
        raise _unusable(
            f"the {len(data)} bytes are no image in one of the formats {', '.join(FORMATS)}"
        ) from cause
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as cause:
        raise _too_many_pixels("far too many", limits) from cause
    except Exception as cause:
        raise _unusable(f"the image cannot be opened: {cause}") from cause
    if width < 1 or height < 1:
        raise _unusable(f"the image is {width}×{height} pixels; it has no content")
    for shown in ((width, height), *coded):
        if math.prod(shown) > limits.max_pixels:
            raise _too_many_pixels(f"{shown[0]}×{shown[1]}", limits)
    # Within scans the byte 0xFF is always followed by others, so only metadata counts falsely.
    if name in ("JPEG", "MPO") and data.count(b"\xff\xda") > MAX_JPEG_SCANS:
        raise _unusable(f"the JPEG has more than {MAX_JPEG_SCANS} scans; save it anew as baseline")


def _formats(data: bytes) -> tuple[str, ...]:
    """Return the formats that a file may be in; most plugins of Pillow are left unread."""
    from PIL import Image

    if not is_iso_media(data):
        return PLAIN_FORMATS
    enable_heic(data)
    Image.init()
    return tuple(name for name in ISO_FORMATS if name in Image.OPEN)


def _coded_sizes(opened: "Image.Image", data: bytes) -> list[tuple[int, int]]:
    """Return the sizes that are decoded where they may be larger than the image, less padding."""
    from PIL.TiffImagePlugin import TiffImageFile

    if isinstance(opened, TiffImageFile):
        width, height = (opened.tag_v2.get(tag, 0) for tag in TILE_TAGS)
        return [(width, height)]
    if opened.format in ISO_FORMATS:
        return [(max(w - PADDING, 0), max(h - PADDING, 0)) for w, h in coded_sizes(data)]
    return []


def _unusable(what: str) -> ServiceError:
    return ServiceError(422, "invalid_image", what)


def _too_many_bytes(size: int, limit: int) -> ServiceError:
    return ServiceError(
        413,
        "image_too_large",
        f"the image file is {size} bytes, more than the limit of {limit}; shrink it",
    )


def _too_many_pixels(shown: str, limits: ImageLimits) -> ServiceError:
    return ServiceError(
        413,
        "image_too_large",
        f"the image has {shown} pixels, more than the limit of {limits.max_pixels}; shrink it",
    )
