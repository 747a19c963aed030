"""Signals leave no half-written file; output that is no terminal has no control characters."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from trine.runtime.bundle.bundle import open_bundle

PEFT = Path(__file__).parents[2] / "data" / "golden" / "checkpoint" / "adapters"
#: The words of each verb; {} is the folder it may write to, in which `bundle` is a bundle.
VERBS = {
    "embed": ["embed", "{}/bundle", "{}/in.txt", "--task", "code", "-o", "{}/out.npy"],
    "export": ["export", "nano", "{}/out"],
    "adapters": ["adapters", "add", "{}/bundle", "mine", str(PEFT), "--task", "code"],
    "tune": ["tune", "{}/bundle", "--seconds", "3"],
    "sample-checkpoint": ["sample-checkpoint", "{}/out"],
    "export-triton": ["export-triton", "{}/bundle", "{}/out", "--graphs", "embedded"],
    "demo": ["demo", "{}/out"],
}
#: What some verbs write last of a folder.
LAST = {
    "export": "manifest.json",
    "sample-checkpoint": "adapters/adapter_model.safetensors",
    "demo": "nano.bundle/manifest.json",
}


@pytest.fixture(scope="module")
def moments() -> random.Random:
    return random.Random(15)


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("verb", VERBS)
def test_a_signal_at_any_moment_leaves_nothing_half_done(
    verb: str,
    number: signal.Signals,
    golden_runtime_bundle: Path,
    tmp_path: Path,
    moments: random.Random,
) -> None:
    shutil.copytree(golden_runtime_bundle, tmp_path / "bundle")
    (tmp_path / "in.txt").write_text("a text of a few words\n" * 3000)
    before = files_of(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "trine", *(word.format(tmp_path) for word in VERBS[verb])],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    time.sleep(moments.uniform(0.6, 2.5))
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    # Python itself ends by SIGINT, 130 to a shell, where one came in its first instants, or while
    # it ran a program made of a string, as dataclasses do.
    assert process.returncode in (0, 130, -number, -signal.SIGINT), errors
    assert "Traceback" not in errors
    assert not [name for name in files_of(tmp_path) if "partial" in name or ".lock" in name]
    open_bundle(tmp_path / "bundle")
    added = files_of(tmp_path) - before
    if process.returncode != 0:
        last = LAST.get(verb)
        whole = last is not None and f"out/{last}" in added  # the signal came after its work
        assert whole or not (tmp_path / "out").exists()
    if "out.npy" in added:
        assert len(np.load(tmp_path / "out.npy")) == 3000


@pytest.mark.parametrize(
    "words",
    [
        ["embed", "{}/bundle", "--text", "a", "--task", "code"],
        ["info", "{}/bundle"],
        ["verify", "{}/bundle"],
        ["export", "nano", "{}/out", "--tasks", "code"],
        ["sample-checkpoint", "{}/out"],
        ["embed", "--help"],
    ],
    ids=lambda words: words[0] + (" --help" if "--help" in words else ""),
)
def test_output_that_is_no_terminal_has_no_control_characters(
    words: list[str], golden_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "bundle").symlink_to(golden_bundle)
    done = subprocess.run(
        [sys.executable, "-m", "trine", *(word.format(tmp_path) for word in words)],
        capture_output=True,
        timeout=120,
        env={**os.environ, "NO_COLOR": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", done.stdout + done.stderr)
