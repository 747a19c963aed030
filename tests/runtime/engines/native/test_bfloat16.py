"""The native engine in bfloat16: near float32, the same alone and in a batch, mapped or not."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from trine.export.export import export_checkpoint
from trine.export.options import ExportOptions
from trine.export.sample.checkpoint import write_sample_checkpoint
from trine.export.sample.spec import HARD_TRAITS, SampleSpec, changed_spec
from trine.kernels.cpu.library import why_unavailable
from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.bundle.golden import worst
from trine.runtime.embedder import Embedder
from trine.runtime.engines.base import EngineOptions
from trine.runtime.engines.native.engine import NativeCpuEngine
from trine.runtime.engines.native.packed_file import packed_path, write_packed
from trine.runtime.engines.select import engine_named, select_engine
from trine.runtime.inputs import ImageText, Item

pytestmark = pytest.mark.skipif(
    why_unavailable() is not None, reason=why_unavailable() or "the kernels are here"
)
MakeBundle = Callable[[str], Path]
GOLDEN = Path(__file__).parents[3] / "data/golden/checkpoint"
TASKS = ("retrieval", "text-matching", "code")
#: The lowest cosines to float32 that bfloat16 may have.
SINGLE, MULTI = 0.9999, 0.9995


def image(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def items() -> list[Item]:
    texts = ["a", "two words", "Straße 東京 🚀 " * 20, "the fox " * 300]
    return [*texts, ImageText((image(56, 56),)), ImageText((image(150, 90),), "both")]


def assert_near_float32(embedder: Embedder) -> None:
    found = [*embedder.deviations("text"), *embedder.deviations("image")]
    for head, least in (("single", SINGLE), ("multi", MULTI)):
        cosine, _ = worst([deviation for deviation in found if deviation.head == head])
        print(f"{head}: worst cosine {cosine:.6f}")
        assert cosine >= least


@pytest.mark.parametrize("adapters", ["merged", "runtime"])
def test_vectors_are_near_those_of_float32(bf16_bundle: MakeBundle, adapters: str) -> None:
    suffix = "" if adapters == "merged" else "-runtime"
    embedder = Embedder.load(bf16_bundle(adapters), engine=f"native-bf16{suffix}")
    assert embedder.description.startswith(f"native-bf16{suffix}: native kernels (")
    assert_near_float32(embedder)
    embedder.check()


@pytest.mark.parametrize("adapters", ["merged", "runtime"])
def test_an_item_alone_is_the_item_in_a_batch_to_the_bit(
    bf16_bundle: MakeBundle, adapters: str
) -> None:
    suffix = "" if adapters == "merged" else "-runtime"
    embedder = Embedder.load(bf16_bundle(adapters), engine=f"native-bf16{suffix}")
    tasks = [TASKS[index % 3] for index in range(len(items()))]
    together = embedder.encode(items(), tasks, return_multivector=True)
    for index, (item, task) in enumerate(zip(items(), tasks, strict=True)):
        alone = embedder.encode([item], task, return_multivector=True)
        np.testing.assert_array_equal(alone.single[0], together.single[index])
        np.testing.assert_array_equal(alone.multi[0], together.multi[index])


def test_auto_runs_a_bundle_of_bfloat16_on_the_processor(bf16_bundle: MakeBundle) -> None:
    bundle = open_bundle(bf16_bundle("merged"))
    assert [entry.devices for entry in bundle.manifest.engines] == [("cuda",)]
    assert select_engine(bundle).entry.name == "native-bf16"


def test_packed_weights_are_mapped_and_give_the_same(
    bf16_bundle: MakeBundle, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(bf16_bundle("merged"), tmp_path / "bundle"))

    def vectors() -> NDArray[np.float32]:
        embedder = Embedder.load(folder, engine="native-bf16", tasks=("retrieval",))
        texts = embedder.encode_text(["one", "two words"], task="retrieval")
        return np.concatenate([texts, embedder.encode_image([image(60, 60)], task="retrieval")])

    before, bundle = vectors(), open_bundle(folder)
    options = EngineOptions(threads=1, tasks=("retrieval",))
    engine = NativeCpuEngine(bundle, engine_named(bundle, "native-bf16"), options)
    assert engine.weights_in_memory
    engine.open_vision()
    for graph, layers in engine.packed.items():
        write_packed(packed_path(bundle, graph), layers)
    mapped = NativeCpuEngine(bundle, engine_named(bundle, "native-bf16"), options)
    assert not mapped.weights_in_memory
    np.testing.assert_array_equal(vectors(), before)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["golden", "hard"])
def test_other_checkpoints_keep_their_distance_too(kind: str, tmp_path: Path) -> None:
    source = GOLDEN
    if kind == "hard":
        source = tmp_path / "hard"
        write_sample_checkpoint(changed_spec(SampleSpec.tiny(), {"hard": HARD_TRAITS}), source)
    options = ExportOptions(
        source=str(source), bundle=tmp_path / "bundle", precisions=("bf16",), adapters="merged"
    )
    export_checkpoint(options, io.StringIO())
    assert_near_float32(Embedder.load(options.bundle, engine="native-bf16"))
