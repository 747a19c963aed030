"""The program itself: its arguments, and how it ends."""

from pathlib import Path

import pytest

from trine.export.cli import main


def test_inputs_may_follow_the_options(
    nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "a.txt"
    texts.write_text("a web server\n")
    assert main(["embed", str(nano_bundle), str(texts), "--task", "code"]) == 0
    before = capsys.readouterr().out
    assert main(["embed", str(nano_bundle), "--task", "code", str(texts)]) == 0
    assert capsys.readouterr().out == before != ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["embed", "bundle", "--task", "code", "a.txt", "--tusk", "code"],
        ["embed", "bundle", "--task", "code", "a.txt", "-z"],
        ["info", "bundle", "another"],
        ["info"],
        ["fly"],
        [],
    ],
)
def test_unknown_arguments_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_an_error_is_one_line_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tmp_path / "none")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("trine info: ")
    assert captured.err.count("\n") == 1
