"""Files and folders that are written whole, beside others at the same work and after kills."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trine.runtime.bundle.atomic import hold, scratch_folder, write_file, write_folder
from trine.runtime.errors import InputError

WRITE_AND_WAIT = """
import sys, time
from pathlib import Path
from trine.runtime.bundle.atomic import write_file, write_folder
from trine.runtime.errors import InputError
path = Path(sys.argv[2])
with write_file(path) if sys.argv[1] == "file" else write_folder(path, InputError) as partial:
    (partial if sys.argv[1] == "file" else partial / "part").write_text("half")
    print("begun", flush=True)
    time.sleep(60)
"""


def begin(kind: str, path: Path) -> subprocess.Popen[str]:
    """Start a process that is in the midst of writing."""
    command = [sys.executable, "-c", WRITE_AND_WAIT, kind, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_folder_is_refused_while_a_process_writes_it_and_taken_over_when_it_was_killed(
    tmp_path: Path,
) -> None:
    process = begin("folder", tmp_path / "made")
    try:
        with (
            pytest.raises(InputError, match="another process is writing it"),
            write_folder(tmp_path / "made", InputError),
        ):
            pytest.fail("two processes write one folder")
    finally:
        kill(process)
    assert len(list(tmp_path.iterdir())) == 2, "the killed process left its folder and its lock"
    with write_folder(tmp_path / "made", InputError) as partial:
        assert list(partial.iterdir()) == []
        (partial / "whole").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["made", "whole"]


def test_a_file_is_left_to_the_process_that_writes_it_and_removed_when_it_was_killed(
    tmp_path: Path,
) -> None:
    process = begin("file", tmp_path / "made")
    try:
        (other,) = tmp_path.iterdir()
        with write_file(tmp_path / "made") as partial:
            partial.write_text("whole")
        assert other.read_text() == "half"
    finally:
        kill(process)
    assert other.exists()
    with write_file(tmp_path / "made") as partial:
        partial.write_text("again")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert (tmp_path / "made").read_text() == "again"


def test_files_of_other_names_are_left_alone(tmp_path: Path) -> None:
    kept = [tmp_path / ".made.notes", tmp_path / ".other.1234.partial", tmp_path / "made.partial"]
    for path in kept:
        path.touch()
    with write_file(tmp_path / "made"):
        pass
    assert sorted(tmp_path.iterdir()) == sorted([*kept, tmp_path / "made"])


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_fails_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "file").write_text("former")
    with pytest.raises(error), write_file(tmp_path / "file"):
        raise error
    with pytest.raises(error), write_folder(tmp_path / "deep" / "folder", InputError):
        raise error
    with pytest.raises(error), scratch_folder(tmp_path / "scratch", InputError):
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "former"


def test_a_replacement_that_was_killed_halfway_is_undone(tmp_path: Path) -> None:
    (tmp_path / ".made.replaced").mkdir()
    (tmp_path / ".made.replaced" / "former").touch()
    with pytest.raises(ValueError, match="stop"), write_folder(tmp_path / "made", InputError):
        raise ValueError("stop")
    assert [path.name for path in tmp_path.rglob("*")] == ["made", "former"]


def test_a_lock_lies_beside_what_is_held_and_goes(tmp_path: Path) -> None:
    with hold(tmp_path / "manifest.json", InputError):
        with pytest.raises(InputError), hold(tmp_path / "manifest.json", InputError):
            pytest.fail("held twice")
        assert len(os.listdir(tmp_path)) == 1
    assert os.listdir(tmp_path) == []
    with hold(tmp_path / "manifest.json", InputError):
        pass


@pytest.mark.slow
def test_an_export_that_was_killed_can_be_run_again(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "trine.runtime.commands.program",
        "export",
        "nano",
        str(tmp_path / "bundle"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, text=True)
    until = time.monotonic() + 60
    while not list(tmp_path.glob(".bundle.partial/*")):
        assert time.monotonic() < until
        time.sleep(0.01)
    kill(process)
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
