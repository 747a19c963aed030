"""Reads request bodies under two limits: of one request, and of all that are held at once."""

from collections.abc import Mapping

from starlette.types import Receive

from trine.runtime.serving.service.calls import ServiceError

__all__ = ["BodyReader", "ClientLeft"]

#: Seconds after which a client whose body found no room should try again.
RETRY_S = 2


class ClientLeft(Exception):
    """The client closed the connection before its body was complete."""


class BodyReader:
    """Reads bodies. For the event loop's thread.

    Args:
        max_bytes: of one body.
        max_pending: of all bodies that are held, with what came of them.
    """

    def __init__(self, max_bytes: int, max_pending: int) -> None:
        self.max_bytes = max_bytes
        self._max_pending = max_pending
        self.pending = 0

    async def read(self, headers: Mapping[str, str], receive: Receive) -> bytes:
        """Return a whole body; `release` its length when the request is done.

        Args:
            headers: names in lower case.
            receive: of ASGI.

        Raises:
            ServiceError: 400 the length is no number, 413 too large, 429 no room.
            ClientLeft: it did.
        """
        self._check_announced(headers.get("content-length"))
        parts: list[bytes] = []
        size = 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                part: bytes = message.get("body", b"")
                size += len(part)
                self.pending += len(part)
                if size > self.max_bytes:
                    raise self._too_large()
                if self.pending > self._max_pending:
                    raise _no_room()
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
        except BaseException:
            self.pending -= size
            raise

    def hold(self, size: int) -> None:
        """Count bytes that a request holds beside its body as it came; `release` them with it.

        Raises:
            ServiceError: 429 no room.
        """
        if self.pending + size > self._max_pending:
            raise _no_room()
        self.pending += size

    def release(self, size: int) -> None:
        """Say that so many bytes are no longer held."""
        self.pending -= size

    def _check_announced(self, length: str | None) -> None:
        if length is None:
            return
        if not (length.isascii() and length.isdigit()):
            raise ServiceError(400, "invalid_length", "content-length is no number of bytes")
        if int(length) > self.max_bytes:
            raise self._too_large()
        if self.pending + int(length) > self._max_pending:
            raise _no_room()

    def _too_large(self) -> ServiceError:
        return ServiceError(
            413,
            "body_too_large",
            f"the request's body is larger than {self.max_bytes} bytes; split the request",
        )


def _no_room() -> ServiceError:
    return ServiceError(
        429,
        "bodies_full",
        "the server holds as many bytes of requests as it takes; try again later",
        retry_after=RETRY_S,
    )
