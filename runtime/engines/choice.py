"""Chooses the engine that "auto" stands for, by looking for a GPU that can run one."""

import ctypes
import importlib.metadata
import logging
import sys
from dataclasses import dataclass

from trine.kernels.cpu.library import why_unavailable
from trine.runtime.bundle.bundle import Bundle
from trine.runtime.bundle.manifest import Builder, EngineEntry
from trine.runtime.bundle.tuned_settings import TunedSettings, read_tuned
from trine.runtime.engines.gpu.built import built_engine
from trine.runtime.engines.gpu.entries import GPU_RUNNERS, gpu_entries
from trine.runtime.errors import DependencyError, EngineError
from trine.runtime.hardware.probe import probe_cuda
from trine.runtime.libraries import import_onnxruntime

__all__ = ["EngineChoice", "choose_engine", "resolve_engine", "why_not"]

logger = logging.getLogger(__name__)

DRIVER_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
#: Distributions that bring each builder's module.
PACKAGES: dict[Builder, tuple[str, ...]] = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt_rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
}


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """What to run.

    Attributes:
        entry: of the engine.
        tuned: settings that `trine tune` found for it here; None if there are none, or if the
            engine was named.
    """

    entry: EngineEntry
    tuned: TunedSettings | None


def choose_engine(bundle: Bundle, name: str, device: int) -> EngineChoice:
    """Return the entry to run, and how.

    Nothing is loaded: an entry that seems to run and then does not is an error, not a reason to
    take another.

    Args:
        bundle: that lists it.
        name: of it; "auto" for the first that a GPU of this machine can run, else the first that
            the processor can. Why a GPU's is not taken is logged.
        device: ordinal of the GPU.

    Raises:
        BundleError: the bundle has no engine of that name, or its settings are damaged.
    """
    if name != "auto":
        return EngineChoice(bundle.engine(name), None)
    for entry in gpu_entries(bundle.manifest.engines):
        obstacle = why_not(bundle, entry, device)
        if obstacle is None:
            # What suits the processor's engine says nothing of a GPU's.
            return EngineChoice(entry, None)
        logger.info("engine auto: not %s by %s: %s", entry.name, entry.runner, obstacle)
    tuned = read_tuned(bundle.folder)
    return EngineChoice(bundle.tuned_engine(tuned), tuned)


def resolve_engine(bundle: Bundle, name: str, device: int) -> EngineEntry:
    """Return the entry of `choose_engine`, whatever settings were found for it."""
    return choose_engine(bundle, name, device).entry


def why_not(bundle: Bundle, entry: EngineEntry, device: int) -> str | None:
    """Return why an entry cannot run on this machine, as far as can be seen without loading it.

    Args:
        bundle: that lists it.
        entry: with the runner that it would be run by.
        device: ordinal of the GPU, for those that run on one.

    Returns:
        a sentence; None if nothing speaks against it.
    """
    if entry.runner == "native":
        return why_unavailable()
    if entry.runner not in GPU_RUNNERS:
        known = ", ".join(entry.devices)
        return None if "cpu" in entry.devices else f"its graphs run on {known} only"
    sm = _present_sm(device)
    return sm if isinstance(sm, str) else _obstacle(bundle, entry, sm)


def _present_sm(device: int) -> int | str:
    """Return a GPU's compute capability times 10, or why there is none."""
    try:
        library = ctypes.CDLL(DRIVER_LIBRARY)
    except OSError as cause:
        return f"there is no NVIDIA driver ({cause})"
    found = probe_cuda(library)
    if "problem" in found:
        return str(found["problem"])
    gpus = found["gpus"]
    if not isinstance(gpus, list) or not 0 <= device < len(gpus):
        return f"the driver shows no GPU {device}"
    return int(gpus[device]["sm"])


def _obstacle(bundle: Bundle, entry: EngineEntry, sm: int) -> str | None:
    """Return why an entry's runner cannot take it here; None if nothing speaks against it."""
    if entry.runner == "tensorrt" or entry.runner == "tensorrt_rtx":
        version = _installed(entry.runner)
        if version is None:
            return f"the package {entry.runner} is not installed"
        try:
            for graph in (entry.vision, *entry.decoders.values()):
                built_engine(bundle, entry, graph, entry.runner, version, sm)
        except EngineError as problem:
            return str(problem)
        return None
    try:
        onnxruntime = import_onnxruntime()
    except DependencyError:
        return "onnxruntime is not installed"
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return f"onnxruntime {onnxruntime.__version__} was built without CUDA"
    return None


def _installed(builder: Builder) -> str | None:
    """Return the version of a builder's package; None if it is not installed."""
    for package in PACKAGES[builder]:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
