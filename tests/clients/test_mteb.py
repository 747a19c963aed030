"""mteb's wrappers of OpenAI-like servers. mteb brings PyTorch; it is not in requirements.txt."""

import numpy as np
import pytest

mteb = pytest.importorskip("mteb")
pytestmark = pytest.mark.clients


@pytest.fixture(scope="module")
def told():
    """What mteb tells every model of the task it is evaluated on."""
    return {
        "task_metadata": mteb.get_task("NFCorpus").metadata,
        "hf_split": "test",
        "hf_subset": "default",
    }


@pytest.mark.parametrize("chat", [True, False])
def test_single_vectors(server, told, texts, expected, close, chat):
    from mteb.models import OpenAIAPIEncodeWrapper

    wrapper = OpenAIAPIEncodeWrapper(
        server, "jina-embeddings-v4:retrieval.passage", use_chat_template=chat
    )
    found = wrapper.encode([{"text": texts}], show_progress_bar=False, **told)
    close(found, expected(texts, "passage"))


def test_images(server, told, image_path, as_file, expected, close):
    from mteb.models import OpenAIAPIEncodeWrapper
    from PIL import Image

    wrapper = OpenAIAPIEncodeWrapper(server, "jina-embeddings-v4", modalities=["image"])
    with Image.open(image_path) as image:
        found = wrapper.encode([{"image": [image] * 2}], show_progress_bar=False, **told)
    close(found, expected([as_file(image_path, "PNG")] * 2))


@pytest.mark.parametrize("chat", [True, False])
def test_multi_vectors(server, told, texts, expected_multi, close, chat):
    from mteb.models.openai_wrappers import OpenAIAPITokenEmbedWrapper

    wrapper = OpenAIAPITokenEmbedWrapper(server, "jina-embeddings-v4", use_chat_template=chat)
    found = wrapper._encode([{"text": texts}], show_progress_bar=False, **told)
    for vectors, wanted in zip(found, expected_multi(texts), strict=True):
        assert np.asarray(vectors).shape == wanted.shape
        close(vectors, wanted)


def test_rerank(server, texts):
    from mteb.models.openai_wrappers import OpenAIAPIRerankWrapper

    wrapper = OpenAIAPIRerankWrapper(server, "jina-embeddings-v4")
    scores = wrapper._rerank("SQL", texts)
    assert len(scores) == len(texts)
    assert np.argmax(scores) == 0
