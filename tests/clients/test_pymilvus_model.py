"""pymilvus-model: Jina's and text-embeddings-inference's functions."""

import pytest

pytestmark = pytest.mark.clients


@pytest.fixture
def jina(server, monkeypatch):
    module = pytest.importorskip("pymilvus.model.dense.jinaai")
    monkeypatch.setattr(module, "API_URL", f"{server}/v1/embeddings")
    return module.JinaEmbeddingFunction


def test_jina(jina, texts, expected, close):
    function = jina("jina-embeddings-v4", api_key="any")
    assert function.dim == 256
    close(function.encode_queries(texts), expected(texts))
    close(function.encode_documents(texts), expected(texts, "passage"))


def test_jina_rerank(server, monkeypatch, texts):
    module = pytest.importorskip("pymilvus.model.reranker.jinaai")
    monkeypatch.setattr(module, "API_URL", f"{server}/v1/rerank")
    found = module.JinaRerankFunction("jina-embeddings-v4", api_key="any")("SQL", texts, top_k=2)
    assert found[0].text == texts[0]
    assert found[0].score >= found[1].score


def test_text_embeddings_inference(server, texts, expected, close):
    module = pytest.importorskip("pymilvus.model.dense.tei")
    function = module.TEIEmbeddingFunction(api_url=server)
    assert function.dim == 256
    close(function.encode_documents(texts), expected(texts))
