"""LanceDB's Jina class, with a subclass that knows the model's size."""

import pytest

pytest.importorskip("lancedb")
pytestmark = pytest.mark.clients


def test_jina(server, monkeypatch, texts, image_path, expected, close):
    import lancedb.embeddings.jinaai as jina

    monkeypatch.setattr(jina, "API_URL", f"{server}/v1/embeddings")
    function = jina.JinaEmbeddings(name="jina-embeddings-v4:retrieval.passage", api_key="any")
    close(function.compute_source_embeddings(texts), expected(texts, "passage"))
    mixed = [texts[0], image_path.read_bytes()]
    found = function.compute_source_embeddings(mixed)
    close(found, expected([texts[0], image_path], "passage"))
