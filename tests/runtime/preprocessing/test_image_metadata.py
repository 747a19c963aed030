"""Metadata of an image file does not decide about its pixels; open files are images as well."""

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from trine.runtime.errors import InputError
from trine.runtime.preprocessing.load_image import load_image
from trine.runtime.serving.media.image_source import ImageLimits, check_image

PIXELS = np.random.default_rng(3).integers(0, 256, (20, 30, 3), np.uint8)
BOMB = zlib.compress(bytes(50_000_000))


def chunk(name: bytes, content: bytes) -> bytes:
    check = zlib.crc32(name + content)
    return len(content).to_bytes(4, "big") + name + content + check.to_bytes(4, "big")


def png(*extra: bytes, behind: bool = False) -> bytes:
    """Return a PNG of PIXELS with chunks right behind the header, or before the end."""
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    data = file.getvalue()
    at = len(data) - 12 if behind else 33
    return data[:at] + b"".join(extra) + data[at:]


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"tEXt", b"k\0" + bytes(1_000_000)),
        chunk(b"zTXt", b"k\0\0" + BOMB),
        chunk(b"iTXt", b"k\0\1\0\0\0" + BOMB),
        chunk(b"iCCP", b"k\0\0" + BOMB),
        chunk(b"eXIf", b"no EXIF"),
        chunk(b"tEXt", b"k\0" + bytes(500_000)) * 200,
    ],
    ids=["text", "zTXt-bomb", "iTXt-bomb", "profile-bomb", "broken-exif", "many-texts"],
)
def test_metadata_of_a_png_is_passed_over(tmp_path: Path, extra: bytes, behind: bool) -> None:
    data = png(extra, behind=behind)
    path = tmp_path / "image.png"
    path.write_bytes(data)
    np.testing.assert_array_equal(load_image(data), PIXELS)
    np.testing.assert_array_equal(load_image(path), PIXELS)
    check_image(data, ImageLimits(max_bytes=len(data), max_pixels=600))


def test_a_damaged_png_is_still_refused() -> None:
    data = png(chunk(b"tEXt", b"k\0v"))
    with pytest.raises(InputError):
        load_image(data[: len(data) // 2])


def test_colours_of_a_palette_and_its_transparency_are_kept() -> None:
    image = Image.fromarray(PIXELS).quantize(8)
    file, info = io.BytesIO(), PngImagePlugin.PngInfo()
    info.add_text("k", "v" * 100)
    image.save(file, "PNG", transparency=0, pnginfo=info)
    np.testing.assert_array_equal(load_image(file.getvalue()), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF"])
def test_broken_exif_and_large_profiles_of_other_formats_are_passed_over(kind: str) -> None:
    plain, file = io.BytesIO(), io.BytesIO()
    Image.fromarray(PIXELS).save(plain, kind)
    Image.fromarray(PIXELS).save(file, kind, icc_profile=bytes(2_000_000))
    np.testing.assert_array_equal(load_image(file.getvalue()), load_image(plain.getvalue()))
    if kind == "TIFF":
        return
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, kind, exif=b"Exif\0\0broken", xmp=bytes(60_000))
    np.testing.assert_array_equal(load_image(file.getvalue()), load_image(plain.getvalue()))


def test_open_files_are_images(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(png())
    np.testing.assert_array_equal(load_image(io.BytesIO(png())), PIXELS)
    with path.open("rb") as file:
        np.testing.assert_array_equal(load_image(file), PIXELS)
        assert not file.closed
    with pytest.raises(InputError, match="open it for reading"):
        load_image(file)
    with path.open(encoding="latin-1") as text, pytest.raises(InputError, match='mode "rb"'):
        load_image(text)
