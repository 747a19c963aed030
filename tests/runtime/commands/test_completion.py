"""`trine completion`: bash itself completes with the script."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trine.runtime.commands.program import VERBS, main


@pytest.fixture
def script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    path = tmp_path / "trine.bash"
    path.write_text(capsys.readouterr().out, encoding="utf-8")
    return path


def complete(script: Path, *words: str) -> set[str]:
    """Return what bash offers for the last of the words."""
    program = (
        f"source {script}; COMP_WORDS=(trine {' '.join(map(repr, words))}); "
        f"COMP_CWORD={len(words)}; COMP_LINE=; COMP_POINT=0; "
        "$(complete -p trine | sed 's/.*-F \\([^ ]*\\).*/\\1/'); printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_verbs_options_and_choices(script: Path) -> None:
    assert set(VERBS) <= complete(script, "")
    assert complete(script, "em") == {"embed"}
    assert {"--task", "--text"} <= complete(script, "embed", "--t")
    assert complete(script, "embed", "--prompt", "pa") == {"passage"}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_scripts_too(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    assert "embed" in capsys.readouterr().out


def test_without_its_package_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install 'trine[completion]'" in capsys.readouterr().err
