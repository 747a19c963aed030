"""Vectors are answered in the type that was asked for, exactly."""

import asyncio
import base64

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trine.runtime.serving.api.responses.output_types import (
    OutputForm,
    choose_output,
    encode_matrix,
    encode_numbers,
    encode_rows,
)
from trine.runtime.serving.api.responses.raw_bytes import accepted_raw_type, pack_multi, pack_single
from trine.runtime.serving.service.calls import ServiceError

VECTORS = arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.sampled_from([8, 64, 256])),
    elements=st.floats(-1, 1, width=32),
)


def _json(value: object) -> object:
    return orjson.loads(orjson.dumps(value))


@given(VECTORS)
def test_floats_read_back_as_the_same_float32(vectors: np.ndarray) -> None:
    rows = _json(asyncio.run(encode_rows(vectors, OutputForm())))
    matrix = _json(asyncio.run(encode_matrix(vectors, OutputForm())))
    assert np.array_equal(np.array(rows, np.float32), vectors)
    assert matrix == rows


@given(VECTORS)
def test_base64_is_little_endian_float32(vectors: np.ndarray) -> None:
    rows = asyncio.run(encode_rows(vectors, OutputForm(("base64",))))
    decoded = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]
    assert np.array_equal(np.stack(decoded), vectors)


@given(VECTORS)
def test_binary_is_ubinary_less_128_and_bits_are_values_above_0(vectors: np.ndarray) -> None:
    form = OutputForm(("binary", "ubinary"), keyed=True)
    rows = _json(asyncio.run(encode_rows(vectors, form)))
    ubinary = np.array([row["ubinary"] for row in rows])
    assert np.array_equal(np.array([row["binary"] for row in rows]), ubinary - 128)
    bits = np.unpackbits(ubinary.astype(np.uint8), axis=1)
    assert np.array_equal(bits.astype(bool), vectors > 0)


def test_long_arrays_are_put_together_of_pieces() -> None:
    numbers = np.random.default_rng(1).standard_normal((1000, 128)).astype(np.float32)
    for array in (numbers, numbers.reshape(-1), numbers[:0], np.arange(5)):
        written = orjson.loads(orjson.dumps(asyncio.run(encode_numbers(array))))
        assert np.array_equal(np.array(written, array.dtype).reshape(array.shape), array)


def test_other_requests_get_their_turn_between_pieces() -> None:
    async def turns_during(array: np.ndarray) -> int:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(count())
        await encode_numbers(array)
        task.cancel()
        return turns

    assert asyncio.run(turns_during(np.zeros((5000, 128), np.float32))) >= 15


def test_the_most_specific_field_decides() -> None:
    fields = {"embedding_type": None, "encoding_type": "ubinary", "encoding_format": "base64"}
    assert choose_output(fields, 64) == OutputForm(("ubinary",))
    assert choose_output({"embedding_type": None}, 64) == OutputForm(("float",))
    assert choose_output({"embedding_type": []}, 64) == OutputForm(("float",))
    asked = {"embedding_type": [], "encoding_format": "base64"}
    assert choose_output(asked, 64) == OutputForm(("base64",))
    assert choose_output({"embedding_type": ["float", "binary", "float"]}, 64) == OutputForm(
        ("float", "binary"), True
    )


@pytest.mark.parametrize(
    ("types", "dimensions"), [("int4", 64), (["float", "x"], 64), ("binary", 60), ("", 64)]
)
def test_unknown_types_and_broken_bytes_are_refused(types: object, dimensions: int) -> None:
    with pytest.raises(ServiceError) as caught:
        choose_output({"embedding_type": types}, dimensions)
    assert caught.value.status == 422


@pytest.mark.parametrize(
    ("accept", "raw"),
    [
        ("", None),
        ("*/*", None),
        ("application/json", None),
        ("application/octet-stream", "float32"),
        ("application/octet-stream;dtype=float16", "float16"),
        ('Application/Octet-Stream; dtype="FLOAT16"; q=0.5', "float16"),
        ("application/octet-stream;q=0.5, application/json", None),
        ("application/octet-stream, application/json;q=0.9", "float32"),
        ("application/octet-stream;q=x", None),
        ("text/html;dtype=int4", None),
    ],
)
def test_bytes_are_sent_where_they_are_preferred(accept: str, raw: str | None) -> None:
    assert accepted_raw_type(accept, OutputForm()) == raw


def test_bytes_of_unknown_or_several_types_are_refused() -> None:
    with pytest.raises(ServiceError, match="int4"):
        accepted_raw_type("application/octet-stream;dtype=int4", OutputForm())
    with pytest.raises(ServiceError, match="one type"):
        accepted_raw_type("application/octet-stream", OutputForm(("float", "binary"), True))


@given(st.text(max_size=60))
def test_any_accept_header_is_understood_or_refused(accept: str) -> None:
    try:
        accepted_raw_type(accept, OutputForm())
    except ServiceError as refused:
        if refused.status != 422:
            raise


@given(st.lists(VECTORS.filter(lambda v: v.shape[1] == 64), min_size=1, max_size=4))
def test_multi_vectors_come_back_by_their_offsets(matrices: list[np.ndarray]) -> None:
    packed = pack_multi(matrices, OutputForm(), "float32")
    size = int(packed.headers["x-trine-offsets-bytes"])
    offsets = np.frombuffer(packed.content[:size], "<i8")
    shape = [int(n) for n in packed.headers["x-trine-shape"].split(",")]
    rows = np.frombuffer(packed.content[size:], "<f4").reshape(shape)
    for index, matrix in enumerate(matrices):
        assert np.array_equal(rows[offsets[index] : offsets[index + 1]], matrix)


def test_single_vectors_as_bytes_have_the_type_that_the_header_says() -> None:
    vectors = np.random.default_rng(2).standard_normal((3, 64)).astype(np.float32)
    for form, raw, dtype, expected in (
        (OutputForm(), "float32", "float32", vectors),
        (OutputForm(), "float16", "float16", vectors.astype(np.float16)),
        (OutputForm(("ubinary",)), "float32", "uint8", np.packbits(vectors > 0, axis=1)),
    ):
        packed = pack_single(vectors, form, raw)
        assert packed.headers == {
            "x-trine-dtype": dtype,
            "x-trine-shape": ",".join(map(str, expected.shape)),
        }
        assert np.array_equal(
            np.frombuffer(packed.content, dtype).reshape(expected.shape), expected
        )
