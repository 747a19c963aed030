"""The export as a whole: what it writes, that it writes the same again, what it reports."""

import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from trine.export.checkpoint.source import resolve_source
from trine.export.export import export_checkpoint
from trine.export.options import ExportOptions
from trine.export.sample.checkpoint import write_sample_checkpoint
from trine.export.sample.spec import SampleSpec, changed_spec
from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.commands.program import main
from trine.runtime.embedder import Embedder
from trine.runtime.engines.select import select_engine
from trine.runtime.errors import InputError
from trine.runtime.scoring.quantisation import RANGES_NAME


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("adapters", ["merged", "runtime"])
def test_the_same_source_and_options_give_the_same_bytes(tmp_path: Path, adapters: str) -> None:
    for name in ("first", "second"):
        target = str(tmp_path / name)
        assert main(["export", "nano", target, "--adapters", adapters]) == 0
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def test_only_the_chosen_tasks_are_written(tmp_path: Path) -> None:
    report = export_checkpoint(
        ExportOptions(source="nano", bundle=tmp_path / "b", tasks=("code",)), io.StringIO()
    )
    assert report.tasks == ("code",)
    engine = select_engine(open_bundle(tmp_path / "b")).entry
    assert list(engine.decoders) == ["code"]
    assert sorted(p.name for p in (tmp_path / "b" / "engines" / "ort-fp32").iterdir()) == [
        "decoder-code.data",
        "decoder-code.onnx",
        "vision.data",
        "vision.onnx",
    ]


def test_the_report_adds_up(tmp_path: Path) -> None:
    report = export_checkpoint(ExportOptions(source="nano", bundle=tmp_path / "b"), io.StringIO())
    assert report.num_bytes == sum(len(data) for data in contents(tmp_path / "b").values())
    assert report.source_id == "nano"
    assert report.peak_bytes > report.engines[0].graphs[0][1] > 0
    measured = report.engines[0].measured
    assert measured is not None
    deviations = measured.deviations
    print(max(d.max_difference for d in deviations))
    assert max(d.max_difference for d in deviations) <= 5e-6


@pytest.mark.parametrize(("flag", "measured"), [("--check", True), ("--no-check", False)])
def test_parity_says_whether_the_engine_was_run(tmp_path: Path, flag: str, measured: bool) -> None:
    assert main(["export", "nano", str(tmp_path / "b"), "--tasks", "code", flag]) == 0
    parity = json.loads((tmp_path / "b" / "parity.json").read_text())["ort-fp32"]
    assert parity["measured"] is measured
    rows = {
        f"code/{modality}/{head}" for modality in ("text", "image") for head in ("single", "multi")
    }
    assert set(parity["vectors"]) == (rows if measured else set())


def test_the_manifest_says_where_the_weights_came_from(nano_bundle: Path) -> None:
    manifest = open_bundle(nano_bundle).manifest
    assert manifest.source.id == "nano"
    assert manifest.source.revision is None
    assert set(manifest.source.sha256) == {
        "adapters/adapter_config.json",
        "adapters/adapter_model.safetensors",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
    }
    assert set(manifest.tools) == {"trine", "onnx-ir", "numpy", "onnxruntime"}


def test_a_prescribed_dimension_is_the_default(tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(resolve_source("nano").folder, tmp_path / "c"))
    config = json.loads((checkpoint / "config.json").read_text())
    config["truncate_dim"] = 64
    (checkpoint / "config.json").write_text(json.dumps(config))
    export_checkpoint(ExportOptions(source=str(checkpoint), bundle=tmp_path / "b"), io.StringIO())
    embedder = Embedder.load(tmp_path / "b")
    assert embedder.encode_text("a web server", "code").shape == (64,)
    assert embedder.encode_text("a web server", "code", truncate_dim=256).shape == (256,)
    assert embedder.encode(["a web server"], "code").single is not None


def test_output_ranges_are_of_a_task_alone_whatever_the_others_are_called(tmp_path: Path) -> None:
    names = ("code", "code-search", "query")
    checkpoint = tmp_path / "checkpoint"
    write_sample_checkpoint(
        changed_spec(SampleSpec.tiny(), {"tasks": names, "alpha": 40}), checkpoint
    )
    found = {}
    for tasks in (names, *((name,) for name in names)):
        bundle = tmp_path / "-".join(tasks)
        options = ExportOptions(source=str(checkpoint), bundle=bundle, tasks=tasks, check=False)
        export_checkpoint(options, io.StringIO())
        with np.load(bundle / RANGES_NAME) as ranges:
            found[tasks] = dict(ranges)
    for name in names:
        for key, alone in found[name,].items():
            # A product's sums may differ by rounding with the size of the batch.
            np.testing.assert_allclose(found[names][key], alone, rtol=0, atol=1e-6)


NOWHERE = ExportOptions(source="nano", bundle=Path("bundle"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            dataclasses.replace(NOWHERE, max_rank=64),
            "--max-rank is for adapters beside the decoder",
        ),
        (
            dataclasses.replace(NOWHERE, onnx_adapters=True),
            "--onnx-adapters is for adapters beside the decoder",
        ),
        (
            dataclasses.replace(NOWHERE, calibration=Path("texts.jsonl")),
            "--calibration is of no use to float32 engines",
        ),
        (
            dataclasses.replace(NOWHERE, min_cosine=0.99),
            "--min-cosine is of no use to float32 engines",
        ),
    ],
)
def test_options_that_would_change_nothing_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: ExportOptions, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        export_checkpoint(options, io.StringIO())
    assert not list(tmp_path.iterdir())
