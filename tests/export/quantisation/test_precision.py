"""Engines of every precision: distance from float32, size, and those that are not written."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest

from trine.export.accuracy.low_memory_engine import LowMemoryEngine
from trine.export.bundle.report import export_lines
from trine.export.export import export_checkpoint
from trine.export.options import EngineReport, ExportOptions, ExportReport
from trine.export.quantisation.fake_quantisation import OrtRounding
from trine.export.quantisation.observer import RangeScan
from trine.export.quantisation.precision_plan import INT8, plan_engine
from trine.export.sample.checkpoint import write_sample_checkpoint
from trine.export.sample.spec import SampleSpec, changed_spec
from trine.kernels.cpu.library import why_unavailable
from trine.kernels.rotation import ROTATION
from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.bundle.precision import Precision
from trine.runtime.commands.info.bundle_summary import bundle_lines
from trine.runtime.embedder import Embedder
from trine.runtime.engines.select import engine_named
from trine.runtime.errors import BundleError, EngineError, InputError
from trine.runtime.inference.batch_planner import BatchLimits
from trine.runtime.inputs import ImageText, Item

TEXTS = ["a", "Which warranty covers the inverter?", "def area(r):\n    return 3.14 * r * r"]
TEXTS += ["The quick brown fox jumps over the lazy dog. " * 6]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8", "int4")


TINY = SampleSpec.tiny()
GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "checkpoint"


def export(source: Path | str, bundle: Path, **options: object) -> ExportReport:
    chosen = ExportOptions(source=str(source), bundle=bundle, **options)  # type: ignore[arg-type]
    return export_checkpoint(chosen, io.StringIO())


@pytest.fixture(scope="module")
def engines(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[ExportReport, Path]:
    """A bundle of the golden checkpoint with an engine of each precision."""
    bundle = tmp_path_factory.mktemp("engines") / "bundle"
    tasks = ("retrieval", "code")
    report = export(GOLDEN, bundle, precisions=PRECISIONS, tasks=tasks)
    return report, bundle


def items() -> list[Item]:
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 255, (h, w, 3)).astype(np.uint8) for h, w in ((90, 200), (224, 112))]
    return [*TEXTS, *(ImageText((image,)) for image in images)]


@pytest.mark.parametrize(
    ("name", "mean", "worst"),
    [("ort-fp16", 0.9999, 0.9995), ("ort-int8", 0.999, 0.995), ("ort-int4", 0.98, 0.9)],
)
def test_vectors_are_as_near_to_float32_as_the_precision_promises(
    engines: tuple[ExportReport, Path], name: str, mean: float, worst: float
) -> None:
    vectors = [
        Embedder.load(engines[1], engine=engine).encode(items(), "retrieval").single
        for engine in ("ort-fp32", name)
    ]
    cosines = (vectors[0] * vectors[1]).sum(axis=1)
    print(f"{name}: mean cosine {cosines.mean():.6f}, worst {cosines.min():.6f}")
    assert cosines.mean() >= mean
    assert cosines.min() >= worst


@pytest.mark.parametrize("name", ["ort-fp16", "ort-int8", "ort-int4"])
def test_a_vector_does_not_depend_on_what_shares_its_batch(
    engines: tuple[ExportReport, Path], name: str
) -> None:
    embedder = Embedder.load(engines[1], engine=name)
    together = embedder.encode(items(), "code", return_multivector=True)
    worst = 0.0
    for index, item in enumerate(items()):
        alone = embedder.encode([item], "code", return_multivector=True)
        worst = max(worst, float(np.abs(alone.single[0] - together.single[index]).max()))
        worst = max(worst, float(np.abs(alone.multi[0] - together.multi[index]).max()))
    print(f"{name}: largest difference to being alone {worst:.1e}")
    assert worst <= 1e-4


def test_int8_takes_less_than_a_third_of_float32(nano_precisions: Path) -> None:
    graphs = nano_precisions / "engines"
    sizes = [
        (graphs / name / "decoder-retrieval.data").stat().st_size
        for name in ("ort-fp32", "ort-int8")
    ]
    print(f"int8 decoder: {sizes[1] / sizes[0]:.3f} of float32")
    assert sizes[1] <= 0.30 * sizes[0]


@pytest.fixture(scope="module")
def nano_precisions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("nano") / "bundle"
    export("nano", bundle, precisions=("fp32", "int8"), tasks=("retrieval",), adapters="merged")
    return bundle


def test_the_bundle_says_what_each_engine_is(engines: tuple[ExportReport, Path]) -> None:
    report, folder = engines
    bundle = open_bundle(folder)
    assert [entry.precision for entry in bundle.manifest.engines] == list(PRECISIONS)
    text = "\n".join(bundle_lines(bundle))
    assert "weights int8 by output channel, inputs int8 by token, sums int32" in text
    assert "always float32: residual stream" in text
    parity = json.loads((folder / "parity.json").read_text())
    int8 = parity["ort-int8"]
    keys = {(row["task"], row["modality"], row["head"]) for row in int8["corpus"]}
    assert len(keys) == 2 * 2 * 2
    assert all(row["ndcg_at_10"] > 0.9 for row in int8["rankings"])
    # The native kernels run it where they are.
    assert parity["ort-bf16"]["measured"] is (why_unavailable() is None)
    assert parity["ort-bf16"]["imitated"]["worst_cosine"] > 0.99
    printed = "\n".join(export_lines(report))
    assert "nDCG@10" in printed
    assert "tokens/s" in printed


def test_each_engine_is_tested_against_its_own_tolerance(
    engines: tuple[ExportReport, Path],
) -> None:
    for entry in open_bundle(engines[1]).manifest.engines:
        if entry.precision == "bf16":
            continue
        Embedder.load(engines[1], engine=entry.name).check()
        assert entry.tolerance.min_cosine > {"int4": 0.5, "int8": 0.95}.get(entry.precision, 0.99)


def test_bfloat16_is_refused_on_the_cpu_with_a_way_out(engines: tuple[ExportReport, Path]) -> None:
    with pytest.raises(EngineError, match=r"runs on cuda only.*--precision fp32 or int8"):
        Embedder.load(engines[1], engine="ort-bf16")


def test_what_down_reads_is_rotated_and_so_rounded_finer() -> None:
    generator = np.random.default_rng(0)
    gate, up = generator.standard_normal((2, 40, 1376)).astype(np.float32)
    x = gate / (1 + np.exp(-gate)) * up
    weight = generator.standard_normal((30, 1376)).astype(np.float32)
    exact = x @ weight.T
    scan = RangeScan()
    scan.see("layers.0.mlp.down_proj", [x], [exact])
    plan = plan_engine("int8", scan.ranges)
    assert plan.decoder.precision.of("layers.0.mlp.down").rotation == ROTATION
    rule = dataclasses.replace(plan.decoder.precision, linears={"mlp.down": INT8})
    plain = dataclasses.replace(plan.decoder, precision=rule)
    lost = [
        np.square(
            OrtRounding(graph, None).linear("layers.0.mlp.down_proj", x, weight, np.float32(0))
            - exact
        ).mean()
        for graph in (plan.decoder, plain)
    ]
    assert lost[0] < lost[1] / 2


@pytest.mark.slow
def test_runtime_adapters_work_in_int8(tmp_path: Path) -> None:
    report = export(GOLDEN, tmp_path / "b", precisions=("fp32", "int8"), adapters="runtime")
    assert all(engine.written for engine in report.engines)
    wide, narrow = (
        Embedder.load(tmp_path / "b", engine=name)
        for name in ("ort-fp32-runtime", "ort-int8-runtime")
    )
    tasks = ["retrieval", "code", "text-matching", "retrieval", "code", "retrieval"]
    cosines = (wide.encode(items(), tasks).single * narrow.encode(items(), tasks).single).sum(1)
    assert cosines.min() >= 0.995
    mixed = narrow.encode(items(), tasks).single
    for index, (item, task) in enumerate(zip(items(), tasks, strict=True)):
        assert np.abs(narrow.encode([item], task).single[0] - mixed[index]).max() <= 1e-4


def test_hard_checkpoints_keep_their_vectors_by_keeping_layers_wider(tmp_path: Path) -> None:
    traits = ("swiglu", "first-token", "k-bias", "patch-spike")
    write_sample_checkpoint(changed_spec(TINY, {"hard": traits}), tmp_path / "c")
    report = export(
        tmp_path / "c", tmp_path / "b", precisions=("fp32", "fp16", "int8"), tasks=("retrieval",)
    )
    assert all(engine.written for engine in report.engines)
    widened = {engine.name: len(engine.wider) for engine in report.engines}
    print(widened)
    assert widened["ort-fp16"] > 0
    vectors = {
        name: Embedder.load(tmp_path / "b", engine=name).encode(items(), "retrieval").single
        for name in widened
    }
    for name, worst in (("ort-fp16", 0.9995), ("ort-int8", 0.995)):
        cosines = (vectors["ort-fp32"] * vectors[name]).sum(axis=1)
        print(f"{name}: worst cosine {cosines.min():.6f}")
        assert cosines.min() >= worst


@pytest.mark.slow
def test_an_engine_below_its_floor_is_not_written_unless_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trine.export.accuracy import thresholds

    strict = thresholds.AccuracyThreshold(0.99999999, 0.99999999, 1.0)
    monkeypatch.setitem(thresholds.THRESHOLDS, "int4", strict)
    monkeypatch.setattr("trine.export.export.TIGHTNESS", (1.0,))
    tasks = ("retrieval",)
    with pytest.raises(BundleError, match="--allow-below-threshold"):
        export(GOLDEN, tmp_path / "a", precisions=("int4",), tasks=tasks)
    assert not (tmp_path / "a").exists()
    report = export(GOLDEN, tmp_path / "b", precisions=("fp32", "int4"), tasks=tasks)
    assert [engine.written for engine in report.engines] == [True, False]
    assert "NOT WRITTEN" in "\n".join(export_lines(report))
    assert not (tmp_path / "b" / "engines" / "ort-int4").exists()
    export(GOLDEN, tmp_path / "c", precisions=("int4",), tasks=tasks, allow_below_threshold=True)
    assert open_bundle(tmp_path / "c").manifest.engines[0].below_floor
    assert "BELOW ITS FLOOR" in "\n".join(bundle_lines(open_bundle(tmp_path / "c")))


@pytest.mark.slow
def test_what_is_enough_can_be_said(tmp_path: Path) -> None:
    def fp8(min_cosine: float | None) -> tuple[EngineReport, str]:
        folder, tasks = tmp_path / str(min_cosine), ("retrieval",)
        found = export(
            GOLDEN, folder, tasks=tasks, tensorrt=("fp8",), check=False, min_cosine=min_cosine
        )
        return found.engines[1], "\n".join(export_lines(found))

    (usual, usual_lines), (loose, loose_lines) = fp8(None), fp8(0.99)
    assert usual.written
    assert not usual.below_floor
    assert loose.written
    assert loose.below_floor
    assert loose.quantised is not None
    assert usual.quantised is not None
    assert loose.quantised.total == usual.quantised.total
    assert loose.quantised.count > 2 * usual.quantised.count
    assert "a mean cosine of 0.999 leaves; a smaller --min-cosine leaves more" in usual_lines
    assert "--min-cosine leaves more" not in loose_lines
    assert open_bundle(tmp_path / "0.99").manifest.engines[1].below_floor
    with pytest.raises(InputError, match=r"cosine of 1.5 .* between 0 and 1"):
        export(GOLDEN, tmp_path / "b", precisions=("int4",), min_cosine=1.5)


@pytest.mark.slow
def test_more_than_usual_can_be_asked_for(tmp_path: Path) -> None:
    usual, strict = (
        export(GOLDEN, tmp_path / str(c), precisions=("int8",), min_cosine=c).engines[0]
        for c in (None, 0.99995)
    )
    assert len(strict.wider) > len(usual.wider)
    assert strict.measured is not None
    assert min(row.mean for row in strict.measured.vectors if row.head == "single") >= 0.99995


def test_the_users_own_calibration_is_used_and_the_bundle_is_the_same_each_time(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.txt").write_text("my own words\nand some more of them\n")
    for name in "ab":
        export(
            GOLDEN,
            tmp_path / name,
            precisions=("int8",),
            tasks=("retrieval",),
            calibration=tmp_path / "mine.txt",
        )
    first, second = ((tmp_path / name / "manifest.json").read_bytes() for name in "ab")
    assert first == second


def test_an_engine_runs_from_mapped_files_as_it_does_from_memory(
    engines: tuple[ExportReport, Path],
) -> None:
    bundle = open_bundle(engines[1])
    entry = engine_named(bundle, "ort-int8")
    mapped = LowMemoryEngine(bundle, entry, ("code",))
    embedder = Embedder(bundle, entry, mapped, BatchLimits(), self_test=False)
    usual = Embedder.load(engines[1], engine="ort-int8", tasks=("code",))
    found, wanted = (e.encode(items(), "code").single for e in (embedder, usual))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    assert not mapped.weights_in_memory
    assert mapped.peak_bytes > 0


def test_engines_too_large_to_be_held_are_measured_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trine.export.quantisation.engine_making.CHECKED_WEIGHT_BYTES", 0)
    monkeypatch.setattr("trine.export.calibration.run.LARGE_MODEL_OPERATIONS", 0)
    report = export(GOLDEN, tmp_path / "b", precisions=("fp32", "int8"), tasks=("retrieval",))
    wide, narrow = report.engines
    assert wide.measured is None
    assert narrow.measured is not None
    assert narrow.measured.mapped
    assert all(row.mean > 0.999 for row in narrow.measured.vectors if row.head == "single")
    assert "memory-mapped weights" in "\n".join(export_lines(report))
