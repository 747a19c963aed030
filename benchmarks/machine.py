"""Describes the machine of a benchmark: processor, versions, commit."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

__all__ = ["machine_record"]


def machine_record() -> dict[str, object]:
    """Return the machine's part of a benchmark's record."""
    return {
        "cpu": _processor(),
        "threads": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("trine", "onnxruntime", "numpy")},
        "commit": _commit(),
    }


def _processor() -> str:
    """Return family, model and the vector instructions that matter, or the architecture alone."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    fields = dict(
        (part.strip() for part in line.split(":", 1)) for line in text.splitlines() if ":" in line
    )
    flags = set(fields.get("flags", "").split())
    known = [f for f in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8") if f in flags]
    return (
        f"{fields.get('model name', '')} family {fields.get('cpu family', '')} "
        f"model {fields.get('model', '')} ({' '.join(known)})"
    )


def _commit() -> str:
    run = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    return run.stdout.strip() or "unknown"
