"""Images of requests: how they may be written, and that bombs are refused by their headers."""

import asyncio
import base64
import io
import struct
import sys
import time
import tracemalloc
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.runtime.serving.image_servers import (
    PUBLIC,
    RecordingNetwork,
    Resolver,
    fetcher,
    image,
    reply,
    serving,
)
from trine.runtime.errors import DependencyError, InputError
from trine.runtime.preprocessing.coded_size import coded_sizes
from trine.runtime.preprocessing.load_image import load_image
from trine.runtime.serving.media.image_source import (
    PADDING,
    ImageLimits,
    check_image,
    read_image,
)
from trine.runtime.serving.service.calls import ServiceError

LIMITS = ImageLimits(max_bytes=2_000_000, max_pixels=1_000_000)


def read(source: str | bytes, limits: ImageLimits = LIMITS) -> bytes:
    return asyncio.run(read_image(source, limits, None))


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


PNG = image()
#: Bytes whose base64 has both characters in which the alphabets differ.
JPEG = image(form="JPEG")


@pytest.mark.parametrize(
    "source",
    [
        PNG,
        encoded(PNG),
        encoded(PNG).rstrip("="),
        base64.urlsafe_b64encode(PNG).decode(),
        base64.encodebytes(PNG).decode(),
        f"data:image/png;base64,{encoded(PNG)}",
        f"DATA:image/PNG;BASE64,{encoded(PNG)}",
        f"data:image/png;name=a.png;base64,{encoded(PNG)}",
        f"data:;base64,{encoded(PNG)}",
        f"data:image/jpeg;base64,{encoded(PNG)}",
    ],
)
def test_every_spelling_of_a_image_gives_its_bytes(source: str | bytes) -> None:
    assert read(source) == PNG


@given(st.binary(max_size=300))
def test_both_alphabets_with_and_without_padding_decode_alike(data: bytes) -> None:
    from trine.runtime.serving.media.image_source import decode_base64

    for text in (base64.b64encode(data), base64.urlsafe_b64encode(data)):
        assert decode_base64(text.decode(), 300) == data
        assert decode_base64(text.rstrip(b"=").decode(), 300) == data


def needs(form: str) -> None:
    """Skip where Pillow cannot write a format."""
    if form == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    if form not in Image.registered_extensions().values():
        pytest.skip(f"Pillow was built without {form}")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"])
def test_formats_of_the_list_are_taken(form: str) -> None:
    needs(form)
    data = image(form=form)
    assert read(data) == data
    assert load_image(data).shape == (6, 8, 3)


@pytest.mark.parametrize("form", ["ICO", "PPM", "TGA", "PDF", "EPS", "JPEG2000"])
def test_other_formats_are_refused(form: str) -> None:
    with pytest.raises(ServiceError) as caught:
        read(image(form=form, size=(16, 16)))
    assert (caught.value.status, caught.value.code) == (422, "invalid_image")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("form", ["AVIF", "HEIF"])
def test_the_coded_frames_are_read_from_the_codecs_own_header(form: str, mode: str) -> None:
    needs(form)
    found = coded_sizes(image(form=form, mode=mode, size=(200, 75)))
    assert len(found) == 1 + (mode == "RGBA")
    for width, height in found:
        assert 200 <= width < 200 + PADDING
        assert 75 <= height < 75 + PADDING


@pytest.mark.parametrize("form", ["AVIF", "HEIF"])
def test_a_frame_larger_than_its_file_declares_is_refused(form: str) -> None:
    """Pillow believes the container, and the decoder makes room for what the codec says."""
    needs(form)
    data = image(form=form, size=(2048, 1024))
    at = data.index(b"ispe") + 8
    lie = data[:at] + struct.pack(">II", 16, 16) + data[at + 8 :]
    with Image.open(io.BytesIO(lie)) as opened:
        assert opened.size == (16, 16)
    with pytest.raises(ServiceError, match="pixels, more than the limit") as caught:
        read(lie)
    assert caught.value.status == 413


@pytest.mark.parametrize("form", ["AVIF", "HEIF"])
def test_damage_of_its_boxes_is_one_sentence(form: str) -> None:
    needs(form)
    data = image(form=form, size=(64, 64))
    for at in range(12, len(data), 7):
        for change in (data[:at], data[:at] + b"\xff" + data[at + 1 :]):
            with suppress(ServiceError):
                read(change)
            with suppress(ValueError):
                coded_sizes(change)


def test_a_tiff_whose_tiles_are_larger_than_its_image_is_refused() -> None:
    entries = [(256, 16), (257, 16), (258, 8), (259, 1), (262, 1), (322, 65536), (323, 4096)]
    entries += [(324, 8), (325, 1)]
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    data = b"II*\0" + struct.pack("<IH", 8, len(entries)) + fields + b"\0" * 4
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.size == (16, 16)
    with pytest.raises(ServiceError, match="65536×4096 pixels"):
        read(data)


def test_without_its_package_a_heic_image_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    data = b"\0\0\0\x18ftypheic" + b"\0" * 12
    with pytest.raises(ServiceError, match=r"trine\[heic\]") as caught:
        read(data)
    assert caught.value.status == 422
    with pytest.raises(DependencyError, match=r"trine\[heic\]"):
        load_image(data)


@pytest.mark.parametrize(
    "source",
    [
        "",
        b"",
        "not base64 at all!",
        "bücher",
        "data:image/png,plain",
        "data:image/png;base64",
        "data:" + ";" * 10_000,
        "/etc/passwd",
        "file:///etc/passwd",
        "ftp://img.example/a.png",
        encoded(b"%PDF-1.7 and more"),
        encoded(b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"GIF89a",
        b"RIFF\x00\x00\x00\x00WEBPVP8 ",
        b"BM" + b"\0" * 60,
        b"\0" * 1000,
    ],
)
def test_what_is_no_image_is_refused(source: str | bytes) -> None:
    with pytest.raises(ServiceError) as caught:
        read(source)
    assert (caught.value.status, caught.value.code) == (422, "invalid_image")


def test_urls_are_refused_unless_there_is_a_fetcher() -> None:
    with pytest.raises(ServiceError) as caught:
        read("https://img.example/a.png")
    assert (caught.value.status, caught.value.code) == (422, "image_url_disabled")


def test_a_url_is_fetched_and_its_image_checked() -> None:
    async def run(body: bytes) -> bytes:
        async with serving({"/a.png": reply(body)}) as port:
            source = fetcher(RecordingNetwork(port), Resolver({"img.example": (PUBLIC,)}))
            return await read_image("HTTP://img.example/a.png", LIMITS, source)

    assert asyncio.run(run(PNG)) == PNG
    with pytest.raises(ServiceError, match="no image"):
        asyncio.run(run(b"<html>"))
    with pytest.raises(ServiceError, match="pixels"):
        asyncio.run(run(png_header(60_000, 60_000)))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int, more: bytes = b"") -> bytes:
    """Return a PNG that declares a size and has the pixels of none."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + more
        + chunk(b"IDAT", pixels)
        + chunk(b"IEND", b"")
    )


def zeros(size: int) -> bytes:
    """Return `size` zero bytes, compressed a thousandfold."""
    return zlib.compress(b"\0" * size, 9)


def gif_header(width: int, height: int, frame: tuple[int, int]) -> bytes:
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    image = b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + screen + image + b";"


def jpeg_size(width: int, height: int) -> bytes:
    """Return a JPEG whose frame header declares another size."""
    at = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:at] + struct.pack(">HH", height, width) + JPEG[at + 4 :]


def webp_canvas(width: int, height: int) -> bytes:
    """Return an animated WebP that declares a canvas of up to 16384 × 16384."""
    frames = [Image.new("RGB", (8, 8), shade) for shade in (1, 200)]
    file = io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:])
    data = bytearray(file.getvalue())
    at = data.index(b"VP8X") + 12
    data[at : at + 6] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


def bmp_size(width: int, height: int) -> bytes:
    data = bytearray(image(form="BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


HUGE = {
    "png": png_header(60_000, 60_000),
    "png-beyond-int": png_header(2**31 - 1, 2**31 - 1),
    "png-wide": png_header(2**31 - 1, 1),
    "png-just-over": png_header(1001, 1000),
    "jpeg": jpeg_size(65_500, 65_500),
    "gif-screen": gif_header(65_535, 65_535, (1, 1)),
    "gif-frame": gif_header(1, 1, (65_535, 65_535)),
    "webp-canvas": webp_canvas(16_384, 16_384),
    "bmp": bmp_size(100_000, 100_000),
    "bmp-bottom-up": bmp_size(100_000, -100_000),
}


@pytest.mark.parametrize("name", HUGE)
def test_sizes_beyond_the_limit_are_refused_from_the_header(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ServiceError) as caught:
            check_image(HUGE[name], LIMITS)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.status in (413, 422)
    assert peak < 5_000_000


@pytest.mark.parametrize("size", [(0, 10), (10, 0)])
def test_images_without_pixels_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ServiceError) as caught:
        check_image(png_header(*size), LIMITS)
    assert caught.value.status == 422


METADATA = {
    "text": chunk(b"zTXt", b"k\0\0" + zeros(50_000_000)),
    "texts": chunk(b"zTXt", b"k\0\0" + zeros(1_000_000)) * 500,
    "international": chunk(b"iTXt", b"k\0\x01\0\0\0" + zeros(50_000_000)),
    "profile": chunk(b"iCCP", b"k\0\0" + zeros(200_000_000)),
    "exif": chunk(b"eXIf", b"\0" * 1_000_000),
    "many": chunk(b"teXt", b"") * 20_000,
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_that_unfolds_takes_bounded_memory(name: str) -> None:
    data = png_header(8, 6, METADATA[name])
    started = time.process_time()
    tracemalloc.start()
    try:
        check_or_decode(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Pillow keeps at most 64 MB of text, and no text or profile of more than 1 MB.
    assert peak < 150_000_000
    assert time.process_time() - started < 5.0


def check_or_decode(data: bytes) -> None:
    """Check a file and, where it passes, decode it: only the two kinds of refusal may come."""
    with suppress(ServiceError, InputError):
        check_image(data, LIMITS)
        load_image(data)


def test_pixels_that_unfold_beyond_the_declared_size_are_not_unfolded() -> None:
    head = struct.pack(">IIBBBBB", 8, 6, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zeros(100_000_000))
    tracemalloc.start()
    check_or_decode(data)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_only_the_first_frame_is_decoded(form: str) -> None:
    frames = [Image.new("RGB", (64, 64), (shade % 256, shade // 256, 9)) for shade in range(300)]
    file = io.BytesIO()
    frames[0].save(file, form, save_all=True, append_images=frames[1:])
    started = time.process_time()
    read(file.getvalue())
    assert load_image(file.getvalue()).shape == (64, 64, 3)
    assert time.process_time() - started < 1.0


def test_a_jpeg_of_many_scans_is_refused() -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    assert read(data) == data
    last = data.rindex(b"\xff\xda")
    with pytest.raises(ServiceError, match="scans"):
        read(data[:-2] + data[last:-2] * 200 + data[-2:])


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_cut_and_damaged_files_are_refused_here_or_where_they_are_decoded(form: str) -> None:
    file = io.BytesIO()
    Image.effect_noise((40, 30), 90).convert("RGB").save(file, form)
    data = file.getvalue()
    for length in range(0, len(data), max(1, len(data) // 60)):
        check_or_decode(data[:length])


@given(form=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP"]), data=st.data())
def test_files_with_changed_bytes_raise_nothing_else(form: str, data: st.DataObject) -> None:
    file = bytearray(image(form=form))
    for _ in range(data.draw(st.integers(1, 6))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    check_or_decode(bytes(file))


@pytest.mark.parametrize("source", [b"x" * 2_000_001, "A" * 20_000_000, " \n" * 5_000_000])
def test_files_beyond_the_limit_are_refused(source: str | bytes) -> None:
    with pytest.raises(ServiceError) as caught:
        read(source)
    assert caught.value.status == 413
