"""Probes ONNX Runtime: which providers really make and run a session, and why others do not."""

import importlib.util
import mmap
import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

from trine.runtime.hardware.isolation import Outcome, run_isolated
from trine.runtime.hardware.machine import OnnxRuntime, Provider

__all__ = ["linked_libraries", "read_onnxruntime"]

#: The providers this project has engines for, in the order shown.
PROVIDERS = ("CPUExecutionProvider", "CUDAExecutionProvider")
#: Libraries of NVIDIA whose major version an installation must match.
LINKED = re.compile(rb"lib(cublasLt|cudnn)\.so\.(\d+)")


def read_onnxruntime(run: Callable[[str, str], Outcome] = run_isolated) -> OnnxRuntime:
    """Return what the installed ONNX Runtime can do.

    Args:
        run: runs a probe, given its kind and name.
    """
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        return OnnxRuntime(version=None, problem=None, providers=(), linked={})
    found = run("providers", "onnxruntime")
    if found.result is None:
        return OnnxRuntime(version=None, problem=found.problem, providers=(), linked={})
    offered = cast(list[str], found.result["providers"])
    return OnnxRuntime(
        version=cast(str, found.result["version"]),
        problem=None,
        providers=tuple(
            Provider(
                name=name,
                offered=name in offered,
                problem=run("provider", name).problem if name in offered else None,
            )
            for name in PROVIDERS
        ),
        linked=linked_libraries(Path(spec.origin).parent / "capi"),
    )


def linked_libraries(folder: Path) -> dict[str, int]:
    """Return the major version of each of NVIDIA's libraries that shared objects there ask for.

    The provider libraries name them in their dynamic section, whether they are installed or not.
    """
    majors: dict[str, int] = {}
    for path in sorted(folder.glob("libonnxruntime_providers_*.so")):
        if path.stat().st_size == 0:
            continue
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for name, major in LINKED.findall(data):
                majors.setdefault(name.decode(), int(major))
    return majors
