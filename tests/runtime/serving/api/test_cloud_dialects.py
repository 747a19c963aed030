"""The dialects of Cohere, Ollama and SageMaker, with what their clients send."""

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trine.runtime.inputs import ImageText

Vector = Callable[..., Any]


@pytest.mark.parametrize(
    ("input_type", "task", "prompt"),
    [
        ("search_query", "retrieval", "query"),
        ("search_document", "retrieval", "passage"),
        ("classification", "text-matching", "query"),
        ("clustering", "text-matching", "query"),
        (None, "retrieval", "query"),
    ],
)
def test_cohere_input_types_choose_task_and_side(
    client: Any, vector: Vector, input_type: str | None, task: str, prompt: str
) -> None:
    body = {"model": "v4", "texts": ["a rose"], "input_type": input_type}
    answer = client.post("/v2/embed", body).json()
    assert np.allclose(answer["embeddings"]["float"], [vector("a rose", task, prompt)], atol=1e-6)
    assert answer["texts"] == ["a rose"]
    assert answer["meta"]["billed_units"]["input_tokens"] > 0


def test_a_task_in_the_models_name_stays_what_classification_uses(
    client: Any, vector: Vector
) -> None:
    body = {"model": "v4:code.passage", "texts": ["a"], "input_type": "classification"}
    found = client.post("/v2/embed", body).json()["embeddings"]["float"]
    assert np.allclose(found, [vector("a", "code", "passage")], atol=1e-6)


def test_cohere_answers_every_type_that_was_asked_for(client: Any, vector: Vector) -> None:
    types = ["float", "base64", "ubinary"]
    body = {"texts": ["a", "b"], "embedding_types": types, "output_dimension": 64}
    found = client.post("/v2/embed", body).json()["embeddings"]
    assert sorted(found) == sorted(types)
    assert np.array(found["ubinary"]).shape == (2, 8)
    decoded = np.frombuffer(base64.b64decode(found["base64"][1]), "<f4")
    assert np.array_equal(decoded, np.array(found["float"][1], np.float32))


def test_coheres_first_version_answers_a_bare_list(client: Any, vector: Vector) -> None:
    answer = client.post("/v1/embed", {"texts": ["a"], "input_type": "search_document"}).json()
    assert np.allclose(answer["embeddings"], [vector("a", prompt="passage")], atol=1e-6)
    assert answer["response_type"] == "embeddings_floats"
    keyed = client.post("/v1/embed", {"texts": ["a"], "embedding_types": ["float"]}).json()
    assert list(keyed["embeddings"]) == ["float"]


def test_cohere_takes_images_and_items_of_both(
    client: Any, vector: Vector, png: bytes, png_uri: str
) -> None:
    body: dict[str, object] = {"images": [png_uri], "input_type": "image"}
    found = client.post("/v2/embed", body).json()["embeddings"]["float"]
    assert np.allclose(found, [vector(ImageText((png,)), prompt="passage")], atol=1e-6)
    content = [
        {"type": "text", "text": "a rose"},
        {"type": "image_url", "image_url": {"url": png_uri}},
    ]
    body = {"inputs": [{"content": content}], "input_type": "search_document"}
    found = client.post("/v2/embed", body).json()["embeddings"]["float"]
    assert np.allclose(found, [vector(ImageText((png,), "a rose"), prompt="passage")], atol=1e-6)


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [
        ({}, 422, "give one of them"),
        ({"texts": ["a"], "images": ["b"]}, 422, "give one of them"),
        ({"texts": []}, 422, "give one of them"),
        ({"texts": ["a"], "embedding_types": ["int4"]}, 422, "embedding_types names 'int4'"),
        ({"texts": ["a"], "output_dimension": 999}, 422, "output_dimension is 999"),
        ({"texts": ["a"], "max_tokens": 0}, 422, "max_tokens is 0"),
        ({"texts": ["a"], "input_type": "poem"}, 422, "poem"),
        ({"texts": ["a"], "model": "embed-v4.0"}, 404, "embed-v4.0"),
        ({"texts": ["a" * 3000], "truncate": "NONE"}, 422, "item 0 of texts"),
    ],
)
def test_what_cohere_cannot_have_is_said_in_its_message(
    client: Any, more: dict[str, object], status: int, words: str
) -> None:
    response = client.post("/v2/embed", more)
    assert response.status_code == status
    assert list(response.json()) == ["message"]
    assert words in response.json()["message"]


@pytest.mark.parametrize("model", ["jina-embeddings-v4", "jina-embeddings-v4:latest", None])
def test_ollama_embeds_one_text_or_many(client: Any, vector: Vector, model: str | None) -> None:
    one = client.post("/api/embed", {"model": model, "input": "a"}).json()
    assert np.allclose(one["embeddings"], [vector("a")], atol=1e-6)
    many = client.post("/api/embed", {"model": model, "input": ["a", "bb"], "dimensions": 64})
    assert np.array(many.json()["embeddings"]).shape == (2, 64)
    assert many.json()["prompt_eval_count"] > 0
    assert many.json()["total_duration"] > 0


def test_ollamas_model_name_carries_the_task(client: Any, vector: Vector) -> None:
    body = {"model": "jina-embeddings-v4:retrieval.passage", "input": "a"}
    found = client.post("/api/embed", body).json()["embeddings"]
    assert np.allclose(found, [vector("a", prompt="passage")], atol=1e-6)
    old = client.post("/api/embeddings", {"model": body["model"], "prompt": "a"}).json()
    assert np.allclose(old["embedding"], found[0])


def test_ollama_lists_models_and_its_version(client: Any) -> None:
    names = [model["name"] for model in client.get("/api/tags").json()["models"]]
    assert "jina-embeddings-v4" in names
    assert "jina-embeddings-v4:retrieval.passage" in names
    assert client.get("/api/version").json()["version"]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/api/embed", {"input": []}, 422, "empty"),
        ("/api/embed", {"input": "a" * 3000, "truncate": False}, 422, "item 0 of input"),
        ("/api/embed", {"input": "a", "model": "nomic-embed-text"}, 404, "nomic-embed-text"),
        ("/api/embeddings", {"model": "v4"}, 422, "prompt"),
        ("/api/pull", {}, 404, "/docs"),
    ],
)
def test_what_ollama_cannot_have_is_said_in_its_error(
    client: Any, path: str, body: dict[str, object], status: int, words: str
) -> None:
    response = client.post(path, body)
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    assert words in response.json()["error"]


def test_sagemaker_takes_both_bodies(client: Any, vector: Vector) -> None:
    openai = client.post("/invocations", {"input": ["a"], "task": "retrieval.passage"}).json()
    assert np.allclose(openai["data"][0]["embedding"], vector("a", prompt="passage"), atol=1e-6)
    tei = client.post("/invocations", {"inputs": ["a", "b"]}).json()
    assert np.allclose(tei, [vector("a"), vector("b")], atol=1e-6)


def test_sagemaker_is_told_whether_the_server_is_ready(client: Any, service: Any) -> None:
    assert client.get("/ping").status_code == 200
    service.state = "draining"
    assert client.get("/ping").status_code == 503


def test_similarity_is_the_cosine_with_the_source(client: Any, vector: Vector) -> None:
    inputs = {"source_sentence": "a", "sentences": ["bb", "a"]}
    found = client.post("/similarity", {"inputs": inputs}).json()
    assert np.allclose(found, [vector("a") @ vector("bb"), 1], atol=1e-6)
    passages = {"inputs": inputs, "parameters": {"prompt_name": "text-matching"}}
    found = client.post("/similarity", passages).json()
    expected = vector("a", "text-matching") @ vector("bb", "text-matching")
    assert found[0] == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize(
    ("inputs", "index", "words"),
    [
        ({"source_sentence": "a", "sentences": []}, None, "empty"),
        ({"source_sentence": "a", "sentences": ["b", "c" * 3000]}, 1, "item 1 of sentences"),
        ({"source_sentence": "c" * 3000, "sentences": ["b"]}, 0, "source_sentence"),
    ],
)
def test_what_cannot_be_compared_is_named(
    client: Any, inputs: dict[str, object], index: int | None, words: str
) -> None:
    body = {"inputs": inputs, "parameters": {"truncate": False}}
    response = client.post("/similarity", body)
    assert response.status_code == 422
    assert response.json()["error_type"] == "validation"
    assert response.json()["index"] == index
    assert words in response.json()["error"]
