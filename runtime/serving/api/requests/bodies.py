"""Bytes of a request to a typed body, with a sentence for everything that is wrong with them."""

import re
from typing import TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from trine.runtime.serving.http.content_encoding import decompress
from trine.runtime.serving.http.request_context import received_body
from trine.runtime.serving.http.surrogates import surrogate_error
from trine.runtime.serving.service.calls import ServiceError

__all__ = ["Body", "decode_body", "read_body", "read_bytes"]

#: The first field and, where it is a list, the element that msgspec names in its message.
PLACE = re.compile(r"(?: - at `\$\.|required field `)(\w+)(?:\[(\d+)\])?")
#: Windows' tools begin files of UTF-8 with it; RFC 8259 lets a reader ignore it.
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


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
        ServiceError: 400 it is no JSON, or a text holds half of a surrogate pair; 422 it is no
            object, or a field is of another type.
    """
    raw = raw.removeprefix(BYTE_ORDER_MARK)
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
        message = f"the request's body is not JSON in UTF-8: {cause}"
        raise surrogate_error(raw) or ServiceError(400, "invalid_json", message) from cause
    except RecursionError as cause:
        raise ServiceError(
            400, "invalid_json", "the request's body is nested too deeply; flatten it"
        ) from cause


def _too_long(max_bytes: int) -> ServiceError:
    return ServiceError(
        413, "body_too_large", f"the request's body has more than {max_bytes} bytes; send less"
    )
