import asyncio
from collections.abc import Sequence

import pytest
from starlette.types import Message

from trine.runtime.serving.http.request_body import BodyReader, ClientLeft
from trine.runtime.serving.service.calls import ServiceError


class Connection:
    """Sends parts of a body, then leaves."""

    def __init__(self, parts: Sequence[bytes], complete: bool = True) -> None:
        self._parts = list(parts)
        self._complete = complete
        self.num_read = 0

    async def __call__(self) -> Message:
        if self.num_read == len(self._parts):
            return {"type": "http.disconnect"}
        self.num_read += 1
        last = self.num_read == len(self._parts)
        more = not last or not self._complete
        return {"type": "http.request", "body": self._parts[self.num_read - 1], "more_body": more}


def read(reader: BodyReader, connection: Connection, length: str | None = None) -> bytes:
    headers = {} if length is None else {"content-length": length}
    return asyncio.run(reader.read(headers, connection))


def test_a_body_comes_whole() -> None:
    assert read(BodyReader(10, 10), Connection([b"abc", b"", b"defg"])) == b"abcdefg"


def test_an_announced_length_is_refused_before_anything_is_read() -> None:
    connection = Connection([b"abc"])
    with pytest.raises(ServiceError) as refused:
        read(BodyReader(10, 100), connection, "11")
    assert (refused.value.status, connection.num_read) == (413, 0)


def test_a_body_without_a_length_is_read_no_further_than_the_limit() -> None:
    connection = Connection([b"abcd"] * 100)
    reader = BodyReader(10, 10)
    with pytest.raises(ServiceError) as refused:
        read(reader, connection)
    assert (refused.value.status, connection.num_read) == (413, 3)
    assert read(reader, Connection([b"0123456789"])) == b"0123456789"


def test_all_bodies_together_are_bounded_until_released() -> None:
    reader = BodyReader(10, 15)
    read(reader, Connection([b"0123456789"]))
    for length in ("10", None):
        with pytest.raises(ServiceError) as refused:
            read(reader, Connection([b"0123456789"]), length)
        assert (refused.value.status, refused.value.code) == (429, "bodies_full")
    reader.release(10)
    read(reader, Connection([b"0123456789"]))


def test_a_client_that_leaves_holds_nothing() -> None:
    reader = BodyReader(10, 10)
    with pytest.raises(ClientLeft):
        read(reader, Connection([b"01234567"], complete=False))
    read(reader, Connection([b"0123456789"]))


@pytest.mark.parametrize("length", ["-1", "ten", "", "１"])
def test_a_length_that_is_no_number_is_refused(length: str) -> None:
    with pytest.raises(ServiceError) as refused:
        read(BodyReader(10, 10), Connection([b""]), length)
    assert refused.value.status == 400
