"""Halves of surrogate pairs in JSON are found where they stand."""

import json

import pytest

from trine.runtime.serving.http.surrogates import surrogate_error


@pytest.mark.parametrize(
    ("body", "named", "param", "index"),
    [
        ({"input": "\ud800"}, "input", "input", None),
        ({"a": 1, "input": ["x", "\udfff", "\ud800"]}, "input[1]", "input", 1),
        ({"b": {"\ud800": 1}, "input": "\ud800"}, "b", "b", None),
        ({"\ud800": 1}, "the request's body", None, None),
        (["\ud800"], "[0]", "0", 0),
        ({"inputs": [{"data": ["a", "b\udc00"]}]}, "inputs[0].data[1]", "inputs", 1),
    ],
)
def test_the_first_half_is_named(
    body: object, named: str, param: str | None, index: int | None
) -> None:
    error = surrogate_error(json.dumps(body).encode())
    assert error is not None
    assert error.message.startswith(f"{named} holds half")
    assert (error.status, error.param, error.index) == (400, param, index)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"input": "\\ud83d\\ude00"}',
        b'{"input": "\\\\ud800"}',
        b'{"input": "\\ud800',
        b'{"input": "\xff\\ud800"}',
        b"[" * 100_000 + b'"\\ud800"',
        b"{}",
    ],
)
def test_other_faults_are_left_to_others(raw: bytes) -> None:
    assert surrogate_error(raw) is None
