"""Chroma's embedding functions for Jina, OpenAI and text-embeddings-inference."""

import numpy as np
import pytest

functions = pytest.importorskip("chromadb.utils.embedding_functions")
pytestmark = pytest.mark.clients


@pytest.fixture
def jina(server, monkeypatch):
    monkeypatch.setenv("CHROMA_JINA_API_KEY", "any")

    def make(**options):
        function = functions.JinaEmbeddingFunction(model_name="jina-embeddings-v4", **options)
        function._api_url = f"{server}/v1/embeddings"
        return function

    return make


def test_jina_texts(jina, texts, expected, close):
    function = jina(
        task="retrieval.passage", dimensions=128, query_config={"task": "retrieval.query"}
    )
    close(function(texts), expected(texts, "passage", dim=128))
    close(function.embed_query(texts), expected(texts, dim=128))


def test_jina_images(jina, image_path, as_file, expected, close):
    from PIL import Image

    with Image.open(image_path) as image:
        pixels = np.array(image.convert("RGB"))
    found = jina(task="retrieval.passage")([pixels])
    close(found, expected([image_path], "passage"))


def test_a_collection_finds_the_nearest(jina, texts):
    import chromadb

    client = chromadb.EphemeralClient()
    function = jina(task="retrieval.passage", query_config={"task": "retrieval.query"})
    collection = client.create_collection("texts", embedding_function=function)
    collection.add(documents=texts, ids=[str(i) for i in range(len(texts))])
    found = collection.query(query_texts=["SQL database"], n_results=1)
    assert found["documents"] == [[texts[0]]]


def test_openai(server, texts, expected, close):
    function = functions.OpenAIEmbeddingFunction(
        api_key="any", api_base=f"{server}/v1", model_name="jina-embeddings-v4"
    )
    close(function(texts), expected(texts))


def test_hugging_face_server(server, texts, expected, close):
    function = functions.HuggingFaceEmbeddingServer(url=f"{server}/embed")
    close(function(texts), expected(texts))
