"""Undoes the Content-Encoding of a body without ever making more than its limit."""

import zlib

from trine.runtime.serving.service.calls import ServiceError

__all__ = ["WINDOW_BITS", "decompress"]

#: `wbits` of zlib: the wrapper that each Content-Encoding has around the stream.
WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
#: Bytes that are inflated in one go.
PIECE = 65_536
#: Members of a gzip body. Each costs time however little is in it; tools that write blocks, such as
#: bgzip, put up to 64 KiB into one.
MAX_MEMBERS = 10_000


def decompress(raw: bytes, encoding: str, max_bytes: int) -> bytes:
    """Return what a body holds: all members of a gzip body, the one stream of a deflate body.

    Args:
        raw: of the body.
        encoding: "gzip", "x-gzip", "deflate" or "identity", in any case.
        max_bytes: of the result.

    Raises:
        ServiceError: 400 the bytes are damaged, cut, or go on behind their end; 413 they hold more;
            415 another encoding.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return raw
    if name not in WINDOW_BITS:
        raise ServiceError(
            415,
            "unsupported_encoding",
            f"Content-Encoding is {encoding!r}; send gzip, deflate or the plain body",
        )
    found = bytearray()
    position = _inflate(raw, 0, name, found, max_bytes)
    members = 1
    while position < len(raw):
        if name == "deflate":
            raise _damaged(f"goes on for {len(raw) - position} bytes behind its deflate stream")
        if members == MAX_MEMBERS:
            raise _damaged(f"has more than {MAX_MEMBERS} gzip members; compress it as one")
        position = _inflate(raw, position, name, found, max_bytes)
        members += 1
    return bytes(found)


def _inflate(raw: bytes, position: int, name: str, found: bytearray, max_bytes: int) -> int:
    """Append what the stream at `position` holds to `found`; return the position of its end."""
    stream = zlib.decompressobj(WINDOW_BITS[name])
    while not stream.eof:
        piece = raw[position : position + PIECE]
        if not piece:
            raise _damaged(f"ends within its {name} stream")
        try:
            # One byte more than allowed tells a body that is too long from one that just fits.
            found += stream.decompress(piece, max_bytes + 1 - len(found))
        except zlib.error as cause:
            raise _damaged(f"is not valid {name} at byte {position}: {cause}") from cause
        if len(found) > max_bytes:
            raise ServiceError(
                413,
                "body_too_large",
                f"the request's body has more than {max_bytes} bytes; send less",
            )
        position += len(piece) - len(stream.unused_data)
    return position


def _damaged(what: str) -> ServiceError:
    return ServiceError(400, "invalid_compression", f"the request's body {what}")
