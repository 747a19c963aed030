"""Weights of a graph as read without the onnx package are those that the onnx package reads."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.engines.native.graph_weights import GraphWeights
from trine.runtime.errors import BundleError


@pytest.mark.parametrize("adapters", ["merged", "runtime"])
@pytest.mark.parametrize("part", ["vision", "decoder"])
def test_weights_are_those_that_onnx_reads(
    int8_bundle: Callable[[str], Path], adapters: str, part: str
) -> None:
    bundle = open_bundle(int8_bundle(adapters))
    entry = bundle.manifest.engines[0]
    path = bundle.path(entry.vision if part == "vision" else entry.decoders["code"])
    weights = GraphWeights(path)
    initializers = onnx.load(path).graph.initializer
    assert weights.names == {tensor.name for tensor in initializers}
    for tensor in initializers:
        found = weights.get(tensor.name)
        assert found is not None
        expected = numpy_helper.to_array(tensor)
        assert found.shape == expected.shape
        assert found.tobytes() == expected.tobytes()
        weights.release()
    assert weights.get("abacus") is None


@pytest.mark.parametrize("damage", ["other bytes", "no data", "cut data"])
def test_damaged_files_are_refused(
    int8_bundle: Callable[[str], Path], tmp_path: Path, damage: str
) -> None:
    bundle = open_bundle(int8_bundle("merged"))
    source = bundle.path(bundle.manifest.engines[0].vision)
    path = tmp_path / "vision.onnx"
    content = source.read_bytes()
    path.write_bytes(b"\xff" * 99 if damage == "other bytes" else content)
    if damage != "no data":
        data = path.with_suffix(".data")
        shutil.copy(source.with_suffix(".data"), data)
        if damage == "cut data":
            data.write_bytes(data.read_bytes()[:1000])

    def read() -> None:
        weights = GraphWeights(path)
        for name in weights.names:
            weights.get(name)

    with pytest.raises(BundleError, match="export the bundle again"):
        read()


def _message(*fields: tuple[int, bytes | int]) -> bytes:
    """Return a protocol buffer of (number, bytes or a varint below 128)."""
    return b"".join(
        bytes([number << 3, value])
        if isinstance(value, int)
        else bytes([number << 3 | 2, len(value)]) + value
        for number, value in fields
    )


NAME, DIMS, TYPE, RAW, EXTERNAL = 8, 1, 2, 9, 13
OFFSET, TWO_FLOATS = (1, b"offset"), ((NAME, b"w"), (DIMS, 2), (TYPE, 1))


@pytest.mark.parametrize(
    "tensor",
    [
        _message((DIMS, 2), (TYPE, 1), (RAW, bytes(8))),
        _message((NAME, b"w"), (DIMS, 2), (RAW, bytes(8))),
        _message(*TWO_FLOATS),
        _message((NAME, b"\xff"), (DIMS, 2), (TYPE, 1), (RAW, bytes(8))),
        _message((NAME, b"w"), (DIMS, b"\xff" * 9 + b"\x7f"), (TYPE, 1), (RAW, bytes(8))),
        _message(*TWO_FLOATS, (RAW, bytes(7))),
        _message(*TWO_FLOATS, (EXTERNAL, _message(OFFSET))),
        _message(*TWO_FLOATS, (EXTERNAL, _message(OFFSET, (2, b"x")))),
        _message(*TWO_FLOATS, (EXTERNAL, _message(OFFSET, (2, b"-8")))),
        _message((NAME, b"w")) + b"\x4b",
        _message((NAME, b"w")) + bytes([RAW << 3 | 2, 99]),
    ],
    ids=[
        *("no name", "no type", "no values", "name no text", "endless size", "few values"),
        *("no offset", "offset no number", "offset before the file", "a group", "cut field"),
    ],
)
def test_a_graph_with_a_damaged_tensor_is_refused_by_its_file(
    tmp_path: Path, tensor: bytes
) -> None:
    path = tmp_path / "decoder.onnx"
    path.write_bytes(_message((7, _message((5, tensor)))))
    path.with_suffix(".data").write_bytes(bytes(64))
    with pytest.raises(BundleError, match=r"decoder\.onnx: .*; export the bundle again"):
        GraphWeights(path).get("w")


def test_cut_graphs_are_refused_by_their_file(
    int8_bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    bundle = open_bundle(int8_bundle("merged"))
    source = bundle.path(bundle.manifest.engines[0].vision)
    content = source.read_bytes()
    path = tmp_path / "vision.onnx"
    path.with_suffix(".data").symlink_to(source.with_suffix(".data"))
    for length in np.linspace(1, len(content) // 2, 40).astype(int).tolist():
        path.write_bytes(content[:length])
        with pytest.raises(BundleError, match=r"vision\.onnx: .*; export the bundle again"):
            GraphWeights(path)


def test_a_type_that_was_asked_for_is_checked(int8_bundle: Callable[[str], Path]) -> None:
    bundle = open_bundle(int8_bundle("merged"))
    weights = GraphWeights(bundle.path(bundle.manifest.engines[0].vision))
    name = next(n for n in weights.names if n.endswith(".int8"))
    with pytest.raises(BundleError, match="is int8, not float32"):
        weights.floats(name)
    found = weights.get(name)
    assert found is not None
    assert found.dtype == np.int8
