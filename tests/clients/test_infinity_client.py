"""infinity-client: its vision API and its generated one."""

import pytest

pytest.importorskip("infinity_client")
pytestmark = pytest.mark.clients


@pytest.mark.parametrize("form", ["base64", "float"])
def test_vision_api_texts(server, texts, expected, close, form):
    from infinity_client.vision_client import InfinityVisionAPI

    api = InfinityVisionAPI(url=server, format=form, model="jina-embeddings-v4")
    found, num_tokens = api.embed("jina-embeddings-v4", texts).result()
    assert num_tokens > len(texts)
    close([vector.reshape(-1) for vector in found], expected(texts))


def test_vision_api_images(server, image_path, as_file, expected, close):
    from infinity_client.vision_client import InfinityVisionAPI
    from PIL import Image

    api = InfinityVisionAPI(url=server, model="jina-embeddings-v4")
    with Image.open(image_path) as image:
        image.load()
        found, _ = api.image_embed("jina-embeddings-v4", [image]).result()
    # The client sends JPEG, whatever the image was.
    close([found[0].reshape(-1)], expected([as_file(image_path, "JPEG")]))


def test_generated_client(server, texts, expected, close):
    from infinity_client import Client
    from infinity_client.api.default import embeddings, health
    from infinity_client.models import OpenAIEmbeddingInputText

    with Client(base_url=server) as client:
        assert health.sync(client=client) is not None
        body = OpenAIEmbeddingInputText(input_=texts, model="jina-embeddings-v4")
        answer = embeddings.sync(client=client, body=body)
    close([item.embedding for item in answer.data], expected(texts))
