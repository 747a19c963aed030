"""The program itself: its arguments, and how it ends."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trine.runtime.commands.program import main


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


FULL_DISK = Path("/dev/full")


@pytest.mark.skipif(not FULL_DISK.exists(), reason="there is no /dev/full here")
def test_output_that_cannot_be_written_is_said(nano_bundle: Path) -> None:
    with FULL_DISK.open("wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "trine.runtime.commands.program", "info", str(nano_bundle)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ended.stderr == "trine info: No space left on device; check path and disk\n"
    assert ended.returncode == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_removes_what_was_begun(tmp_path: Path, number: signal.Signals) -> None:
    bundle = tmp_path / "made" / "bundle"
    arguments = ["export", "nano", str(bundle), "--precision", "int8"]
    process = subprocess.Popen(
        [sys.executable, "-m", "trine.runtime.commands.program", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        # Shells have what they run in the background ignore SIGINT, and children inherit that.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    until = time.monotonic() + 60
    while not list(tmp_path.glob("made/.bundle.partial/*")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert errors == "trine export: interrupted\n"
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


#: Runs the program in a process where some packages cannot be imported, then prints the modules.
WITHOUT = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name in {"trine.export", "onnx", "onnx_ir", "ml_dtypes", "huggingface_hub"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
from trine.runtime.commands.program import main
code = main(sys.argv[1:])
print("loaded:", *sorted(name for name in sys.modules if name.startswith("trine.")))
sys.exit(code)
"""


def test_verbs_of_the_runtime_run_without_the_exporter(nano_bundle: Path, tmp_path: Path) -> None:
    arguments = ["embed", str(nano_bundle), "--text", "a", "--task", "code"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.splitlines()[-1].split()
    assert "trine.runtime.commands.embed.command" in loaded
    assert "trine.runtime.commands.bench.command" not in loaded
