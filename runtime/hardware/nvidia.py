"""Probes NVIDIA's driver: its version from nvidia-smi, its devices from libcuda."""

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import cast

from trine.runtime.hardware.isolation import Outcome, run_isolated
from trine.runtime.hardware.machine import Driver, Gpu

__all__ = ["driver_from", "read_driver"]

DRIVER_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
#: A driver in trouble makes nvidia-smi hang.
TIMEOUT_S = 20.0


def read_driver(run: Callable[[str, str], Outcome] = run_isolated) -> Driver:
    """Return the driver and its devices.

    Args:
        run: runs a probe, given its kind and name.
    """
    return driver_from(_smi_version(), run("cuda", DRIVER_LIBRARY))


def driver_from(version: str | None, outcome: Outcome) -> Driver:
    """Return the driver that nvidia-smi's version and the probe of libcuda describe."""
    if outcome.result is None:
        return Driver(version=version, cuda=None, gpus=(), problem=outcome.problem)
    major, minor = cast(list[int], outcome.result["cuda"])
    gpus = tuple(
        Gpu(
            index=cast(int, gpu["index"]),
            name=cast(str, gpu["name"]),
            sm=cast(int, gpu["sm"]),
            memory_bytes=cast(int, gpu["memory_bytes"]),
        )
        for gpu in cast(list[Mapping[str, object]], outcome.result["gpus"])
    )
    problem = None if gpus else "the driver works but shows no device"
    return Driver(version=version, cuda=(major, minor), gpus=gpus, problem=problem)


def _smi_version() -> str | None:
    """Return the driver's version as nvidia-smi says it; None where it does not."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.match(r"\d+(?:\.\d+)+", done.stdout.strip())
    return None if found is None else found.group()
