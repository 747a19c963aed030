"""openai (Python)."""

import asyncio
import base64

import httpx
import numpy as np
import pytest

from tests.runtime.serving.server_process import running_server

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.clients


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server}/v1", api_key="any", max_retries=0)


@pytest.mark.parametrize("form", [None, "float", "base64"])
def test_lists_of_texts(client, texts, expected, close, form):
    more = {} if form is None else {"encoding_format": form}
    answer = client.embeddings.create(model="jina-embeddings-v4", input=texts, **more)
    assert [item.index for item in answer.data] == [0, 1, 2, 3]
    assert answer.usage.total_tokens > len(texts)
    if form == "base64":
        found = [np.frombuffer(base64.b64decode(i.embedding), "<f4") for i in answer.data]
    else:
        found = [item.embedding for item in answer.data]
    close(found, expected(texts))


def test_one_text_dimensions_and_user(client, expected, close):
    answer = client.embeddings.create(
        model="jina-embeddings-v4", input="a rose", dimensions=128, user="u1"
    )
    close([answer.data[0].embedding], expected(["a rose"], dim=128))


def test_token_ids_are_refused_with_the_remedy(client):
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        client.embeddings.create(model="jina-embeddings-v4", input=[[1, 2]])


def test_token_ids_are_the_models_own_where_the_server_says_so(nano_bundle, expected, close):
    with running_server(nano_bundle, "--token-ids", "own") as url:
        shown = httpx.post(f"{url}/tokenize", json={"inputs": ["Query: a rose"]}).json()
        ids = [token["id"] for token in shown[0]]
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="any")
        answer = client.embeddings.create(model="jina-embeddings-v4", input=ids)
        close([answer.data[0].embedding], expected(["a rose"]))
        many = client.embeddings.create(model="jina-embeddings-v4", input=[ids, ids])
        close([item.embedding for item in many.data], expected(["a rose"] * 2))


def test_task_in_the_body_or_in_the_models_name(client, texts, expected, close):
    wanted = expected(texts, "passage", "code")
    by_body = client.embeddings.create(
        model="jina-embeddings-v4", input=texts, extra_body={"task": "code.passage"}
    )
    by_name = client.embeddings.create(model="jina-embeddings-v4:code.passage", input=texts)
    for answer in (by_body, by_name):
        close([item.embedding for item in answer.data], wanted)


def test_multi_vectors(client, texts, expected_multi, close):
    answer = client.embeddings.create(
        model="jina-embeddings-v4",
        input=texts,
        encoding_format="float",
        extra_body={"return_multivector": True},
    )
    for item, wanted in zip(answer.data, expected_multi(texts), strict=True):
        close(item.embeddings, wanted)


def test_images(client, image_uri, image_path, expected, close):
    answer = client.embeddings.create(
        model="jina-embeddings-v4", input=["a square", {"image": image_uri}, image_uri]
    )
    wanted = expected(["a square", image_path, image_path])
    close([item.embedding for item in answer.data], wanted)


def test_async_client(server, texts, expected, close):
    async def run():
        async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key="any") as client:
            return await client.embeddings.create(model="jina-embeddings-v4", input=texts)

    close([item.embedding for item in asyncio.run(run()).data], expected(texts))


def test_models_are_listed(client):
    names = [model.id for model in client.models.list()]
    # The bundle is nano: it goes by its own name first, and answers to the published one.
    assert names[0] == "nano"
    assert "jina-embeddings-v4" in names
    assert "nano:retrieval.passage" in names


def test_errors_have_their_classes_and_fields(client):
    with pytest.raises(openai.NotFoundError) as unknown:
        client.embeddings.create(model="text-embedding-3-small", input="a")
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    assert unknown.value.request_id
    with pytest.raises(openai.UnprocessableEntityError) as wrong:
        client.embeddings.create(model="jina-embeddings-v4", input="a", dimensions=100_000)
    assert wrong.value.param == "dimensions"
