"""Images: what is read as what, and what is refused before it costs memory or time."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from trine.runtime.embedder import Embedder
from trine.runtime.errors import InputError
from trine.runtime.inputs import ImageText
from trine.runtime.preprocessing.load_image import MAX_INPUT_PIXELS, load_image

Pixels = NDArray[np.uint8]


def noise(*shape: int) -> Pixels:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """Return a PNG of any size whose pixels are missing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\x00" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def refuse(source: object, *fragments: str) -> None:
    with warnings.catch_warnings(record=True), pytest.raises(InputError) as caught:
        load_image(source, "image 3")
    message = str(caught.value)
    assert message.startswith("image 3")
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message


def dds_of_no_format() -> bytes:
    """Return a file for which Pillow raises an error that is neither OSError nor ValueError."""
    content = bytearray(encoded(Image.fromarray(noise(64, 64, 3)), "DDS"))
    content[80:84] = bytes(4)  # the flags of its pixel format
    return bytes(content)


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, bytes], Path]:
    """Writes a file."""

    def write(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize(
    ("content", "fragments"),
    [
        (b"", ("0 bytes long", "give the whole image file")),
        (b"This is no image.\n", ("in no image format that Pillow knows", "check that")),
        (b"<html><body>404</body></html>", ("in no image format", "check that")),
        (png_header(50_000, 50_000), ("pixels", str(MAX_INPUT_PIXELS), "shrink it first")),
        (png_header(15_000, 12_000), ("pixels", str(MAX_INPUT_PIXELS), "shrink it first")),
        (png_header(64, 64), ("cannot be decoded", "the file is damaged")),
        (png_header(0, 64), ()),
        (dds_of_no_format(), ("cannot be opened", "check the file")),
        (encoded(Image.fromarray(noise(64, 64, 3)), "JPEG")[:900], ("cannot be decoded",)),
        (encoded(Image.fromarray(noise(64, 64, 3)), "PNG")[:900], ("cannot be decoded",)),
        (encoded(Image.fromarray(noise(64, 64, 3)), "GIF")[:60], ("image 3",)),
        (encoded(Image.fromarray(noise(64, 64, 3)), "WEBP")[:200], ("image 3",)),
    ],
    ids=[
        "empty",
        "text",
        "html",
        "bomb",
        "almost-bomb",
        "no-pixels",
        "no-width",
        "dds-of-no-format",
        "jpeg",
        "png",
        "gif",
        "webp",
    ],
)
def test_file_that_is_no_whole_image(
    content: bytes, fragments: tuple[str, ...], as_bytes: bool, file: Callable[..., Path]
) -> None:
    source = content if as_bytes else file("image.png", content)
    name = f"({len(content)} bytes)" if as_bytes else "image.png"
    refuse(source, *([] if as_bytes and not content else [name]), *fragments)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_any_truncation_is_refused_or_read(kind: str) -> None:
    """Never another exception, whatever byte a download stopped at."""
    whole = encoded(Image.fromarray(noise(24, 24, 3)), kind)
    outcomes = set()
    for end in range(1, len(whole), max(1, len(whole) // 150)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of a truncated file and raises later
            try:
                outcomes.add(load_image(whole[:end]).shape)
            except InputError as error:
                outcomes.add("\n" in str(error))
    assert outcomes <= {False, (24, 24, 3)}
    assert False in outcomes


def test_path_to_nothing(tmp_path: Path) -> None:
    refuse(tmp_path / "nowhere.png", "nowhere.png", "does not exist", "check the path")
    refuse(str(tmp_path / "nowhere.png"), "nowhere.png", "does not exist", "check the path")


def test_folder(tmp_path: Path) -> None:
    refuse(tmp_path, str(tmp_path), "is a folder", "give the files in it")


@pytest.mark.parametrize("url", ["https://example.org/a.png", "http://example.org/a.png"])
def test_url_is_not_fetched(url: str) -> None:
    refuse(url, url, "is a URL", "download it first")


@pytest.mark.parametrize("source", ["data:image/png;base64,AAAA", "", "a\0b", "a" * 5000])
def test_string_that_is_no_path(source: str) -> None:
    refuse(source, "image 3")


@pytest.mark.parametrize(
    "source",
    [None, 5, 1.5, {"image": 1}, [[1, 2]], object, ImageText(("a.png",))],
    ids=repr,
)
def test_object_of_another_kind(source: Any) -> None:
    refuse(source, f"is a {type(source).__name__}", "give a path, bytes, a Pillow image or a uint8")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.float64),
        np.zeros((8, 8, 3), np.int64),
        np.zeros((8, 8, 3), np.uint16),
        np.zeros((8, 8, 3), np.bool_),
        np.zeros((8,), np.uint8),
        np.zeros((), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 0, 3), np.uint8),
        np.zeros((8, 8, 0), np.uint8),
        np.zeros((8, 8, 2), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((8, 8, 5), np.uint8),
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
def test_array_of_another_dtype_or_shape(array: NDArray[Any]) -> None:
    refuse(array, "is an array", str(list(array.shape)))


def test_array_of_too_many_pixels() -> None:
    """A view of one pixel: nothing of the size is made to find that out."""
    array = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (50_000, 50_000, 3))
    refuse(array, "50000×50000 pixels", str(MAX_INPUT_PIXELS), "shrink it first")


def test_arrays_are_read_by_channel() -> None:
    pixels = noise(9, 7, 4)
    np.testing.assert_array_equal(load_image(pixels), pixels[:, :, :3])
    np.testing.assert_array_equal(load_image(pixels[:, :, :3]), pixels[:, :, :3])
    grey = np.repeat(pixels[:, :, :1], 3, axis=2)
    np.testing.assert_array_equal(load_image(pixels[:, :, 0]), grey)
    np.testing.assert_array_equal(load_image(pixels[:, :, :1]), grey)


def test_arrays_of_any_strides_are_read() -> None:
    pixels = noise(20, 16, 3)
    for view in (pixels[::-1], pixels[:, ::2], pixels.transpose(1, 0, 2), pixels[:, :, ::-1]):
        np.testing.assert_array_equal(load_image(view), view)
        assert load_image(view).flags["C_CONTIGUOUS"]


def test_path_bytes_image_and_array_give_the_same_pixels(file: Callable[..., Path]) -> None:
    pixels = noise(13, 11, 3)
    image = Image.fromarray(pixels)
    content = encoded(image, "PNG")
    path = file("a.png", content)
    for source in (
        path,
        str(path),
        content,
        bytearray(content),
        memoryview(content),
        image,
        pixels,
    ):
        found = load_image(source)
        assert (found.dtype, found.flags["C_CONTIGUOUS"]) == (np.uint8, True)
        np.testing.assert_array_equal(found, pixels)


def test_a_suffix_says_nothing(file: Callable[..., Path]) -> None:
    pixels = noise(8, 8, 3)
    path = file("a.txt", encoded(Image.fromarray(pixels), "PNG"))
    np.testing.assert_array_equal(load_image(path), pixels)


def test_animation_is_its_first_frame() -> None:
    frames = [Image.new("RGB", (12, 10), colour) for colour in ("red", "lime", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)
    assert Image.open(io.BytesIO(content)).n_frames == 3
    np.testing.assert_array_equal(load_image(content), np.asarray(frames[0]))


def test_cmyk_is_converted() -> None:
    content = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)
    pixels = load_image(content)
    assert pixels.shape == (8, 8, 3)
    np.testing.assert_allclose(pixels[0, 0], (255, 0, 0), atol=6)


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr", "LAB", "HSV", "RGBX", "RGBa"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.fromarray(noise(6, 5, 3))
    if mode == "RGBa":
        image = image.convert("RGBA")
    elif mode == "LAB":
        image = Image.new("LAB", (5, 6), (128, 128, 128))
    image = image.convert(mode)
    pixels = load_image(image)
    assert pixels.shape == (6, 5, 3)
    assert pixels.dtype == np.uint8


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.array([[0, 255, 256, 32768], [40000, 65279, 65280, 65535]], np.uint16)
    pixels = load_image(encoded(Image.fromarray(values), "PNG"))
    assert pixels[:, :, 0].tolist() == [[0, 0, 1, 128], [156, 254, 255, 255]]
    assert (pixels == pixels[:, :, :1]).all()
    np.testing.assert_array_equal(load_image(encoded(Image.fromarray(values), "TIFF")), pixels)


def test_thirty_two_bits_are_read_as_sixteen_where_they_fit() -> None:
    values = np.array([[0, 256, 65535]], np.int32)
    assert load_image(Image.fromarray(values))[0, :, 0].tolist() == [0, 1, 255]
    refuse(Image.fromarray(np.array([[65536]], np.int32)), "from 65536 to 65536", "convert it to 8")
    refuse(Image.fromarray(np.array([[-1]], np.int32)), "from -1 to -1", "convert it to 8")


def test_float_images_are_refused() -> None:
    refuse(Image.fromarray(np.ones((4, 4), np.float32)), "float32 values from 1 to 1", "convert it")


def test_exif_does_not_rotate() -> None:
    """As the published code: what a camera stored is what is seen."""
    pixels = noise(8, 16, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    content = encoded(Image.fromarray(pixels), "PNG", exif=exif)
    assert Image.open(io.BytesIO(content)).getexif()[0x0112] == 6
    np.testing.assert_array_equal(load_image(content), pixels)


def test_transparency_is_dropped() -> None:
    pixels = noise(8, 8, 4)
    content = encoded(Image.fromarray(pixels, "RGBA"), "PNG")
    np.testing.assert_array_equal(load_image(content), pixels[:, :, :3])
    grey = Image.fromarray(pixels[:, :, 0]).copy()
    grey.putalpha(Image.fromarray(pixels[:, :, 3]))
    assert grey.mode == "LA"
    want = np.repeat(pixels[:, :, :1], 3, axis=2)
    np.testing.assert_array_equal(load_image(encoded(grey, "PNG")), want)


@pytest.mark.parametrize("transparency", [1, b"\x00\x80\xff"])
def test_palette_with_transparency_has_the_palettes_colours(transparency: int | bytes) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    content = encoded(image, "PNG", transparency=transparency)
    assert "transparency" in Image.open(io.BytesIO(content)).info
    assert load_image(content)[0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_closed_pillow_image() -> None:
    image = Image.open(io.BytesIO(encoded(Image.fromarray(noise(8, 8, 3)), "PNG")))
    image.close()
    refuse(image, "image 3")


def test_a_pillow_image_stays_open_and_unchanged() -> None:
    image = Image.fromarray(noise(8, 8, 4), "RGBA")
    before = image.tobytes()
    load_image(image)
    assert (image.mode, image.tobytes()) == ("RGBA", before)


def test_no_memory_is_no_fault_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(MemoryError):
        load_image(b"any")


@pytest.fixture(scope="module")
def embedder(golden_bundle: Path) -> Embedder:
    return Embedder.load(golden_bundle, threads=1)


@pytest.mark.parametrize("shape", [(1, 201, 3), (402, 2, 3)])
def test_image_too_long_for_its_width(embedder: Embedder, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"image 1: .* longer than 200 times .*; crop or pad it"):
        embedder.encode_image([noise(8, 8, 3), noise(*shape)], "code")
    with pytest.raises(InputError, match=r"image 1, image 1: .* longer than 200 times"):
        embedder.encode(["a", ImageText((noise(8, 8, 3), noise(*shape)))], "code")


def test_smallest_and_longest_images(embedder: Embedder) -> None:
    vectors = embedder.encode_image([noise(1, 1, 3), noise(1, 200, 3), noise(200, 1, 3)], "code")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_message_names_the_image(embedder: Embedder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^image 2 \('.*nowhere.png'\) does not exist"):
        embedder.encode_image([noise(8, 8, 3)] * 2 + [tmp_path / "nowhere.png"], "code")
