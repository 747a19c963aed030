"""`trine export --layout onnx`: what is written, and what is refused."""

import json
from pathlib import Path

import pytest

from trine.export.standalone.export import OnnxReport
from trine.runtime.commands.program import main

CHECKPOINT = Path(__file__).parents[2] / "data" / "golden" / "checkpoint"


def test_every_task_is_a_folder_as_on_the_hub(golden_onnx: OnnxReport) -> None:
    folder = golden_onnx.folder
    assert sorted(p.name for p in folder.iterdir()) == [
        "code",
        "export.json",
        "retrieval",
        "text-matching",
        "vision",
    ]
    names = {p.name for p in (folder / "code" / "onnx").iterdir()}
    stems = ("model", "model_fp16", "model_quantized")
    assert names == {f"{s}.onnx" for s in stems} | {f"{s}.onnx_data" for s in stems}
    record = json.loads((folder / "export.json").read_text())
    for model in record["models"]:
        assert (folder / model["path"]).is_file()
        if "vision" not in model["path"]:
            assert model["distance"]["worst_cosine"] > 0.999
    prompts = json.loads(
        (folder / "text-matching" / "config_sentence_transformers.json").read_text()
    )["prompts"]
    assert prompts["document"] == "Query: "


def test_the_command_writes_one_task_and_replaces_it_only_when_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plain"
    command = ["export", str(CHECKPOINT), str(out), "--layout", "onnx", "--tasks", "code"]
    assert main(command) == 0
    assert "code/onnx/model.onnx" in capsys.readouterr().err
    assert main(command) != 0
    assert "--force" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["plain"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--precision", "int4"], "int4"),
        (["--adapters", "runtime"], "--adapters runtime"),
        (["--target", "tensorrt"], "--layout onnx"),
        (["--calibration", "x"], "--calibration"),
    ],
)
def test_what_has_no_meaning_is_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    out = tmp_path / "plain"
    assert main(["export", str(CHECKPOINT), str(out), "--layout", "onnx", *options]) != 0
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_of_others_is_never_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "export.json").write_text("{}")
    command = ["export", str(CHECKPOINT), str(tmp_path), "--layout", "onnx", "--force"]
    assert main(command) != 0
    assert "exists" in capsys.readouterr().err
    assert (tmp_path / "export.json").read_text() == "{}"
