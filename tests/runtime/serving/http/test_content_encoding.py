"""Compressed bodies: whole, cut, of several members, and larger than allowed."""

import gzip
import zlib

import pytest

from trine.runtime.serving.http.content_encoding import MAX_MEMBERS, PIECE, decompress
from trine.runtime.serving.service.calls import ServiceError

TEXT = bytes(range(256)) * 40


def refused(raw: bytes, encoding: str, limit: int = 100_000) -> tuple[int, str]:
    with pytest.raises(ServiceError) as caught:
        decompress(raw, encoding, limit)
    return caught.value.status, caught.value.message


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", " gzip "])
def test_all_members_of_a_gzip_body_are_read(encoding: str) -> None:
    members = [gzip.compress(TEXT[start : start + 999]) for start in range(0, len(TEXT), 999)]
    assert decompress(b"".join(members), encoding, len(TEXT)) == TEXT
    assert decompress(gzip.compress(TEXT) + gzip.compress(b""), encoding, len(TEXT)) == TEXT


def test_deflate_and_plain_bodies_are_read() -> None:
    assert decompress(zlib.compress(TEXT), "deflate", len(TEXT)) == TEXT
    assert decompress(TEXT, "identity", len(TEXT)) == TEXT


def test_a_stream_larger_than_a_piece_is_read() -> None:
    noise = b"".join(zlib.crc32(b"%d" % i).to_bytes(4, "big") for i in range(PIECE))
    assert decompress(gzip.compress(noise) * 2, "gzip", 2 * len(noise)) == noise * 2


def test_the_limit_holds_for_all_members_together() -> None:
    body = gzip.compress(TEXT) * 3
    assert decompress(body, "gzip", 3 * len(TEXT)) == TEXT * 3
    assert refused(body, "gzip", 3 * len(TEXT) - 1)[0] == 413
    assert refused(gzip.compress(b"a") * 3, "gzip", 2)[0] == 413


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_what_stands_behind_a_stream_is_refused(encoding: str) -> None:
    body = gzip.compress(TEXT) if encoding == "gzip" else zlib.compress(TEXT)
    assert refused(body + b"junk", encoding)[0] == 400
    assert refused(body + b"\0", encoding)[0] == 400
    if encoding == "deflate":
        assert "7 bytes behind" in refused(body + b"7 bytes", encoding)[1]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_cut_body_is_refused(encoding: str) -> None:
    body = gzip.compress(TEXT) if encoding == "gzip" else zlib.compress(TEXT)
    for length in (0, 1, 5, len(body) - 1):
        assert refused(body[:length], encoding) == (
            400,
            f"the request's body ends within its {encoding} stream",
        )
    if encoding == "gzip":
        assert refused(body + body[:-1], encoding)[0] == 400


def test_a_body_of_very_many_members_is_refused() -> None:
    empty = gzip.compress(b"")
    assert decompress(empty * MAX_MEMBERS, "gzip", 10) == b""
    assert "members" in refused(empty * (MAX_MEMBERS + 1), "gzip")[1]


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip"])
def test_other_encodings_are_refused(encoding: str) -> None:
    assert refused(b"x", encoding)[0] == 415
