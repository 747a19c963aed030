"""`trine info`: the table and the JSON."""

import io
import json
import shutil
from math import prod
from pathlib import Path

import pytest

from trine.export.checkpoint.checkpoint import expected_shapes
from trine.export.export import export_checkpoint
from trine.export.options import ExportOptions
from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.commands.info.bundle_summary import (
    bundle_lines,
    count_parameters,
    graph_bytes,
    total_bytes,
)
from trine.runtime.commands.program import main
from trine.runtime.commands.progress import format_bytes


def test_the_table_names_source_model_engines_and_parity(
    nano_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(nano_bundle)]) == 0
    captured = capsys.readouterr()
    manifest = open_bundle(nano_bundle).manifest
    for name in ("nano", *manifest.model.tasks, *manifest.tools, "tokenizer.json"):
        assert name in captured.out
    for entry in manifest.engines:
        assert f"engine {entry.name}: onnxruntime, {entry.precision}" in captured.out
        for graph in (entry.vision, *entry.decoders.values()):
            assert graph in captured.out
    assert "worst cosine" in captured.out
    assert captured.err == ""


def test_the_json_is_manifest_and_parity(
    nano_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(nano_bundle), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {
        name: json.loads((nano_bundle / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("manifest", "parity")
    }


def test_memory_counts_adapters_beside_the_decoder(tmp_path: Path) -> None:
    checkpoint = Path(__file__).parents[2] / "data" / "golden" / "checkpoint"
    options = ExportOptions(source=str(checkpoint), bundle=tmp_path / "b", adapters="runtime")
    export_checkpoint(options, io.StringIO())
    bundle = open_bundle(tmp_path / "b")
    manifest = bundle.manifest
    engine = manifest.engines[0]
    adapters = [manifest.files[file].size for file in manifest.adapters.files.values()]
    graphs = {engine.vision, *engine.decoders.values()}
    lines = "\n".join(bundle_lines(bundle))
    one = format_bytes(engine.weight_bytes + max(adapters))
    every = format_bytes(sum(graph_bytes(bundle, graph) for graph in graphs) + sum(adapters))
    assert f"memory with one task   about {one}" in lines
    assert f"memory with all tasks  about {every}" in lines
    assert all(file in lines for file in manifest.adapters.files.values())


@pytest.mark.parametrize("fixture", ["nano_bundle", "golden_bundle"])
def test_parameters_are_those_of_the_checkpoint(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    model = open_bundle(request.getfixturevalue(fixture)).manifest.model
    assert count_parameters(model).total == sum(map(prod, expected_shapes(model).values()))


def test_the_total_is_what_the_folder_takes(nano_bundle: Path) -> None:
    sizes = [path.stat().st_size for path in nano_bundle.rglob("*") if path.is_file()]
    assert total_bytes(open_bundle(nano_bundle)) == sum(sizes)


def test_an_engine_that_was_not_measured_says_so(
    nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = shutil.copytree(nano_bundle, tmp_path / "copy")
    size = (bundle / "parity.json").stat().st_size
    (bundle / "parity.json").write_text("{}".ljust(size), encoding="utf-8")
    assert main(["info", str(bundle)]) == 0
    assert "not measured at export" in capsys.readouterr().out


def test_a_damaged_parity_file_is_named(
    nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = shutil.copytree(nano_bundle, tmp_path / "copy")
    size = (bundle / "parity.json").stat().st_size
    (bundle / "parity.json").write_bytes(b"\xff" * size)
    assert main(["info", str(bundle)]) == 2
    assert "parity.json" in capsys.readouterr().err


def test_a_folder_that_is_no_bundle_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(tmp_path)]) == 2
    assert "is no bundle" in capsys.readouterr().err
