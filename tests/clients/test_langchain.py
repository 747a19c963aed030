"""langchain-openai, langchain-community and langchain-huggingface."""

import pytest

pytestmark = pytest.mark.clients


def test_openai_embeddings(server, texts, expected, close):
    langchain_openai = pytest.importorskip("langchain_openai")
    passages = langchain_openai.OpenAIEmbeddings(
        model="jina-embeddings-v4:retrieval.passage",
        base_url=f"{server}/v1",
        api_key="any",
        check_embedding_ctx_length=False,
    )
    close(passages.embed_documents(texts), expected(texts, "passage"))
    queries = passages.model_copy(update={"model": "jina-embeddings-v4:retrieval.query"})
    close([queries.embed_query(texts[0])], expected(texts[:1]))


@pytest.fixture
def jina_embeddings(server, monkeypatch):
    jina = pytest.importorskip("langchain_community.embeddings.jina")
    monkeypatch.setattr(jina, "JINA_API_URL", f"{server}/v1/embeddings")
    return jina.JinaEmbeddings


def test_jina_embeddings(jina_embeddings, texts, expected, close):
    embeddings = jina_embeddings(jina_api_key="any", model_name="jina-embeddings-v4")
    close(embeddings.embed_documents(texts), expected(texts))
    close([embeddings.embed_query("a rose")], expected(["a rose"]))
    passages = jina_embeddings(
        jina_api_key="any", model_name="jina-embeddings-v4:retrieval.passage"
    )
    close(passages.embed_documents(texts), expected(texts, "passage"))


def test_jina_embeddings_of_images(jina_embeddings, image_path, expected, close):
    embeddings = jina_embeddings(jina_api_key="any", model_name="jina-embeddings-v4")
    close(embeddings.embed_images([str(image_path)] * 2), expected([image_path] * 2))


def test_jina_embeddings_show_the_reason_of_an_error(jina_embeddings):
    embeddings = jina_embeddings(jina_api_key="any", model_name="jina-embeddings-v2-base-en")
    with pytest.raises(RuntimeError, match="is not served here"):
        embeddings.embed_query("a")


def test_hugging_face_endpoint(server, texts, expected, close):
    langchain_huggingface = pytest.importorskip("langchain_huggingface")
    hub = pytest.importorskip("huggingface_hub")
    embeddings = langchain_huggingface.HuggingFaceEndpointEmbeddings(
        model="any", huggingfacehub_api_token="any"
    )
    embeddings.client = hub.InferenceClient(f"{server}/embed")
    close(embeddings.embed_documents(texts), expected(texts))
