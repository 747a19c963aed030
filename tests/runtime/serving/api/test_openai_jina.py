"""`/v1/embeddings`, `/embeddings` and `/v1/multi-vector` over HTTP."""

import base64
import gzip
import json
import logging
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trine.runtime.inputs import ImageText

Vector = Callable[..., Any]


def _numbers(response: Any, field: str = "embedding") -> list[Any]:
    assert response.status_code == 200, response.text
    return [np.array(item[field], np.float32) for item in response.json()["data"]]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
def test_openai_gets_its_envelope(client: Any, vector: Vector, path: str) -> None:
    response = client.post(path, {"input": ["a", "bc"], "model": "jina-embeddings-v4"})
    body = response.json()
    assert list(body) == ["object", "data", "model", "usage"]
    assert (body["object"], body["model"]) == ("list", "jina-embeddings-v4")
    assert body["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
    assert [(d["object"], d["index"]) for d in body["data"]] == [("embedding", 0), ("embedding", 1)]
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-trine-adapter"] == "retrieval=a1"
    for got, text in zip(_numbers(response), ["a", "bc"], strict=True):
        assert np.array_equal(got, vector(text))


@pytest.mark.parametrize(
    ("given", "content"),
    [("a", "a"), ("", ""), ([""], ""), ([1, 2], (1, 2)), ([[1, 2]], (1, 2)), ({"text": "a"}, "a")],
)
def test_each_form_of_one_input(
    client: Any, vector: Vector, given: object, content: object
) -> None:
    (got,) = _numbers(client.post("/v1/embeddings", {"input": given}))
    assert np.array_equal(got, vector(content))


def test_images_come_in_all_their_shapes(
    client: Any, vector: Vector, png: bytes, png_base64: str, png_uri: str
) -> None:
    items = [
        {"image": png_base64}, {"image": png_uri}, {"bytes": png_base64}, {"url": png_uri}, png_uri,
        {"image_url": {"url": png_uri}},
    ]  # fmt: skip
    for got in _numbers(client.post("/v1/embeddings", {"input": items})):
        assert np.array_equal(got, vector(ImageText((png,))))
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": png_uri}}]}
    for messages in ([message], [[message]]):
        (got,) = _numbers(client.post("/v1/embeddings", {"messages": messages}))
        assert np.array_equal(got, vector(ImageText((png,))))
    mixed = [{"text": "a"}, {"image": png_base64, "text": "b"}, "c"]
    got = _numbers(client.post("/v1/embeddings", {"input": mixed}))
    for row, content in zip(got, ["a", ImageText((png,), "b"), "c"], strict=True):
        assert np.array_equal(row, vector(content))
    (got,) = _numbers(client.post("/embeddings", {"input": [png_uri], "modality": "image"}))
    assert np.array_equal(got, vector(ImageText((png,))))


def test_base64_only_where_it_is_asked_for(client: Any, vector: Vector) -> None:
    for field in ("encoding_format", "embedding_type", "encoding_type"):
        data = client.post("/v1/embeddings", {"input": "a", field: "base64"}).json()["data"]
        got = np.frombuffer(base64.b64decode(data[0]["embedding"]), "<f4")
        assert np.array_equal(got, vector("a"))
    assert isinstance(
        client.post("/v1/embeddings", {"input": "a"}).json()["data"][0]["embedding"], list
    )


def test_a_list_of_types_keys_the_vector_by_type(client: Any, vector: Vector) -> None:
    body = {"input": "a", "embedding_type": ["float", "binary", "ubinary", "base64"]}
    item = client.post("/v1/embeddings", body | {"encoding_format": "base64"}).json()["data"][0]
    bits = np.packbits(vector("a") > 0)
    assert item["embedding"]["ubinary"] == bits.tolist()
    assert item["embedding"]["binary"] == (bits.astype(int) - 128).tolist()
    assert np.array_equal(np.array(item["embedding"]["float"], np.float32), vector("a"))


def test_fields_that_mean_nothing_here_and_nulls_are_accepted(client: Any, vector: Vector) -> None:
    body = {
        "input": ["a"], "user": "u", "normalized": True, "truncate": None, "late_chunking": False,
        "return_multivector": False, "truncate_prompt_tokens": 1000, "modality": "text",
        "input_type": None, "task": None, "dimensions": 0, "encoding_type": None, "priority": 3,
        "user_data": {"a": [None]}, "embedding_type": None, "encoding_format": "float",
    }  # fmt: skip
    (got,) = _numbers(client.post("/v1/embeddings", body))
    assert np.array_equal(got, vector("a"))


@pytest.mark.parametrize("field", ["dimensions", "output_dimension"])
def test_dimensions(client: Any, service: Any, vector: Vector, field: str) -> None:
    (got,) = _numbers(client.post("/v1/embeddings", {"input": "a", field: 64}))
    assert np.array_equal(got, vector("a", dimensions=64))
    (got,) = _numbers(client.post("/v1/embeddings", {"input": "a", field: 0}))
    assert np.array_equal(got, vector("a"))
    assert [call.dimensions for call in service.calls] == [64, 256]


def test_tasks_come_in_the_task_or_in_the_models_name(client: Any, vector: Vector) -> None:
    for body in (
        {"task": "code.passage"},
        {"model": "jina-embeddings-v4:code.passage"},
        {"task": "code", "input_type": "document"},
        {"task": "code", "prompt_name": "passage"},
    ):
        (got,) = _numbers(client.post("/v1/embeddings", {"input": "a"} | body))
        assert np.array_equal(got, vector("a", "code", "passage"))


def test_options_reach_the_service(client: Any, service: Any) -> None:
    bodies = [
        {"truncate": False}, {"truncate": True}, {"truncate": "START"}, {"truncate": "NONE"},
        {"truncate_prompt_tokens": 7}, {"truncate_prompt_tokens": -1}, {"normalized": False},
        {"normalize": False}, {"late_chunking": True}, {"late_chunking": True, "late_groups": [1]},
    ]  # fmt: skip
    for body in bodies:
        assert client.post("/v1/embeddings", {"input": ["a"]} | body).status_code == 200
    calls = service.calls
    assert [c.truncate for c in calls[:4]] == ["none", "end", "start", "none"]
    assert [c.max_length for c in calls[4:6]] == [7, None]
    assert [c.normalize for c in calls[5:8]] == [True, False, False]
    assert [(c.late_chunking, c.late_groups) for c in calls[7:]] == [
        (False, ()), (True, ()), (True, (1,)),
    ]  # fmt: skip


def test_multi_vectors_are_in_embeddings(client: Any, matrix: Vector, png_uri: str) -> None:
    body = {"input": ["a", {"image": png_uri}], "return_multivector": True}
    response = client.post("/v1/embeddings", body)
    got = _numbers(response, "embeddings")
    assert np.array_equal(got[0], matrix("a"))
    text, image = response.json()["data"]
    assert (text["object"], text["index"]) == ("embeddings", 0)
    assert "embedding" not in text
    assert "image_spans" not in text
    assert image["image_spans"] == [{"start": 2, "rows": 2, "columns": 2, "image": 0}]


def test_the_multi_vector_path_has_both_names_equal_and_nested(client: Any, matrix: Vector) -> None:
    response = client.post("/v1/multi-vector", {"input": ["a"], "input_type": "document"})
    (item,) = response.json()["data"]
    assert item["embedding"] == item["embeddings"]
    assert np.array_equal(np.array(item["embedding"], np.float32), matrix("a", prompt="passage"))
    for size in (64, 96, 128):
        body = {"input": "abc", "dimensions": size, "embedding_type": "base64"}
        (item,) = client.post("/v1/multi-vector", body).json()["data"]
        rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in item["embedding"]]
        assert np.array_equal(np.stack(rows), matrix("abc")[:, :size])
    assert client.post("/v1/multi-vector", {"input": "a", "dimensions": 129}).status_code == 422


def test_raw_bytes_by_accept_header(client: Any, vector: Vector, matrix: Vector) -> None:
    headers = {"accept": "application/octet-stream"}
    response = client.post("/v1/embeddings", {"input": ["a", "b"]}, headers=headers)
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["x-trine-shape"] == "2,256"
    assert response.headers["x-trine-prompt-tokens"] == "4"
    got = np.frombuffer(response.content, "<f4").reshape(2, 256)
    assert np.array_equal(got, np.stack([vector("a"), vector("b")]))
    headers = {"accept": "application/octet-stream; dtype=float16"}
    response = client.post("/v1/multi-vector", {"input": ["a", "b"]}, headers=headers)
    content = response.content[int(response.headers["x-trine-offsets-bytes"]) :]
    got = np.frombuffer(content, "<f2").reshape(-1, 128)
    assert np.array_equal(got, np.concatenate([matrix("a"), matrix("b")]).astype(np.float16))


def test_texts_that_are_cut_are_said(client: Any) -> None:
    response = client.post("/v1/embeddings", {"input": ["a", "b" * 3000]})
    assert [item["truncated"] for item in response.json()["data"]] == [False, True]
    assert response.headers["x-trine-truncated"] == "1"
    response = client.post("/v1/embeddings", {"input": ["a", "b" * 3000], "truncate": False})
    assert (response.status_code, response.json()["error"]["index"]) == (422, 1)


def test_token_ids_of_openais_clients_are_warned_about_once(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"user-agent": "OpenAI/Python 2.54.0"}
    with caplog.at_level(logging.WARNING):
        client.post("/v1/embeddings", {"input": ["a"]}, headers=headers)
        client.post("/v1/embeddings", {"input": [[1]]}, headers={"user-agent": "curl"})
        assert not caplog.records
        for _ in range(2):
            client.post("/v1/embeddings", {"input": [[1]]}, headers=headers)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "check_embedding_ctx_length" in caplog.text


def test_compressed_bodies(client: Any, vector: Vector) -> None:
    raw = json.dumps({"input": "a"}).encode()
    for name, content in (("gzip", gzip.compress(raw)), ("deflate", zlib.compress(raw))):
        headers = {"content-encoding": name}
        (got,) = _numbers(client.post("/v1/embeddings", content=content, headers=headers))
        assert np.array_equal(got, vector("a"))
    bomb = gzip.compress(b" " * 2_000_000)
    for content, status in ((bomb, 413), (b"x", 400), (gzip.compress(raw)[:-9], 400)):
        headers = {"content-encoding": "gzip"}
        response = client.post("/v1/embeddings", content=content, headers=headers)
        assert response.status_code == status
    response = client.post("/v1/embeddings", content=raw, headers={"content-encoding": "br"})
    assert response.status_code == 415


@pytest.mark.parametrize(
    ("body", "status", "param", "index"),
    [
        (b"", 400, None, None),
        (b"{", 400, None, None),
        (b"\xff", 400, None, None),
        (b'{"input": "\xff"}', 400, None, None),
        (b'{"input": "\\ud800"}', 400, None, None),
        (b"[" * 100_000, 422, None, None),
        (b'{"input":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, None, None),
        (b"[]", 422, None, None),
        (b"{}", 422, "input", None),
        (b'{"input": "a", "dimensions": "x"}', 422, "dimensions", None),
        (b'{"input": "a", "dimensions": -1}', 422, "dimensions", None),
        (b'{"input": "a", "dimensions": 1e999}', 422, "dimensions", None),
        (b'{"input": "a", "dimensions": 257}', 422, "dimensions", None),
        (b'{"input": "a", "dimensions": 12, "embedding_type": "binary"}', 422, "dimensions", None),
        (b'{"input": "a", "embedding_type": ["float", 1]}', 422, "embedding_type", 1),
        (b'{"input": "a", "task": "classification"}', 422, "task", None),
        (b'{"input": "a", "model": "gpt"}', 404, "model", None),
        (b'{"input": ["a", {"image": "https://example.org/a.png"}]}', 422, "input", 1),
        (b'{"input": ["a", {"image": "!"}]}', 422, "input", 1),
        (b'{"input": "a", "truncate": "MIDDLE"}', 422, "truncate", None),
        (b'{"input": "a", "truncate_prompt_tokens": 0}', 422, "truncate_prompt_tokens", None),
        (b'{"input": ["a"], "late_chunking": true, "late_groups": [2]}', 422, "late_groups", None),
        (b'{"messages": [1]}', 422, "messages", 0),
        (b'{"input": [' + b'"a",' * 32 + b'"a"]}', 413, "input", 32),
        (b" " * 1_000_001, 413, None, None),
    ],
)  # fmt: skip
def test_what_cannot_be_used_has_one_error_body_for_all(
    client: Any, body: bytes, status: int, param: str | None, index: int | None
) -> None:
    response = client.post("/v1/embeddings", content=body)
    assert response.status_code == status, response.text
    answer = response.json()
    assert set(answer) == {"detail", "message", "error"}
    assert isinstance(answer["detail"], str)
    assert answer["detail"] == answer["message"] == answer["error"]["message"]
    assert set(answer["error"]) == {"message", "type", "param", "code", "index"}
    assert isinstance(answer["error"]["code"], str)
    assert (answer["error"]["param"], answer["error"]["index"]) == (param, index)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_malformed_bodies_never_are_a_fault(client: Any, data: st.DataObject) -> None:
    path = data.draw(
        st.sampled_from(
            ["/v1/embeddings", "/v1/multi-vector", "/pooling", "/v1/score", "/rerank", "/embed",
             "/embed_all", "/tokenize", "/decode", "/v2/models/v4/infer"]
        )
    )  # fmt: skip
    fields = [
        "input", "inputs", "messages", "task", "dimensions", "embedding_type", "ids", "query",
        "documents", "texts", "text_1", "text_2", "truncate", "late_groups", "prompt_name", "top_n",
        "model", "modality", "outputs", "parameters",
    ]  # fmt: skip
    value = st.recursive(
        st.none() | st.booleans() | st.integers(-10, 10**20) | st.text(max_size=9)
        | st.sampled_from(["v4", "base64", "data:image/png;base64,AAAA", "retrieval.query"]),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["text", "image", "content", "name", "shape", "datatype", "data"]),
            inner, max_size=4,
        ),
        max_leaves=8,
    )  # fmt: skip
    body = data.draw(st.dictionaries(st.sampled_from(fields), value, max_size=5))
    raw = json.dumps(body).encode()
    cut = data.draw(st.integers(0, len(raw)) | st.just(len(raw)))
    # A fault in a handler is raised by the client.
    response = client.post(path, content=raw[:cut])
    assert response.status_code in (200, 400, 404, 413, 422), response.text
    if response.status_code != 200:
        assert "error" in response.json()
