"""KServe v2: JSON and the binary tail, as Triton's client and litellm send and read them."""

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trine.runtime.inputs import ImageText
from trine.runtime.serving.api.kserve.protocol import HEADER_LENGTH, parse_infer
from trine.runtime.serving.service.calls import ServiceError

Vector = Callable[..., Any]
INFER = "/v2/models/jina-embeddings-v4/infer"


def _tail(*elements: bytes) -> bytes:
    return b"".join(len(element).to_bytes(4, "little") + element for element in elements)


def _binary(tensors: dict[str, list[bytes]], **request: object) -> tuple[bytes, dict[str, str]]:
    """Return a body with a binary tail, and its headers."""
    tails = {name: _tail(*elements) for name, elements in tensors.items()}
    inputs = [
        {
            "name": name,
            "datatype": "BYTES",
            "shape": [len(tensors[name])],
            "parameters": {"binary_data_size": len(tail)},
        }
        for name, tail in tails.items()
    ]
    header = json.dumps({"inputs": inputs} | request).encode()
    return header + b"".join(tails.values()), {HEADER_LENGTH: str(len(header))}


def _json_body(texts: list[str], **request: object) -> dict[str, object]:
    tensor = {"name": "input_text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}
    return {"inputs": [tensor]} | request


def test_litellm_reads_one_output_of_two_axes(client: Any, vector: Vector) -> None:
    body = client.post(INFER, _json_body(["a", "b"], id="7")).json()
    (output,) = body["outputs"]
    assert (body["model_name"], body["model_version"], body["id"]) == (
        "jina-embeddings-v4", "1", "7",
    )  # fmt: skip
    assert (output["name"], output["datatype"], output["shape"]) == ("embedding", "FP32", [2, 256])
    got = np.array(output["data"], np.float32).reshape(2, 256)
    assert np.array_equal(got, np.stack([vector("a"), vector("b")]))


def test_binary_tails_both_ways(client: Any, vector: Vector) -> None:
    content, headers = _binary({"input_text": [b"a", b""]}, parameters={"binary_data_output": True})
    response = client.post(INFER, content=content, headers=headers)
    length = int(response.headers[HEADER_LENGTH])
    assert response.headers["content-type"] == "application/octet-stream"
    (output,) = json.loads(response.content[:length])["outputs"]
    tail = response.content[length:]
    assert output["parameters"]["binary_data_size"] == len(tail)
    got = np.frombuffer(tail, "<f4").reshape(output["shape"])
    assert np.array_equal(got, np.stack([vector("a"), vector("")]))


def test_outputs_are_those_asked_for_in_their_order(client: Any, matrix: Vector) -> None:
    outputs = [
        {"name": "truncated"},
        {"name": "offsets", "parameters": {"binary_data": True}},
        {"name": "embeddings", "parameters": {"binary_data": False}},
    ]
    path = "/v2/models/v4-multi-vector/versions/1/infer"
    response = client.post(path, _json_body(["a", "bcd"], outputs=outputs))
    length = int(response.headers[HEADER_LENGTH])
    truncated, offsets, rows = json.loads(response.content[:length])["outputs"]
    assert truncated["data"] == [False, False]
    assert offsets["shape"] == [3]
    starts = np.frombuffer(response.content[length:], "<i8")
    stacked = np.array(rows["data"], np.float32).reshape(rows["shape"])
    assert np.array_equal(stacked[starts[1] : starts[2]], matrix("bcd"))


def test_tasks_dimensions_and_images(
    client: Any, vector: Vector, png: bytes, png_base64: str, png_uri: str
) -> None:
    def embed(content: object, headers: dict[str, str] | None = None, path: str = INFER) -> Any:
        sent = {"content": content} if isinstance(content, bytes) else {"json": content}
        response = client.post(path, headers=headers, **sent)
        assert response.status_code == 200, response.text
        output = response.json()["outputs"][0]
        return np.array(output["data"], np.float32).reshape(output["shape"])

    passage = vector("a", "code", "passage", 64)
    body = _json_body(["a"], parameters={"task": "code.passage", "dimensions": 64})
    assert np.array_equal(embed(body)[0], passage)
    body = _json_body(["a", "a"])
    body["inputs"] += [
        {"name": "task", "shape": [2], "datatype": "BYTES", "data": ["code.passage", "code.query"]},
        {"name": "dimensions", "shape": [1], "datatype": "INT32", "data": [64]},
    ]
    got = embed(body)
    assert np.array_equal(got[0], passage)
    assert np.array_equal(got[1], vector("a", "code", "query", 64))
    got = embed(_json_body(["a"]), path="/v2/models/v4:code.passage/infer")
    assert np.array_equal(got[0], vector("a", "code", "passage"))
    image = vector(ImageText((png,)))
    uri = png_uri.encode()
    for tensors in (
        {"image": [png]},
        {"image": [png_base64.encode()]},
        {"image": [uri]},
        {"input_text": [uri]},
    ):
        assert np.array_equal(embed(*_binary(tensors))[0], image)
    got = embed(*_binary({"input_text": [b"t", b""], "image": [png, png]}))
    assert np.array_equal(got[0], vector(ImageText((png,), "t")))
    assert np.array_equal(got[1], image)


def test_compression_both_ways(client: Any, vector: Vector) -> None:
    content, headers = _binary({"input_text": [b"a"]}, parameters={"binary_data_output": True})
    plain = client.post(INFER, content=content, headers=headers | {"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    for name, pack in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        sent = headers | {"content-encoding": name, "accept-encoding": name}
        response = client.post(INFER, content=pack(content), headers=sent)
        assert response.headers["content-encoding"] == name
        assert response.content == plain.content


def test_a_header_length_of_another_request_is_ignored(client: Any) -> None:
    for length in ("999999", "9" * 5000):
        response = client.post(INFER, _json_body(["a"]), headers={HEADER_LENGTH: length})
        assert response.status_code == 200


def test_the_server_describes_itself(client: Any, service: Any) -> None:
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/health/live").status_code == 200
    model = "/v2/models/jina-embeddings-v4"
    for path in (model, f"{model}/versions/1"):
        body = client.get(path).json()
        assert body["outputs"][0] == {"name": "embedding", "datatype": "FP32", "shape": [-1, 256]}
    for path in (f"{model}/config", f"{model}/versions/1/config"):
        body = client.get(path).json()
        assert body["max_batch_size"] == 0
        assert body["input"][0]["data_type"] == "TYPE_STRING"
    ready = [f"{model}/ready", f"{model}/versions/1/ready", "/v2/health/ready"]
    assert [client.get(path).status_code for path in ready] == [200, 200, 200]
    names = [entry["name"] for entry in client.post("/v2/repository/index").json()]
    assert names == ["jina-embeddings-v4", "jina-embeddings-v4-multi-vector"]
    for name in names:
        assert (
            sum(len(o["shape"]) == 2 for o in client.get(f"/v2/models/{name}").json()["outputs"])
            == 1
        )
    service.state = "loading"
    assert [client.get(path).status_code for path in ready] == [503, 503, 503]
    assert client.get("/v2/repository/index").json()[0]["state"] == "UNAVAILABLE"
    assert client.get("/v2/models/gpt").status_code == 404
    assert client.get(f"{model}/versions/2").json().keys() == {"error"}


def _with(**changes: object) -> dict[str, list[object]]:
    tensor = {"name": "input_text", "shape": [1], "datatype": "BYTES", "data": ["a"]}
    return {"inputs": [tensor | changes]}


@pytest.mark.parametrize(
    "body",
    [
        {}, {"inputs": []}, _with(name="text"), _with(shape=[2]), _with(shape=[-1]),
        _with(shape=[1, 1, 1]), _with(shape=[]), _with(data=[1]), _with(data=None), _with(data="a"),
        _with(datatype="FP32", data=[0.5]), _with(datatype="INT8", data=[300]),
        _with(parameters={"binary_data_size": 5}), _with(parameters={"binary_data_size": "a"}),
        _with(parameters={"shared_memory_region": "x"}, data=None),
        _json_body(["a"], outputs=[{"name": "logits"}]), _json_body(["a"], outputs=[{}]),
        _json_body(["a"], parameters={"dimensions": "x"}),
        _json_body(["a"], parameters={"dimensions": 1000}),
        _json_body(["a"], parameters={"task": 3}), _json_body(["a"], parameters={"task": "x"}),
        {"inputs": _with()["inputs"] * 2},
        {"inputs": _with()["inputs"] + _with(name="image", shape=[2], data=["a", "b"])["inputs"]},
        {"inputs": _with()["inputs"] + _with(name="task", shape=[0], data=[])["inputs"]},
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused(client: Any, body: object) -> None:
    response = client.post(INFER, body)
    assert response.status_code in (400, 422), response.text
    assert list(response.json()) == ["error"]
    assert isinstance(response.json()["error"], str)


@pytest.mark.parametrize(
    ("shape", "status"), [([10], 413), ([9], 400), ([3, 4], 413), ([-1], 400), ([-5, -2], 400)]
)
def test_elements_are_counted_before_they_are_taken_apart(shape: list[int], status: int) -> None:
    tail = bytes(4) * 1_000_000
    tensor = {"name": "input_text", "datatype": "BYTES", "shape": shape,
              "parameters": {"binary_data_size": len(tail)}}  # fmt: skip
    header = json.dumps({"inputs": [tensor]}).encode()
    tracemalloc.start()
    with pytest.raises(ServiceError) as refused:
        parse_infer(header + tail, str(len(header)), 9)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused.value.status == status
    assert peak < 4 * len(tail)


@given(
    raw=st.binary(max_size=80),
    length=st.none() | st.text(max_size=4) | st.integers(0, 100).map(str),
    size=st.integers(-2, 50),
    cut=st.integers(0, 200),
)
def test_any_tail_is_read_or_refused(raw: bytes, length: str | None, size: int, cut: int) -> None:
    tensor = {"name": "input_text", "datatype": "BYTES", "shape": [1],
              "parameters": {"binary_data_size": size}}  # fmt: skip
    header = json.dumps({"inputs": [tensor]}).encode()
    for body, given_length in ((header + raw, str(len(header))), ((header + raw)[:cut], length)):
        try:
            asked = parse_infer(body, given_length, 9)
        except ServiceError as refused:
            if refused.status not in (400, 422):
                raise
        else:
            assert len(asked.inputs["input_text"].data) == 1


def test_an_error_of_an_element_names_its_input(client: Any) -> None:
    tensor = {"name": "image", "shape": [2], "datatype": "BYTES", "data": ["data:,x", "data:,y"]}
    assert "item 0 of image" in client.post(INFER, {"inputs": [tensor]}).json()["error"]
    texts = _json_body(["a", "data:image/png;base64,?"])
    assert "item 1 of input_text" in client.post(INFER, texts).json()["error"]
