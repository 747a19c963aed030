"""huggingface_hub's client of text-embeddings-inference."""

import asyncio

import pytest

hub = pytest.importorskip("huggingface_hub")
pytestmark = pytest.mark.clients


@pytest.mark.parametrize("path", ["", "/embed"])
def test_feature_extraction(server, texts, expected, close, path):
    client = hub.InferenceClient(server + path)
    close(client.feature_extraction(texts), expected(texts))
    close(client.feature_extraction("a rose"), expected(["a rose"]))


def test_prompt_names_carry_the_task(server, texts, expected, close):
    client = hub.InferenceClient(f"{server}/embed")
    passages = client.feature_extraction(texts, prompt_name="passage", truncate=True)
    close(passages, expected(texts, "passage"))
    code = client.feature_extraction(texts, prompt_name="code.query", normalize=True)
    close(code, expected(texts, task="code"))


def test_async_client(server, texts, expected, close):
    async def run():
        return await hub.AsyncInferenceClient(f"{server}/embed").feature_extraction(texts)

    close(asyncio.run(run()), expected(texts))


def test_errors_show_the_reason(server):
    client = hub.InferenceClient(f"{server}/embed")
    with pytest.raises(hub.errors.HfHubHTTPError, match="passage"):
        client.feature_extraction("a", prompt_name="unknown")
