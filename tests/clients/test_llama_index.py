"""LlamaIndex: Jina, OpenAI, OpenAI-like and text-embeddings-inference classes."""

import asyncio

import numpy as np
import pytest

pytestmark = pytest.mark.clients


@pytest.fixture
def jina(server):
    package = pytest.importorskip("llama_index.embeddings.jinaai")

    def make(**options):
        embedding = package.JinaEmbedding(model="jina-embeddings-v4", api_key="any", **options)
        embedding._api.api_url = f"{server}/v1/embeddings"
        return embedding

    return make


def test_jina_texts(jina, texts, expected, close):
    passages = jina(task="retrieval.passage", dimensions=128)
    wanted = expected(texts, "passage", dim=128)
    close(passages.get_text_embedding_batch(texts), wanted)
    close(asyncio.run(passages.aget_text_embedding_batch(texts)), wanted)
    close([jina(task="code.query").get_query_embedding("sort")], expected(["sort"], task="code"))


def test_jina_images(jina, image_path, expected, close):
    close([jina().get_image_embedding(str(image_path))], expected([image_path]))


@pytest.mark.parametrize("kind", ["binary", "ubinary"])
def test_jina_binary_vectors_are_the_signs(jina, texts, expected, kind):
    found = jina(encoding_queries=kind, encoding_documents=kind)
    wanted = expected(texts) > 0
    np.testing.assert_array_equal(found.get_text_embedding_batch(texts), wanted)
    np.testing.assert_array_equal(found.get_query_embedding(texts[0]), wanted[0])


def test_jina_late_chunking(jina, texts, embedder):
    embedding = jina(task="retrieval.passage", late_chunking=True)
    found = np.array(embedding.get_text_embedding_batch(texts[:3]))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    alone = np.array(embedding.get_text_embedding_batch(texts[:1]))
    # The first text sees nothing before it: its vector does not depend on what follows.
    np.testing.assert_allclose(found[0], alone[0], atol=2e-5)


def test_jina_errors_show_the_reason(jina):
    with pytest.raises(RuntimeError, match="classification"):
        jina(task="classification").get_query_embedding("a")


def test_openai_like(server, texts, expected, close):
    package = pytest.importorskip("llama_index.embeddings.openai_like")
    embedding = package.OpenAILikeEmbedding(
        model_name="jina-embeddings-v4:retrieval.passage", api_base=f"{server}/v1", api_key="any"
    )
    close(embedding.get_text_embedding_batch(texts), expected(texts, "passage"))


def test_openai(server, texts, expected, close):
    package = pytest.importorskip("llama_index.embeddings.openai")
    embedding = package.OpenAIEmbedding(
        model_name="jina-embeddings-v4", api_base=f"{server}/v1", api_key="any", dimensions=64
    )
    close(embedding.get_text_embedding_batch(texts), expected(texts, dim=64))
    close(asyncio.run(embedding.aget_text_embedding_batch(texts)), expected(texts, dim=64))


def test_text_embeddings_inference(server, texts, expected, close):
    package = pytest.importorskip("llama_index.embeddings.text_embeddings_inference")
    embedding = package.TextEmbeddingsInference(model_name="jina-embeddings-v4", base_url=server)
    close(embedding.get_text_embedding_batch(texts), expected(texts))
    close([embedding.get_query_embedding("a rose")], expected(["a rose"]))
