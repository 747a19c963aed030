"""Ollama's package."""

import pytest

ollama = pytest.importorskip("ollama")
pytestmark = pytest.mark.clients


@pytest.fixture
def client(server):
    return ollama.Client(host=server)


@pytest.mark.parametrize("side", ["query", "passage"])
def test_texts(client, texts, expected, close, side):
    found = client.embed(model=f"jina-embeddings-v4:retrieval.{side}", input=texts, dimensions=128)
    close(found.embeddings, expected(texts, side, dim=128))
    assert found.prompt_eval_count > 0


def test_the_older_call(client, texts, expected, close):
    found = client.embeddings(model="jina-embeddings-v4:latest", prompt=texts[0])
    close([found.embedding], expected(texts[:1]))


def test_models_are_listed(client):
    assert "jina-embeddings-v4" in [model.model for model in client.list().models]


def test_an_unknown_model_is_an_error_with_its_message(client):
    with pytest.raises(ollama.ResponseError, match="nomic-embed-text") as raised:
        client.embed(model="nomic-embed-text", input="a")
    assert raised.value.status_code == 404
