"""Scores, text-embeddings-inference, vLLM's pooling, the list of models, and errors of each."""

import base64
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trine.runtime.errors import DependencyError
from trine.runtime.inputs import ImageText
from trine.runtime.scoring.similarity import maxsim
from trine.runtime.serving.api.requests.token_ids import ForeignTokenIds, open_cl100k
from trine.runtime.serving.api.responses.errors import error_response
from trine.runtime.serving.service.calls import ServiceError
from trine.runtime.serving.service.item_fields import INPUT

Vector = Callable[..., Any]
DOCUMENTS = ["a chess game", "a compiler", "bread"]


def test_scores_of_one_query_are_maxsim(client: Any, matrix: Vector) -> None:
    body = client.post("/v1/score", {"text_1": "chess", "text_2": DOCUMENTS}).json()
    expected = maxsim([matrix("chess")], [matrix(d, prompt="passage") for d in DOCUMENTS])[0]
    assert [item["index"] for item in body["data"]] == [0, 1, 2]
    assert np.allclose([item["score"] for item in body["data"]], expected, atol=1e-6)
    assert body["usage"]["total_tokens"] > 0


def test_scores_by_pairs_and_cosine(client: Any, vector: Vector) -> None:
    body = {"queries": ["a", "bb"], "documents": ["c", "dd"], "scoring": "cosine", "task": "code"}
    got = [item["score"] for item in client.post("/v1/score", body).json()["data"]]
    expected = [
        vector(q, "code") @ vector(d, "code", "passage") for q, d in (("a", "c"), ("bb", "dd"))
    ]
    assert np.allclose(got, expected, atol=1e-6)
    body = {"text_1": ["a", "bb"], "text_2": ["c", "dd"]}
    pairs = [item["score"] for item in client.post("/v1/score", body).json()["data"]]
    single = client.post("/v1/score", {"text_1": "bb", "text_2": "dd"}).json()["data"]
    assert pairs[1] == pytest.approx(single[0]["score"])


def test_score_takes_content_parts_and_images(
    client: Any, matrix: Vector, png: bytes, png_uri: str
) -> None:
    part = {"type": "image_url", "image_url": {"url": png_uri}}
    body = {"text_1": "a", "text_2": {"content": [part]}}
    (item,) = client.post("/v1/score", body).json()["data"]
    expected = maxsim([matrix("a")], [matrix(ImageText((png,)), prompt="passage")])
    assert item["score"] == pytest.approx(float(expected[0, 0]), abs=1e-5)


def test_documents_are_ranked_best_first(client: Any, matrix: Vector, png_uri: str) -> None:
    documents = [*DOCUMENTS, {"image": png_uri}]
    body = {"query": "chess", "documents": documents, "return_documents": True}
    for path in ("/v1/rerank", "/rerank"):
        results = client.post(path, body).json()["results"]
        scores = [item["relevance_score"] for item in results]
        assert scores == sorted(scores, reverse=True)
        assert sorted(item["index"] for item in results) == [0, 1, 2, 3]
        for item in results:
            given = documents[item["index"]]
            assert item["document"] == ({"text": given} if isinstance(given, str) else given)
    top = client.post("/v1/rerank", {"query": "chess", "documents": DOCUMENTS, "top_n": 2}).json()
    assert len(top["results"]) == 2


@pytest.mark.parametrize(
    ("asked", "repeated"), [(None, {"a", "b"}), (False, set()), (True, {"a", "b", "image"})]
)
def test_ranked_texts_are_repeated_by_default_and_images_where_asked(
    client: Any, png_uri: str, asked: bool | None, repeated: set[str]
) -> None:
    # pymilvus-model sends no `return_documents` and reads each result's document.
    body = {"query": "a", "documents": ["a", "b", png_uri], "return_documents": asked}
    results = client.post("/v1/rerank", body).json()["results"]
    texts = {item["document"]["text"] for item in results if "document" in item}
    assert {"image" if text == png_uri else text for text in texts} == repeated


@pytest.mark.parametrize(
    ("path", "body", "param", "index"),
    [
        ("/v1/rerank", {"query": "a", "documents": ["b", {"image": "?"}]}, "documents", 1),
        ("/v1/rerank", {"query": "a", "texts": [{"image": "?"}]}, "texts", 0),
        ("/v1/rerank", {"query": "a", "texts": ["b", {"content": [[1], "c"]}]}, "texts", 1),
        ("/v1/rerank", {"query": "a", "texts": ["b", {"content": []}]}, "texts", 1),
        ("/v1/rerank", {"query": {"image": "?"}, "documents": ["b"]}, "query", 0),
        ("/v1/score", {"text_1": ["a", "b"], "text_2": ["c", {"image": "?"}]}, "text_2", 1),
        (
            "/v1/score",
            {"queries": "a", "documents": ["b", "c" * 3000], "truncate": False},
            "documents",
            1,
        ),
        ("/v1/score", {"queries": ["a", "b"], "documents": ["c"] * 3}, "queries", None),
    ],
)
def test_an_error_names_the_side_and_the_item_at_fault(
    client: Any, path: str, body: object, param: str, index: int | None
) -> None:
    response = client.post(path, body)
    assert response.status_code == 422
    error = response.json()["error"]
    assert (error["param"], error["index"]) == (param, index)
    assert index is None or f"item {index} of {param}" in error["message"]


def test_rerank_answers_as_tei_where_texts_are_given(client: Any) -> None:
    body = {"query": "chess", "texts": DOCUMENTS, "return_text": True, "scoring": "cosine"}
    ranked = client.post("/rerank", body).json()
    assert [set(item) for item in ranked] == [{"index", "score", "text"}] * 3
    assert all(item["text"] == DOCUMENTS[item["index"]] for item in ranked)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/score", {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}),
        ("/v1/score", {"text_1": "a"}),
        ("/v1/score", {"text_1": "a", "text_2": "b", "scoring": "bm25"}),
        ("/v1/rerank", {"query": "a"}),
        ("/v1/rerank", {"query": ["a"], "documents": ["b"]}),
        ("/v1/rerank", {"query": "a", "documents": "b"}),
        ("/v1/rerank", {"query": "a", "documents": []}),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "top_n": 0}),
        ("/v1/rerank", {"query": "a", "documents": [3]}),
    ],
)
def test_scoring_refuses_what_it_cannot_pair(client: Any, path: str, body: object) -> None:
    response = client.post(path, body)
    assert response.status_code == 422
    assert response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/", "/embed"])
def test_tei_gets_bare_lists(client: Any, vector: Vector, path: str, png_uri: str) -> None:
    for given, contents in (("a", ["a"]), (["a", "b"], ["a", "b"]), ([""], [""])):
        response = client.post(path, {"inputs": given, "truncate": True})
        got = np.array(response.json(), np.float32)
        assert np.array_equal(got, np.stack([vector(c) for c in contents]))
    for name, task, prompt in (
        ("passage", "retrieval", "passage"),
        ("document", "retrieval", "passage"),
        ("code.query", "code", "query"),
        ("text-matching", "text-matching", "query"),
    ):
        (got,) = client.post(path, {"inputs": "a", "prompt_name": name, "dimensions": 64}).json()
        assert np.array_equal(np.array(got, np.float32), vector("a", task, prompt, 64))
    (encoded,) = client.post(path, {"inputs": "a", "encoding_format": "base64"}).json()
    assert np.array_equal(np.frombuffer(base64.b64decode(encoded), "<f4"), vector("a"))


def test_tei_options_reach_the_service(client: Any, service: Any) -> None:
    for body in (
        {"truncate": False}, {"truncation_direction": "Left"}, {"normalize": False}, {},
    ):  # fmt: skip
        assert client.post("/embed", {"inputs": "a"} | body).status_code == 200
    assert [call.truncate for call in service.calls] == ["none", "start", "end", "end"]
    assert [call.normalize for call in service.calls] == [True, True, False, True]


def test_embed_all_gives_one_vector_a_token(client: Any, matrix: Vector) -> None:
    got = client.post("/embed_all", {"inputs": ["a", "bcd"]}).json()
    assert np.array_equal(np.array(got[1], np.float32), matrix("bcd"))


def test_tokens_and_back(client: Any) -> None:
    got = client.post("/tokenize", {"inputs": "ab", "add_special_tokens": True}).json()
    assert got == [
        [
            {"id": 97, "text": "a", "special": False, "start": 0, "stop": 1},
            {"id": 98, "text": "b", "special": False, "start": 1, "stop": 2},
        ]
    ]
    got = client.post("/tokenize", {"inputs": ["a"], "prompt_name": "passage"}).json()
    assert "".join(token["text"] for token in got[0]) == "Passage: a"
    assert client.post("/decode", {"ids": [1, 2]}).json() == ["1 2"]
    assert client.post("/decode", {"ids": [[1], [2, 3]]}).json() == ["1", "2 3"]
    for ids in ([1, [2]], [5000], "a"):
        assert client.post("/decode", {"ids": ids}).status_code == 422


def test_info_has_what_tei_tools_read(client: Any) -> None:
    got = client.get("/info").json()
    assert got["model_id"] == "jinaai/jina-embeddings-v4"
    assert got["max_input_length"] == 1000
    assert got["model_type"]["embedding"]["pooling"] == "mean"
    assert got["tasks"] == ["retrieval", "text-matching", "code"]


def test_tei_errors_are_strings(client: Any) -> None:
    response = client.post("/embed", {"inputs": []})
    assert response.status_code == 422
    assert isinstance(response.json()["error"], str)
    assert response.json()["error_type"] == "validation"
    assert client.post("/embed", {"inputs": "a", "truncation_direction": "Up"}).status_code == 422


def test_pooling_has_token_vectors_in_data(client: Any, matrix: Vector, vector: Vector) -> None:
    (item,) = client.post("/pooling", {"input": ["abc"], "model": "v4"}).json()["data"]
    assert (item["object"], item["index"]) == ("pooling", 0)
    assert np.array_equal(np.array(item["data"], np.float32), matrix("abc"))
    (item,) = client.post("/pooling", {"input": "abc", "encoding_format": "base64"}).json()["data"]
    flat = np.frombuffer(base64.b64decode(item["data"]), "<f4").reshape(item["shape"])
    assert np.array_equal(flat, matrix("abc"))
    for encoding in ("float", "base64"):
        body = {"input": "abc", "task": "embed", "encoding_format": encoding}
        (item,) = client.post("/pooling", body).json()["data"]
        data = item["data"]
        got = (
            np.array(data) if encoding == "float" else np.frombuffer(base64.b64decode(data), "<f4")
        )
        assert np.array_equal(got.astype(np.float32), vector("abc"))
    (item,) = client.post("/pooling", {"input": "abc", "task": "code.passage"}).json()["data"]
    assert np.array_equal(np.array(item["data"], np.float32), matrix("abc", "code", "passage"))


def test_models_are_listed_bare_name_first(client: Any) -> None:
    for path in ("/v1/models", "/models"):
        data = client.get(path).json()["data"]
        assert data[0]["id"] == "jina-embeddings-v4"
        assert data[0]["max_model_len"] == 1000
        assert "jina-embeddings-v4:code.passage" in [entry["id"] for entry in data]
    assert client.get("/v1/models/jinaai/jina-embeddings-v4").json()["object"] == "model"
    assert client.get("/v1/models/gpt").status_code == 404


@pytest.mark.parametrize(
    ("error", "path", "headers"),
    [
        (
            ServiceError(429, "queue_full", "m", retry_after=3),
            "/v1/embeddings",
            {"retry-after": "3"},
        ),
        (ServiceError(503, "loading", "m", retry_after=5), "/embed", {"retry-after": "5"}),
        (ServiceError(500, "fault", "m"), "/v2/models/a/infer", {"x-should-retry": "false"}),
        (ServiceError(401, "invalid_api_key", "m"), "/rerank", {"www-authenticate": "Bearer"}),
    ],
)
def test_errors_carry_the_headers_that_clients_obey(
    error: ServiceError, path: str, headers: dict[str, str]
) -> None:
    response = error_response(error, path)
    assert response.status_code == error.status
    for name in ("retry-after", "x-should-retry", "www-authenticate"):
        assert response.headers.get(name) == headers.get(name)
    assert response.headers["content-type"] == "application/json"


def test_foreign_ids_become_text_where_they_are_decoded() -> None:
    words = {1: "a", 2: "b"}
    ids = ForeignTokenIds(lambda row: "".join(words[i] for i in row))
    assert ids.resolve(["x", (1, 2)], None, INPUT) == ("x", "ab")
    with pytest.raises(ServiceError, match="item 1 of input"):
        ids.resolve(["x", (3,)], None, INPUT)
    assert ForeignTokenIds().resolve([(1, 2)], None, INPUT) == ((1, 2),)


def test_unknown_paths_and_methods_have_the_paths_error_body(client: Any) -> None:
    response = client.get("/v1/embedding")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"
    assert isinstance(client.get("/v2/nothing").json()["error"], str)
    response = client.get("/v1/embeddings")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.json()["detail"].endswith("use POST")


def test_decoding_foreign_ids_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(DependencyError, match="tiktoken"):
        open_cl100k()
