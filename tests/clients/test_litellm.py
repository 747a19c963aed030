"""litellm, in the seven dialects in which it reaches embedding servers."""

import pytest

litellm = pytest.importorskip("litellm")
pytestmark = pytest.mark.clients


def vectors(**request):
    answer = litellm.embedding(api_key="any", max_retries=0, **request)
    return [item["embedding"] for item in answer.data]


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_openai_dialects(server, texts, expected, close, provider):
    found = vectors(model=f"{provider}/jina-embeddings-v4", input=texts, api_base=f"{server}/v1")
    close(found, expected(texts))


def test_openai_dimensions(server, texts, expected, close):
    found = vectors(
        model="openai/jina-embeddings-v4",
        input=texts,
        api_base=f"{server}/v1",
        dimensions=64,
        # litellm knows the parameter of OpenAI's own models only.
        allowed_openai_params=["dimensions"],
    )
    close(found, expected(texts, dim=64))


def test_jina(server, texts, image_uri, image_path, expected, close):
    found = vectors(
        model="jina_ai/jina-embeddings-v4",
        input=[*texts, image_uri],
        api_base=f"{server}/v1",
        task="retrieval.passage",
        dimensions=128,
    )
    close(found, expected([*texts, image_path], "passage", dim=128))


def test_hugging_face(server, texts, expected, close):
    found = vectors(
        model="huggingface/any", input=texts, api_base=f"{server}/embed", input_type="embed"
    )
    close(found, expected(texts))


def test_infinity(server, texts, expected, close):
    found = vectors(
        model="infinity/jina-embeddings-v4", input=texts, api_base=server, dimensions=128
    )
    close(found, expected(texts, dim=128))


def test_triton(server, texts, expected, close):
    url = f"{server}/v2/models/jina-embeddings-v4/infer"
    close(vectors(model="triton/jina-embeddings-v4", input=texts, api_base=url), expected(texts))


def test_rerank(server, texts):
    answer = litellm.rerank(
        model="jina_ai/jina-embeddings-v4",
        query="SQL database",
        documents=texts,
        top_n=2,
        api_base=f"{server}/v1/rerank",
        api_key="any",
    )
    assert len(answer.results) == 2
    assert answer.results[0]["index"] == 0
