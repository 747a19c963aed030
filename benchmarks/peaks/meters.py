"""Runs the meters, each in a process of its own, and names the roofs."""

import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from backends.contract import Setup
from backends.process import worker_environment

__all__ = ["measure_peaks"]

HERE = Path(__file__).parent


def measure_peaks(
    setup: Setup,
    hidden: int,
    intermediate: int,
    python: Callable[[str], Path],
    said: Callable[[str], None],
) -> dict[str, Any]:
    """Return what the machine reaches at best.

    Args:
        setup: threads and environment.
        hidden: of the decoder, as `intermediate` a side of the products measured.
        intermediate: of the decoder.
        python: interpreter of an environment.
        said: told what cannot be measured.

    Returns:
        "register": {"int8", "float32": operations a second; "read": bytes a second};
        "onnxruntime" and "onednn": {"int8": operations a second, "shape": [M, K, N]}. A meter that
        cannot run is left out.
    """
    sizes = [str(setup.threads), str(hidden), str(intermediate)]
    environments = {"onnxruntime": "trine", "onednn": "torch"}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "register"
        source = str(HERE / "register.c")
        compile_it = ["gcc", "-O2", "-march=native", "-fopenmp", source, "-o", str(program)]
        commands: Mapping[str, list[list[str]]] = {
            "register": [compile_it, [str(program), str(setup.threads)]],
            **{
                library: [[str(python(where)), str(HERE / "products.py"), library, *sizes]]
                for library, where in environments.items()
            },
        }
        for name, steps in commands.items():
            try:
                for command in steps:
                    run = subprocess.run(
                        command,
                        capture_output=True,
                        text=True,
                        check=True,
                        env=worker_environment(setup),
                    )
                found[name] = json.loads(run.stdout)
            except (OSError, subprocess.CalledProcessError, ValueError) as cause:
                lines = getattr(cause, "stderr", None) or str(cause)
                said(f"  no peak by {name}: {lines.strip().splitlines()[-1]}")
    return found
