"""`trine verify`: a good bundle passes, and each kind of damage is found."""

import dataclasses
import hashlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from trine.export.accuracy.thresholds import THRESHOLDS
from trine.export.bundle.edit import add_adapter
from trine.export.export import export_checkpoint
from trine.export.options import ExportOptions
from trine.export.verify.inputs import verify_images, verify_texts
from trine.export.verify.report import Check, report_lines
from trine.export.verify.torch_comparison import TORCH_TOLERANCES
from trine.export.verify.verify import verify_bundle
from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.bundle.manifest import Tolerance
from trine.runtime.commands.program import main
from trine.runtime.errors import InputError

GOLDEN_CHECKPOINT = Path(__file__).parents[2] / "data" / "golden" / "checkpoint"
CHECK = Check(
    against="golden",
    task="retrieval",
    modality="text",
    head="single",
    num_vectors=1,
    mean_cosine=None,
    p1_cosine=None,
    min_cosine=0.99,
    max_difference=0.01,
    tolerance=Tolerance(min_cosine=0.99, max_difference=0.01),
)


@pytest.fixture
def copied(golden_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the golden bundle to change."""
    return shutil.copytree(golden_bundle, tmp_path / "copy")


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_good_bundle_passes(golden_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(golden_bundle)]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == "passed"
    assert "hashing" in captured.err


def test_each_engine_task_modality_and_head_is_checked(golden_bundle: Path) -> None:
    report = verify_bundle(golden_bundle)
    manifest = open_bundle(golden_bundle).manifest
    assert [engine.name for engine in report.engines] == [e.name for e in manifest.engines]
    for engine, entry in zip(report.engines, manifest.engines, strict=True):
        kinds = {(check.task, check.modality, check.head) for check in engine.checks}
        assert kinds == {
            (task, modality, head)
            for task in entry.decoders
            for modality in ("text", "image")
            for head in ("single", "multi")
        }
        assert len(kinds) == len(engine.checks)
        assert all(check.num_vectors > 0 for check in engine.checks)
    assert report.passed


def test_changed_files_are_all_named_and_fail(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = next((copied / "engines").rglob("*.data"))
    flip_last_byte(data)
    flip_last_byte(copied / "golden.npz")
    assert main(["verify", str(copied)]) == 1
    out = capsys.readouterr().out
    assert data.relative_to(copied).as_posix() in out
    assert "golden.npz" in out
    assert "tokenizer.json" not in out
    assert out.splitlines()[-1] == "FAILED"


def test_a_missing_file_makes_the_bundle_unusable(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "heads.safetensors").unlink()
    assert main(["verify", str(copied)]) == 2
    captured = capsys.readouterr()
    assert "heads.safetensors is missing" in captured.err
    assert captured.out == ""


def test_an_engine_that_is_off_its_golden_vectors_fails(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(copied / "golden.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    name = next(name for name in arrays if name.startswith("image/") and name.endswith("/single"))
    arrays[name] = np.roll(arrays[name], 1)
    np.savez(copied / "golden.npz", **arrays)
    # The files agree with the manifest, so only the vectors can tell.
    manifest = json.loads((copied / "manifest.json").read_text(encoding="utf-8"))
    content = (copied / "golden.npz").read_bytes()
    manifest["files"]["golden.npz"] = {
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    (copied / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert main(["verify", str(copied)]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.endswith(" FAILED")]
    task = name.split("/")[1]
    assert {tuple(line.split()[:3]) for line in failed} == {(task, "image", "single")}


def test_an_adapter_added_after_the_export_is_said_to_be_unchecked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "b"
    options = ExportOptions(source=str(GOLDEN_CHECKPOINT), bundle=bundle, adapters="runtime")
    export_checkpoint(options, io.StringIO())
    add_adapter(bundle, "legal", GOLDEN_CHECKPOINT / "adapters", "code")
    assert main(["verify", str(bundle)]) == 0
    assert "task legal was added after the export and not checked" in capsys.readouterr().out
    (engine,) = verify_bundle(bundle).engines
    assert engine.unchecked == ("legal",)
    assert all(check.task != "legal" for check in engine.checks)


def test_an_unknown_engine_is_refused(
    golden_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(golden_bundle), "--engine", "tensorrt"]) == 2
    assert "no engine 'tensorrt'" in capsys.readouterr().err


def test_a_number_of_threads_below_one_is_refused(golden_bundle: Path) -> None:
    with pytest.raises(InputError, match="threads is 0"):
        verify_bundle(golden_bundle, threads=0)


def test_a_check_passes_up_to_its_tolerance_and_not_beyond() -> None:
    assert CHECK.passed
    assert not dataclasses.replace(CHECK, min_cosine=0.9899).passed
    assert not dataclasses.replace(CHECK, max_difference=0.0101).passed
    assert not dataclasses.replace(CHECK, min_cosine=float("nan")).passed
    assert not dataclasses.replace(CHECK, max_difference=float("nan")).passed


def test_inputs_are_the_same_every_time_and_of_several_sizes() -> None:
    assert verify_texts() == verify_texts()
    assert "" in verify_texts()
    for first, second in zip(verify_images(), verify_images(), strict=True):
        np.testing.assert_array_equal(first, second)
    assert len({image.shape for image in verify_images()}) == 4


@pytest.mark.reference
@pytest.mark.parametrize(
    ("fixture", "source"), [("nano_bundle", "nano"), ("golden_bundle", str(GOLDEN_CHECKPOINT))]
)
def test_vectors_are_those_of_pytorch(
    fixture: str, source: str, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("torch", reason="needs the `reference` extra")
    report = verify_bundle(request.getfixturevalue(fixture), source=source)
    print("\n".join(report_lines(report)))
    checks = [c for engine in report.engines for c in engine.checks if c.against == "torch"]
    tasks = {task for e in report.engines for task in (c.task for c in e.checks)}
    assert {(c.task, c.modality, c.head) for c in checks} == {
        (task, *kind) for task in tasks for kind in TORCH_TOLERANCES
    }
    assert all(c.num_vectors >= 4 for c in checks)
    assert all(c.mean_cosine is not None and c.mean_cosine >= c.min_cosine for c in checks)
    assert report.passed


@pytest.mark.reference
def test_narrow_engines_are_held_against_pytorch_by_their_floors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="needs the `reference` extra")
    bundle = tmp_path / "bundle"
    options = ExportOptions(
        source=str(GOLDEN_CHECKPOINT), bundle=bundle, tasks=("code",), precisions=("int8", "fp16")
    )
    export_checkpoint(options, io.StringIO())
    report = verify_bundle(bundle, source=str(GOLDEN_CHECKPOINT))
    print("\n".join(report_lines(report)))
    assert report.passed
    checks = [c for engine in report.engines for c in engine.checks if c.against == "torch"]
    worst = {c.tolerance.min_cosine for c in checks if c.head == "single"}
    assert worst == {THRESHOLDS["int8"].worst_cosine, THRESHOLDS["fp16"].worst_cosine}


@pytest.mark.reference
def test_a_bundle_of_other_weights_is_told_from_its_source(
    golden_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="needs the `reference` extra")
    checkpoint = shutil.copytree(GOLDEN_CHECKPOINT, tmp_path / "checkpoint")
    weights = next(checkpoint.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    # The last tensor's second half: the sign bit of every other byte.
    content[-2048::2] = bytes(byte ^ 0x80 for byte in content[-2048::2])
    content[-2047::2] = bytes(byte ^ 0x80 for byte in content[-2047::2])
    weights.write_bytes(content)
    assert main(["verify", str(golden_bundle), "--source", str(checkpoint)]) == 1
    assert "outside their tolerance" in capsys.readouterr().out


@pytest.mark.reference
def test_a_source_of_another_model_is_refused(
    golden_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="needs the `reference` extra")
    assert main(["verify", str(golden_bundle), "--source", "nano"]) == 2
    assert "its numbers are not those of the model" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_pytorch_is_asked_for_before_any_work(
    missing: str,
    golden_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def find(name: str) -> object:
        return None if name == missing else object()

    monkeypatch.setattr("trine.export.verify.torch_comparison.find_spec", find)
    assert main(["verify", str(golden_bundle), "--source", str(GOLDEN_CHECKPOINT)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"the package {missing!r} is needed" in line
    assert "trine[reference]" in line


def test_a_source_that_does_not_fit_is_refused_before_any_work(
    golden_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trine.export.verify.torch_comparison.find_spec", lambda name: object())
    assert main(["verify", str(golden_bundle), "--source", "nano"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "its numbers are not those of the model" in line
