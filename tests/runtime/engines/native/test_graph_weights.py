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


def test_a_type_that_was_asked_for_is_checked(int8_bundle: Callable[[str], Path]) -> None:
    bundle = open_bundle(int8_bundle("merged"))
    weights = GraphWeights(bundle.path(bundle.manifest.engines[0].vision))
    name = next(n for n in weights.names if n.endswith(".int8"))
    with pytest.raises(BundleError, match="is int8, not float32"):
        weights.floats(name)
    found = weights.get(name)
    assert found is not None
    assert found.dtype == np.int8
