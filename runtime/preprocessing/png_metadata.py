"""Leaves out the chunks of a PNG file that say nothing about its pixels."""

import struct

__all__ = ["SIGNATURE", "without_metadata"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Texts, EXIF and colour profile: Pillow refuses a file where one of them is large, and the pixels
#: are used without them.
METADATA = frozenset({b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP"})


def without_metadata(data: bytes) -> bytes:
    """Return a PNG file without its metadata; `data` itself if it is another file or has none.

    What follows a chunk whose length is wrong is kept as it is, for the decoder to refuse.
    """
    if not data.startswith(SIGNATURE) or not any(name in data for name in METADATA):
        return data
    kept: list[bytes | memoryview] = [SIGNATURE]
    start, view = len(SIGNATURE), memoryview(data)
    while start + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if end > len(data):
            break
        if name not in METADATA:
            kept.append(view[start:end])
        start = end
    kept.append(view[start:])
    return b"".join(kept)
