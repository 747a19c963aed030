"""Reads which packages are installed, without importing them, and which extras that completes."""

import importlib.metadata
import re
from collections.abc import Iterable, Mapping

from trine.runtime.hardware.machine import Extra, Requirement

__all__ = ["PACKAGES", "parse_extras", "read_extras", "read_packages", "version_numbers"]

#: Packages that bring an engine or a part of NVIDIA's software, by name on the index. Several
#: packages bring the module `onnxruntime`, and several `tensorrt`.
PACKAGES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "tensorrt-lean",
    "tensorrt-rtx",
    "tensorrt-rtx-cu12",
    "tensorrt-rtx-cu13",
    "cuda-python",
    "cuda-bindings",
    "nvidia-cublas",
    "nvidia-cublas-cu12",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
)
#: What may stand in for a package: both bring the same module, and only one may be there.
STAND_INS = {"onnxruntime": "onnxruntime-gpu"}
#: Extras for work on this project; no user lacks them.
DEVELOPER_EXTRAS = frozenset({"dev"})
#: "name[extras]>=1.2,<2; extra == 'x'" as package metadata has it.
REQUIREMENT = re.compile(
    r"^(?P<name>[\w.-]+)\s*(?:\[[^\]]*\])?\s*(?P<limits>[^;]*);.*extra\s*==\s*[\"'](?P<extra>[^\"']+)"
)


def read_packages(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return the version of each of `names` that is installed."""
    found = {name: _version(name) for name in names}
    return {name: version for name, version in found.items() if version is not None}


def read_extras(package: str = "trine") -> tuple[Extra, ...]:
    """Return the extras of an installed package, with what is there of each."""
    requirements = importlib.metadata.requires(package) or []
    names = {found["name"] for line in requirements if (found := REQUIREMENT.match(line))}
    return parse_extras(requirements, read_packages(names | set(STAND_INS.values())))


def parse_extras(requirements: Iterable[str], installed: Mapping[str, str]) -> tuple[Extra, ...]:
    """Return the extras that lines of package metadata declare.

    Args:
        requirements: lines as `Requires-Dist` has them.
        installed: version by package name.
    """
    extras: dict[str, list[Requirement]] = {}
    for line in requirements:
        found = REQUIREMENT.match(line)
        if found is None or found["extra"] in DEVELOPER_EXTRAS:
            continue
        least = re.search(r">=\s*([\w.]+)", found["limits"])
        minimum = "" if least is None else least[1]
        version = installed.get(found["name"]) or installed.get(STAND_INS.get(found["name"], ""))
        fits = version is not None and version_numbers(version) >= version_numbers(minimum)
        extras.setdefault(found["extra"], []).append(
            Requirement(package=found["name"], minimum=minimum, installed=version, fits=fits)
        )
    return tuple(Extra(name=name, requirements=tuple(found)) for name, found in extras.items())


def version_numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, e.g. (1, 31, 1) of "1.31.1.post2"."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return () if found is None else tuple(map(int, found.group().split(".")))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
