"""Bytes of a request to a typed body, with a sentence for everything that is wrong with them."""

import re
import zlib
from typing import TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from trine.runtime.serving.http.request_context import received_body
from trine.runtime.serving.service.calls import ServiceError

__all__ = ["Body", "decode_body", "decompress", "read_body", "read_bytes"]

#: The first field and, where it is a list, the element that msgspec names in its message.
PLACE = re.compile(r"(?: - at `\$\.|required field `)(\w+)(?:\[(\d+)\])?")
#: `wbits` of zlib: the wrapper that each Content-Encoding has around the stream.
WINDOW_BITS = {"gzip": 31, "deflate": 15}


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """Base of request bodies. Fields that are not declared are ignored, whatever they hold."""


BodyType = TypeVar("BodyType", bound=Body)


async def read_bytes(request: Request, max_bytes: int) -> bytes:
    """Return the whole body of a request, decompressed.

    Args:
        request: not read yet.
        max_bytes: of the body, before and after decompression.

    Raises:
        ServiceError: 400 or 415 it cannot be decompressed; 413 it is too long; 499 the client left
            before all of it came.
    """
    received = received_body(request)
    if received is not None:
        return received
    try:
        raw = await request.body()
    except ClientDisconnect as cause:
        raise ServiceError(499, "client_left", "the client left before its request came") from cause
    if len(raw) > max_bytes:
        raise _too_long(max_bytes)
    return decompress(raw, request.headers.get("content-encoding", "identity"), max_bytes)


async def read_body(request: Request, kind: type[BodyType], max_bytes: int) -> BodyType:
    """Return the JSON body of a request.

    Args:
        request: not read yet.
        kind: of the body.
        max_bytes: of the body, before and after decompression.

    Raises:
        ServiceError: as `read_bytes` and `decode_body`.
    """
    return decode_body(await read_bytes(request, max_bytes), kind)


def decode_body(raw: bytes, kind: type[BodyType]) -> BodyType:
    """Return the typed body that JSON text describes.

    Raises:
        ServiceError: 400 it is no JSON; 422 it is no object, or a field is of another type.
    """
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as cause:
        message = str(cause)
        place = PLACE.search(message)
        raise ServiceError(
            422,
            "invalid_field",
            f"the request's body is not understood: {message}",
            param=place[1] if place else None,
            index=int(place[2]) if place and place[2] else None,
        ) from cause
    except (msgspec.DecodeError, UnicodeDecodeError) as cause:
        raise ServiceError(
            400, "invalid_json", f"the request's body is not JSON in UTF-8: {cause}"
        ) from cause
    except RecursionError as cause:
        raise ServiceError(
            400, "invalid_json", "the request's body is nested too deeply; flatten it"
        ) from cause


def decompress(raw: bytes, encoding: str, max_bytes: int) -> bytes:
    """Return what a body of a Content-Encoding holds, without ever making more than `max_bytes`.

    Args:
        raw: of the body.
        encoding: "gzip", "deflate" or "identity".
        max_bytes: of the result.

    Raises:
        ServiceError: 400 the bytes are damaged; 413 they hold more; 415 another encoding.
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
    stream = zlib.decompressobj(WINDOW_BITS[name])
    try:
        # One byte more than allowed tells a body that is too long from one that just fits.
        content = stream.decompress(raw, max_bytes + 1)
    except zlib.error as cause:
        raise ServiceError(
            400, "invalid_compression", f"the request's body is not valid {name}: {cause}"
        ) from cause
    if len(content) > max_bytes:
        raise _too_long(max_bytes)
    if not stream.eof:
        raise ServiceError(
            400, "invalid_compression", f"the request's body ends within its {name} stream"
        )
    return content


def _too_long(max_bytes: int) -> ServiceError:
    return ServiceError(
        413, "body_too_large", f"the request's body has more than {max_bytes} bytes; send less"
    )
