"""Windows and macOS, as far as Linux can show it: without modules, calls and folders of Linux."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "tests" / "data" / "golden" / "checkpoint"

#: Takes away what a system lacks, then goes from a checkpoint to vectors through the program.
PROGRAM = """
import builtins, io, os, pathlib, sys, types
system, checkpoint, bundle, out = sys.argv[1:]
import numpy, onnx_ir, onnxruntime, tokenizers, PIL.Image  # ask for the real system
for name in ("sched_getaffinity", "sched_setaffinity", "posix_fadvise", "memfd_create"):
    delattr(os, name)
real_open = io.open
def without_proc(file, *args, **kwargs):
    if str(file).startswith(("/proc", "/sys")):
        raise FileNotFoundError(2, "No such file or directory", str(file))
    return real_open(file, *args, **kwargs)
builtins.open = io.open = without_proc
pathlib.io.open = without_proc
if system == "win32":
    for name in ("fcntl", "resource", "termios", "pwd", "grp", "pty"):
        sys.modules[name] = None
    for name in ("fork", "forkpty", "getuid", "geteuid", "sysconf", "killpg", "setsid"):
        delattr(os, name)
    msvcrt = types.ModuleType("msvcrt")
    msvcrt.LK_NBLCK, locked = 2, set()
    msvcrt.locking = lambda file, mode, count: locked.add(os.fstat(file).st_ino)
    sys.modules["msvcrt"] = msvcrt
sys.platform = system
from trine import Embedder
from trine.runtime.commands.program import main
assert main(["export", checkpoint, bundle]) == 0
if system == "win32":
    assert locked
numpy.save(out, Embedder.load(bundle, engine="ort-fp32").encode_text("a text", "retrieval"))
"""


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_export_and_embed_without_what_only_linux_has(system: str, tmp_path: Path) -> None:
    bundle, out = tmp_path / "bundle", tmp_path / "vector.npy"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, system, str(CHECKPOINT), str(bundle), str(out)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    from trine.runtime.embedder import Embedder

    want = Embedder.load(bundle).encode_text("a text", "retrieval")
    np.testing.assert_allclose(np.load(out), want, atol=5e-6)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
