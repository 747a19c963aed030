"""Packed weights in a file: mapped, shared, and never those of another graph or version."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trine.kernels.cpu.library import why_unavailable
from trine.runtime.bundle.bundle import Bundle, open_bundle
from trine.runtime.bundle.safetensors_file import TensorFile
from trine.runtime.embedder import Embedder
from trine.runtime.engines.base import EngineOptions
from trine.runtime.engines.native import packed_file
from trine.runtime.engines.native.engine import NativeCpuEngine
from trine.runtime.engines.native.packed_file import packed_path, write_packed
from trine.runtime.engines.select import engine_named
from trine.runtime.errors import BundleError

pytestmark = pytest.mark.skipif(
    why_unavailable() is not None, reason=why_unavailable() or "the kernels are here"
)


@pytest.fixture
def bundle(int8_bundle: Callable[[str], Path], tmp_path: Path) -> Bundle:
    return open_bundle(Path(shutil.copytree(int8_bundle("merged"), tmp_path / "bundle")))


def engine(bundle: Bundle) -> NativeCpuEngine:
    options = EngineOptions(threads=1, tasks=("retrieval",))
    return NativeCpuEngine(bundle, engine_named(bundle, "native-int8"), options)


def write_all(bundle: Bundle) -> None:
    opened = engine(bundle)
    opened.open_vision()
    for graph, layers in opened.packed.items():
        write_packed(packed_path(bundle, graph), layers)


def test_mapped_weights_give_the_same_vectors(bundle: Bundle) -> None:
    def vectors() -> np.ndarray:
        embedder = Embedder.load(
            bundle.folder, engine="native-int8", tasks=("retrieval",), threads=1
        )
        image = np.arange(60 * 60 * 3, dtype=np.uint8).reshape(60, 60, 3)
        texts = embedder.encode_text(["one", "two words"], task="retrieval")
        return np.concatenate([texts, embedder.encode_image([image], task="retrieval")])

    assert engine(bundle).weights_in_memory
    before = vectors()
    write_all(bundle)
    opened = engine(bundle)
    assert not opened.weights_in_memory
    assert "memory-mapped" in opened.description
    np.testing.assert_array_equal(vectors(), before)


def test_data_begin_on_a_cache_line(bundle: Bundle) -> None:
    write_all(bundle)
    (graph,) = {engine_named(bundle, "native-int8").decoders["retrieval"]}
    values = TensorFile(packed_path(bundle, graph), BundleError)
    assert {info.offset % 64 for info in values.tensors.values()} == {0}


def test_a_file_of_another_export_or_version_is_not_read(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(bundle)
    monkeypatch.setattr(packed_file, "LAYOUT_VERSION", -1)
    assert engine(bundle).weights_in_memory


def test_weights_of_another_shape_are_refused(bundle: Bundle) -> None:
    write_all(bundle)
    graph = engine_named(bundle, "native-int8").decoders["retrieval"]
    layers = dict(engine(bundle).packed[graph])
    first, second = "layers.0.self_attn.o", "layers.0.mlp.down"
    layers[first], layers[second] = layers[second], layers[first]
    write_packed(packed_path(bundle, graph), layers)
    with pytest.raises(BundleError, match=r"self_attn\.o has shape .* run `trine tune` again"):
        engine(bundle)


def test_a_write_that_fails_leaves_nothing(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = engine_named(bundle, "native-int8").decoders["retrieval"]
    layers = engine(bundle).packed[graph]
    path = packed_path(bundle, graph)

    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_packed(path, layers)
    assert list(path.parent.iterdir()) == []
