"""Cohere's package, both versions of its API."""

import numpy as np
import pytest

cohere = pytest.importorskip("cohere")
pytestmark = pytest.mark.clients


@pytest.fixture
def client(server):
    return cohere.ClientV2(base_url=server, api_key="any")


@pytest.mark.parametrize(
    ("input_type", "side"), [("search_query", "query"), ("search_document", "passage")]
)
def test_texts(client, texts, expected, close, input_type, side):
    found = client.embed(
        model="jina-embeddings-v4",
        texts=texts,
        input_type=input_type,
        embedding_types=["float", "ubinary"],
        output_dimension=128,
    )
    wanted = expected(texts, side, dim=128)
    close(found.embeddings.float_, wanted)
    assert np.array_equal(found.embeddings.ubinary, np.packbits(np.array(wanted) > 0, axis=1))
    assert found.meta.billed_units.input_tokens > 0


def test_images(client, image_path, image_uri, expected, close):
    found = client.embed(
        model="jina-embeddings-v4",
        images=[image_uri],
        input_type="image",
        embedding_types=["float"],
    )
    close(found.embeddings.float_, expected([image_path], "passage"))


def test_the_first_version(server, texts, expected, close):
    found = cohere.Client(base_url=server, api_key="any").embed(
        model="jina-embeddings-v4", texts=texts, input_type="search_document"
    )
    close(found.embeddings, expected(texts, "passage"))


def test_an_unknown_model_is_an_error_with_its_message(client):
    with pytest.raises(cohere.NotFoundError, match=r"embed-v4\.0"):
        client.embed(
            model="embed-v4.0",
            texts=["a"],
            input_type="search_query",
            embedding_types=["float"],
        )
