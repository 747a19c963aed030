"""Haystack: Jina's and OpenAI's embedders."""

import pytest

haystack = pytest.importorskip("haystack")
pytestmark = pytest.mark.clients


@pytest.fixture
def key():
    return haystack.utils.Secret.from_token("any")


def test_jina_texts_and_documents(server, key, texts, expected, close):
    jina = pytest.importorskip("haystack_integrations.components.embedders.jina")
    url = f"{server}/v1/embeddings"
    options = {"api_key": key, "model": "jina-embeddings-v4", "base_url": url, "dimensions": 128}
    found = jina.JinaTextEmbedder(task="retrieval.query", **options).run(texts[0])
    close([found["embedding"]], expected(texts[:1], dim=128))
    assert found["meta"]["usage"]["total_tokens"] > 0
    documents = [haystack.Document(content=text) for text in texts]
    embedder = jina.JinaDocumentEmbedder(task="retrieval.passage", batch_size=3, **options)
    filled = embedder.run(documents)["documents"]
    close([document.embedding for document in filled], expected(texts, "passage", dim=128))


def test_jina_images(server, key, image_path, expected, close):
    jina = pytest.importorskip("haystack_integrations.components.embedders.jina")
    embedder = jina.JinaDocumentImageEmbedder(
        api_key=key, model="jina-embeddings-v4", base_url=f"{server}/v1/embeddings"
    )
    document = haystack.Document(content="", meta={"file_path": str(image_path)})
    filled = embedder.run([document])["documents"]
    # Without a size the client sends the file as it is.
    close([filled[0].embedding], expected([image_path]))


def test_openai(server, key, texts, expected, close):
    from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder

    options = {"api_key": key, "api_base_url": f"{server}/v1"}
    query = OpenAITextEmbedder(model="jina-embeddings-v4:retrieval.query", **options)
    close([query.run(texts[0])["embedding"]], expected(texts[:1]))
    passages = OpenAIDocumentEmbedder(
        model="jina-embeddings-v4:retrieval.passage", progress_bar=False, **options
    )
    filled = passages.run([haystack.Document(content=text) for text in texts])["documents"]
    close([document.embedding for document in filled], expected(texts, "passage"))
