"""The program with standard streams that are closed, or of an encoding that is not UTF-8."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = "import sys; from trine.runtime.commands.program import main; sys.exit(main())"


def trine(redirection: str, *arguments: object, **environment: str) -> tuple[int, bytes, bytes]:
    """Run the program in a shell that closes streams; return exit code, stdout and stderr."""
    script = f'exec "$0" "$@" {redirection}'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable, "-c", PROGRAM, *map(str, arguments)],
        capture_output=True,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_info_is_shown_in_every_encoding(nano_bundle: Path, encoding: str) -> None:
    code, _, err = trine("", "info", nano_bundle, PYTHONIOENCODING=encoding)
    assert (code, err) == (0, b"")
    code, out, _ = trine("", "info", nano_bundle, "--json", PYTHONIOENCODING=encoding)
    assert code == 0
    assert set(json.loads(out)) == {"manifest", "parity"}


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_file_is_written_whole_with_closed_streams(
    nano_bundle: Path, tmp_path: Path, closed: str
) -> None:
    out = tmp_path / "out.npy"
    arguments = ("embed", nano_bundle, "--text", "a", "--task", "retrieval", "-o", out)
    code, written, _ = trine(closed, *arguments)
    assert (code, written) == (0, b"")
    assert np.isfinite(np.load(out)).all()
    assert [path.name for path in tmp_path.iterdir()] == ["out.npy"]


def test_closed_streams_that_are_needed_are_named(nano_bundle: Path) -> None:
    code, _, err = trine("<&-", "embed", nano_bundle, "--task", "retrieval")
    assert (code, b"standard input is closed" in err) == (2, True)
    code, _, err = trine(">&-", "embed", nano_bundle, "--task", "retrieval", "--text", "a")
    assert (code, b"standard output is closed" in err) == (2, True)


def test_talk_does_not_reach_stdout_where_stderr_is_closed(nano_bundle: Path) -> None:
    arguments = ("embed", nano_bundle, "--text", "a", "--task", "retrieval")
    code, out, _ = trine("2>&-", *arguments)
    assert code == 0
    (line,) = out.splitlines()
    assert len(json.loads(line)["embedding"]) > 0
