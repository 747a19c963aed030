"""tritonclient over HTTP."""

import numpy as np
import pytest

http = pytest.importorskip("tritonclient.http")
pytestmark = pytest.mark.clients


@pytest.fixture
def client(server):
    with http.InferenceServerClient(server.removeprefix("http://")) as made:
        yield made


def bytes_input(name, values, binary=True):
    tensor = http.InferInput(name, [len(values)], "BYTES")
    tensor.set_data_from_numpy(np.array(values, dtype=np.object_), binary_data=binary)
    return tensor


def test_server_and_models_are_described(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("jina-embeddings-v4")
    assert client.get_server_metadata()["name"] == "trine"
    metadata = client.get_model_metadata("jina-embeddings-v4")
    assert metadata["outputs"][0]["shape"] == [-1, 256]
    assert client.get_model_config("jina-embeddings-v4")["max_batch_size"] == 0
    assert len(client.get_model_repository_index()) == 2


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_texts(client, texts, expected, close, binary, compression):
    answer = client.infer(
        "jina-embeddings-v4",
        [bytes_input("input_text", texts, binary)],
        outputs=[http.InferRequestedOutput("embedding", binary_data=binary)],
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    close(answer.as_numpy("embedding"), expected(texts))


def test_images_and_tasks(client, image_path, expected, close):
    image = bytes_input("image", [image_path.read_bytes()])
    task = bytes_input("task", ["code.passage"])
    answer = client.infer("jina-embeddings-v4", [image, task])
    close(answer.as_numpy("embedding"), expected([image_path], "passage", "code"))


def test_multi_vectors(client, texts, expected_multi, close):
    answer = client.infer("jina-embeddings-v4-multi-vector", [bytes_input("input_text", texts)])
    rows, offsets = answer.as_numpy("embeddings"), answer.as_numpy("offsets")
    found = np.split(rows, offsets[1:-1] if len(offsets) > len(texts) else offsets[1:])
    for vectors, wanted in zip(found, expected_multi(texts), strict=True):
        close(vectors, wanted)


def test_errors_show_the_reason(client):
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException, match="is not served here"):
        client.infer("other", [bytes_input("input_text", ["a"])])
