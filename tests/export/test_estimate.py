"""`trine export --dry-run` says sizes from config.json alone, and large exports ask first."""

import io
import json
import shutil
from math import prod
from pathlib import Path

import pytest

from trine.export.checkpoint.checkpoint import Checkpoint
from trine.export.checkpoint.config import read_model_config
from trine.export.estimate import estimate_export
from trine.export.options import ExportOptions
from trine.export.standalone.export import export_onnx
from trine.runtime.adapters.layout import PROJECTOR
from trine.runtime.commands.program import main

CHECKPOINT = Path(__file__).parents[1] / "data" / "golden" / "checkpoint"


def test_weights_are_those_of_the_checkpoint() -> None:
    shapes = Checkpoint(CHECKPOINT).shapes()
    want = sum(prod(shape) for name, shape in shapes.items() if not name.startswith(PROJECTOR))
    options = ExportOptions(source="x", bundle=Path("x"))
    assert estimate_export(read_model_config(CHECKPOINT), options).weights == want


def test_sizes_are_near_those_of_a_bundle(golden_bundle: Path, golden_runtime_bundle: Path) -> None:
    model = read_model_config(CHECKPOINT)
    for folder, adapters in ((golden_bundle, "merged"), (golden_runtime_bundle, "runtime")):
        options = ExportOptions(source="x", bundle=folder, adapters=adapters)  # type: ignore[arg-type]
        large = [*folder.rglob("*.data"), folder / "embedding.safetensors"]
        size = sum(path.stat().st_size for path in large)
        found = estimate_export(model, options).written_bytes
        print(adapters, found, size)
        assert 0.9 < found / size < 1.1


def test_sizes_are_near_those_of_plain_models(tmp_path: Path) -> None:
    options = ExportOptions(source=str(CHECKPOINT), bundle=tmp_path / "plain", tasks=("code",))
    export_onnx(options, io.StringIO())
    size = sum(path.stat().st_size for path in options.bundle.rglob("*.onnx_data"))
    found = estimate_export(read_model_config(CHECKPOINT), options, plain=True).written_bytes
    print(found, size)
    assert 0.9 < found / size < 1.1


def test_a_dry_run_needs_no_weights_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "numbers"
    source.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copyfile(CHECKPOINT / name, source / name)
    assert main(["export", str(source), str(tmp_path / "bundle"), "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert all(word in said for word in ("checkpoint", "to write", "memory", "time"))
    assert [path.name for path in tmp_path.iterdir()] == ["numbers"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("answer", ["", "n\n"])
def test_a_large_export_on_a_terminal_asks_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    source = tmp_path / "large"
    source.mkdir()
    shutil.copyfile(CHECKPOINT / "preprocessor_config.json", source / "preprocessor_config.json")
    config = json.loads((CHECKPOINT / "config.json").read_text("utf-8"))
    for section in (config, config.get("text_config") or {}):
        section["num_hidden_layers"] = 60_000
    (source / "config.json").write_text(json.dumps(config), "utf-8")
    said = Terminal()
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    monkeypatch.setattr("sys.stderr", said)
    assert main(["export", str(source), str(tmp_path / "bundle")]) == 0
    assert "write it? [y/N]" in said.getvalue()
    assert [path.name for path in tmp_path.iterdir()] == ["large"]
