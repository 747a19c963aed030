"""Loading a kernel loads nothing else, and compiling one says what it lacks."""

import subprocess
import sys
from pathlib import Path

HEAVY = ("triton", "torch", "tensorrt", "cuda", "onnx")


def test_launching_imports_no_compiler() -> None:
    code = (
        "import sys, trine.kernels.triton.launch, trine.kernels.triton.launches, "
        "trine.kernels.triton.compile, trine.kernels.patchify; "
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_compiling_without_triton_names_the_extra(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['triton'] = None; "
        "from trine.kernels.triton.compile import main; "
        f"sys.exit(main(['--out', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the package 'triton' is needed to compile kernels")
    assert "pip install 'trine[kernels]'" in done.stderr
