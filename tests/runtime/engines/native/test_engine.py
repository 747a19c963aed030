"""The native engine gives what ONNX Runtime gives on the same graph, for every form of a layer."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trine.export.export import export_checkpoint
from trine.export.options import ExportOptions
from trine.export.quantisation.engine_making import EngineMaker
from trine.export.quantisation.mixed_plan import FLOAT32
from trine.export.quantisation.plan_refinement import RefinedPlan
from trine.export.quantisation.precision_plan import EnginePlan, plan_engine, with_wider
from trine.kernels.cpu import library
from trine.kernels.cpu.library import (
    LEVEL_VARIABLE,
    CpuLevelError,
    NativeLibraryError,
    load_library,
    why_unavailable,
)
from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.bundle.golden import worst
from trine.runtime.commands.program import main
from trine.runtime.embedder import Embedder
from trine.runtime.engines import rates
from trine.runtime.engines.native import decoder as native_decoder
from trine.runtime.engines.native import stack
from trine.runtime.engines.native.stack import STRIP_ROWS, query_strips, strip_rows
from trine.runtime.engines.select import engines_of, select_engine
from trine.runtime.errors import BundleError, EngineError
from trine.runtime.inputs import ImageText, Item

needs_kernels = pytest.mark.skipif(
    why_unavailable() is not None, reason=why_unavailable() or "they are here"
)
MakeBundle = Callable[[str], Path]
TASKS = ("retrieval", "text-matching", "code")


def image(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def items() -> list[Item]:
    source = np.random.default_rng(0)
    words = ["the", "Straße", "東京", "def", "🚀", "12", "fox,"]
    texts = [" ".join(source.choice(words, count)) for count in (1, 2, 9, 40, 300, 777)]
    images = [image(56, 56), image(150, 90), image(250, 310)]
    return [
        *texts,
        *(ImageText((image,)) for image in images),
        ImageText((images[0], images[1]), "both"),
    ]


def vectors(embedder: Embedder, mixed: bool) -> list[NDArray[np.float32]]:
    """Return the single and the multi-vectors of every item, one below the other."""
    chosen = items()
    tasks = [TASKS[index % 3] if mixed else "retrieval" for index in range(len(chosen))]
    found = embedder.encode(chosen, tasks, return_multivector=True)
    return [*found.single, *(row for multi in found.multi for row in multi)]


@needs_kernels
@pytest.mark.parametrize("adapters", ["merged", "runtime"])
@pytest.mark.parametrize("threads", [1, 2])
def test_native_kernels_give_what_onnx_runtime_gives(
    int8_bundle: MakeBundle, adapters: str, threads: int
) -> None:
    folder = int8_bundle(adapters)
    suffix = "" if adapters == "merged" else "-runtime"
    plain = Embedder.load(folder, engine=f"ort-int8{suffix}", threads=threads)
    native = Embedder.load(folder, engine=f"native-int8{suffix}", threads=threads)
    cosines = [
        float(a @ b) for a, b in zip(vectors(plain, True), vectors(native, True), strict=True)
    ]
    print(f"worst cosine of {len(cosines)} vectors: {min(cosines):.7f}")
    # Sums differ in the last bit, which turns a rounding here and there.
    assert np.mean(cosines) > 0.99999
    assert min(cosines) > 0.999


def all_wide() -> RefinedPlan:
    """Return a plan of nano with every layer in float32, as small models that lose much get."""
    plan = plan_engine("int8", {})
    vision = [f"blocks.{n}.{role}" for n in range(4) for role in plan.vision.precision.linears]
    vision += ["patch_embed", "merger.mlp.0", "merger.mlp.2"]
    decoder = [f"layers.{n}.{role}" for n in range(4) for role in plan.decoder.precision.linears]
    return RefinedPlan(
        EnginePlan(
            vision=with_wider(plan.vision, dict.fromkeys(vision, "all"), FLOAT32),
            decoder=with_wider(plan.decoder, dict.fromkeys(decoder, "all"), FLOAT32),
        ),
        None,
    )


@pytest.mark.slow
@needs_kernels
def test_attention_of_layers_kept_in_float32_is_not_rounded_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The self-test allows little more than ONNX Runtime was off, which rounds nothing there."""
    monkeypatch.setattr(EngineMaker, "plan", lambda *_: all_wide())
    options = ExportOptions(source="nano", bundle=tmp_path / "bundle", precisions=("int8",))
    export_checkpoint(options, io.StringIO())
    native = Embedder.load(options.bundle, engine="native-int8")
    native.check()
    cosine, difference = worst([*native.deviations("text"), *native.deviations("image")])
    print(f"worst cosine {cosine:.9f}, largest difference {difference:.2g}")
    assert cosine > 0.999999
    assert difference < 1e-4


@needs_kernels
@pytest.mark.parametrize("adapters", ["merged", "runtime"])
def test_an_item_alone_is_the_item_in_a_batch_to_the_bit(
    int8_bundle: MakeBundle, adapters: str
) -> None:
    suffix = "" if adapters == "merged" else "-runtime"
    embedder = Embedder.load(int8_bundle(adapters), engine=f"native-int8{suffix}")
    tasks = [TASKS[index % 3] for index in range(len(items()))]
    together = embedder.encode(items(), tasks, return_multivector=True)
    for index, (item, task) in enumerate(zip(items(), tasks, strict=True)):
        alone = embedder.encode([item], task, return_multivector=True)
        np.testing.assert_array_equal(alone.single[0], together.single[index])
        np.testing.assert_array_equal(alone.multi[0], together.multi[index])


@given(lengths=st.lists(st.integers(1, 20_000), min_size=1, max_size=30))
def test_strips_hold_every_query_once_and_cut_only_what_is_long(lengths: list[int]) -> None:
    starts = np.cumsum([0, *lengths]).tolist()
    strips = query_strips(starts)
    assert [first for first, _ in strips] == [0, *(end for _, end in strips[:-1])]
    assert strips[-1][1] == starts[-1]
    assert all(0 < end - first <= strip_rows(max(lengths)) for first, end in strips)
    cuts = {end for _, end in strips} - set(starts)
    for start, length in zip(starts[:-1], lengths, strict=True):
        inside = sorted(cut - start for cut in cuts if start < cut < start + length)
        alone = [end for _, end in query_strips([0, length])][:-1]
        assert inside == (alone if length > STRIP_ROWS else [])


@needs_kernels
def test_attention_in_strips_gives_the_same_to_the_bit(
    int8_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = Embedder.load(int8_bundle("merged"), engine="native-int8")
    text = ["a b " * 1500]
    stripped = embedder.encode(text, "retrieval", return_multivector=True)
    assert len(stripped.multi[0]) > 2 * STRIP_ROWS
    monkeypatch.setattr(stack, "STRIP_ROWS", 1 << 20)
    whole = embedder.encode(text, "retrieval", return_multivector=True)
    np.testing.assert_array_equal(stripped.multi[0], whole.multi[0])


@needs_kernels
def test_auto_takes_the_native_kernels_where_they_are_faster(
    int8_bundle: MakeBundle, golden_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(int8_bundle("merged"))
    assert [entry.name for entry in engines_of(bundle)] == ["ort-int8", "native-int8"]
    monkeypatch.setattr(rates, "has_amx", lambda: False)
    fast = load_library().level != "portable"
    assert select_engine(bundle).entry.name == ("native-int8" if fast else "ort-int8")
    monkeypatch.setenv(LEVEL_VARIABLE, "portable")
    assert select_engine(bundle).entry.name == "ort-int8"
    monkeypatch.delenv(LEVEL_VARIABLE)
    monkeypatch.setattr(rates, "has_amx", lambda: True)
    # ONNX Runtime uses tiles, and so do the kernels written for them.
    unused = load_library().level not in ("amx", "portable")
    assert select_engine(bundle).entry.name == ("ort-int8" if unused or not fast else "native-int8")
    assert [entry.name for entry in engines_of(open_bundle(golden_bundle))] == ["ort-fp32"]
    description = Embedder.load(bundle.folder, engine="native-int8").description
    level = load_library().level
    assert description.startswith(f"native-int8: native kernels ({level}), int8")


def test_without_the_kernels_auto_takes_onnx_runtime_and_native_says_why(
    int8_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "none.so")
    bundle = open_bundle(int8_bundle("merged"))
    assert select_engine(bundle).entry.name == "ort-int8"
    with pytest.raises(EngineError, match=r"native-int8 cannot run here.*apt-get install g\+\+"):
        Embedder.load(bundle.folder, engine="native-int8")


@needs_kernels
def test_a_library_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "ABI_VERSION", -1)
    with pytest.raises(NativeLibraryError, match="this code needs -1; install trine again"):
        library.load_library()


@needs_kernels
def test_an_unknown_instruction_set_is_one_sentence_and_no_other_engine(
    int8_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = int8_bundle("merged")
    monkeypatch.setenv(LEVEL_VARIABLE, "abacus")
    with pytest.raises(CpuLevelError, match=r"TRINE_CPU is 'abacus', which .* give one of portab"):
        Embedder.load(folder)
    assert main(["info", str(folder)]) == 2
    assert main(["embed", str(folder), "--text", "a", "--task", "code"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert all("TRINE_CPU is 'abacus'" in line for line in said)


@needs_kernels
def test_weights_without_a_use_are_refused(
    int8_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph of a later exporter may hold more than these layers know of."""
    names = native_decoder._names
    monkeypatch.setattr(native_decoder, "_names", lambda layer: names(0))
    with pytest.raises(BundleError, match=r"no use for \d+ weights, the first \['layers\.1"):
        Embedder.load(int8_bundle("merged"), engine="native-int8")
