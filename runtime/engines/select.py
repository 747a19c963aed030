"""Selects the engine to run: by name, or the one that "auto" stands for on this machine.

A bundle lists an engine for each of its graphs' precisions, say "ort-int8". The native kernels run
int8 graphs as "native-int8", and graphs for TensorRT can be run in several ways
(`trine.runtime.engines.gpu.entries`). This module alone answers "auto".
"""

import ctypes
import importlib.metadata
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from trine.kernels.cpu.library import why_unavailable
from trine.runtime.bundle.bundle import Bundle
from trine.runtime.bundle.manifest import Builder, EngineEntry
from trine.runtime.bundle.precision import EnginePrecision
from trine.runtime.bundle.tuned_settings import TunedSettings, read_tuned
from trine.runtime.engines.gpu.built import built_engine
from trine.runtime.engines.gpu.entries import (
    GPU_RUNNERS,
    REMOVED_RUNNER,
    by_builder,
    gpu_entries,
    gpu_entry,
)
from trine.runtime.engines.native.entries import misses_kernels, native_entry, prefers_native
from trine.runtime.engines.rates import fastest, kind_of_processor
from trine.runtime.errors import BundleError, DependencyError, EngineError, InputError
from trine.runtime.hardware.cpu import read_cpu
from trine.runtime.hardware.probe import probe_cuda
from trine.runtime.libraries import import_onnxruntime

__all__ = [
    "AUTO",
    "QUALITIES",
    "Host",
    "Quality",
    "Selection",
    "best_way",
    "cpu_engine",
    "engine_named",
    "engines_of",
    "listed_entry",
    "obstacle_to",
    "read_host",
    "select_engine",
]

logger = logging.getLogger(__name__)

#: What vectors may lose: nothing but rounding of float32; what 16 bits lose; or what 8 bits do.
Quality = Literal["lossless", "high", "fast"]
#: Precisions that keep each.
QUALITIES: Mapping[Quality, tuple[EnginePrecision, ...]] = {
    "lossless": ("fp32",),
    "high": ("fp32", "bf16", "fp16"),
    "fast": ("fp32", "bf16", "fp16", "int8", "fp8", "int4"),
}
#: The name that stands for the best engine of a machine.
AUTO = "auto"
DRIVER_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
#: Distributions that bring each builder's module.
PACKAGES: dict[Builder, tuple[str, ...]] = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt_rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What this machine can run engines on, as far as can be seen without loading one.

    Attributes:
        sm: compute capability of the GPU times 10, or in one sentence why there is none.
        no_native: why the native kernels cannot be used; None if they can.
        no_cuda: why ONNX Runtime cannot use the GPU; None if it can.
        builders: versions of the packages that run built engines.
        misses_kernels: whether the native kernels would be the faster here, had they been compiled.
    """

    sm: int | str
    no_native: str | None
    no_cuda: str | None
    builders: Mapping[Builder, str] = field(default_factory=dict)
    misses_kernels: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """What to run.

    Attributes:
        entry: of the engine.
        tuned: settings that `trine tune` found for it on this machine; None if there are none, or
            if the engine was named.
        reasons: why engines that would have come before were not taken, a sentence each.
    """

    entry: EngineEntry
    tuned: TunedSettings | None
    reasons: tuple[str, ...]


def select_engine(
    bundle: Bundle, name: str = AUTO, host: Host | None = None, quality: Quality | None = None
) -> Selection:
    """Return the engine to run.

    Nothing is loaded: an entry that seems to run and then does not is an error, not a reason to
    take another.

    Args:
        bundle: that lists the engines.
        name: of one; "auto" for the first that the GPU can run, else what `trine tune` found on
            this machine, else the first that the processor can run, by the native kernels where
            they suit it. An engine that was found by tuning and cannot run any more is passed over
            with a warning.
        host: what the machine can do; None to look.
        quality: that "auto" keeps: then it takes the fastest engine whose precision does, by what
            was measured on such processors (`trine.runtime.engines.rates`); None for the precision
            that the bundle lists first.

    Raises:
        BundleError: the bundle has no engine of that name or quality, or its settings are damaged.
        InputError: the quality is unknown, or an engine is named beside it.
    """
    if not isinstance(name, str):
        raise InputError(f"engine is {name!r}; give a name, or 'auto'")
    if quality is not None:
        _check_quality(quality, name)
    if name != AUTO:
        return Selection(engine_named(bundle, name), None, ())
    host = host or read_host(bundle, 0)
    reasons: list[str] = []
    for entry in gpu_entries(bundle.manifest.engines):
        obstacle = _too_coarse(entry, quality) or obstacle_to(bundle, entry, host)
        if obstacle is None:
            # What suits the processor's engine says nothing of a GPU's.
            return Selection(entry, None, tuple(reasons))
        reasons.append(f"not {entry.name} by {entry.runner}: {obstacle}")
        logger.info("engine auto: %s", reasons[-1])
    tuned = read_tuned(bundle.folder)
    if tuned is not None:
        entry = engine_named(bundle, tuned.engine)
        obstacle = _too_coarse(entry, quality) or obstacle_to(bundle, entry, host)
        if obstacle is None:
            return Selection(entry, tuned, tuple(reasons))
        reasons.append(f"not {entry.name}, which `trine tune` found: {obstacle}")
        logger.warning("engine auto: %s", reasons[-1])
    if quality is not None:
        return Selection(_fastest_of(bundle, quality, host), None, tuple(reasons))
    entry = cpu_engine(bundle)
    native = native_entry(entry)
    if native is not None and host.misses_kernels:
        reasons.append(f"not {native.name}, which is faster here: {host.no_native}")
        logger.warning("engine auto: %s", reasons[-1])
    return Selection(best_way(entry, host), None, tuple(reasons))


def best_way(entry: EngineEntry, host: Host) -> EngineEntry:
    """Return an engine as "auto" runs it: by the native kernels where they suit it, else as listed.

    Args:
        entry: as the manifest has it.
        host: the machine.
    """
    native = native_entry(entry)
    suits = native is not None and host.no_native is None and prefers_native(entry)
    return native if native is not None and suits else entry


def _check_quality(quality: str, name: str) -> None:
    if quality not in QUALITIES:
        raise InputError(f"quality is {quality!r}; choose of {', '.join(QUALITIES)}")
    if name != AUTO:
        raise InputError(
            f"quality is {quality!r} beside engine {name!r}; a named engine has its own: give one "
            "of both"
        )


def _too_coarse(entry: EngineEntry, quality: Quality | None) -> str | None:
    """Return why an engine does not keep a quality; None if it does."""
    if quality is None or entry.precision in QUALITIES[quality]:
        return None
    return f"it is {entry.precision}, which quality {quality!r} is not"


def _fastest_of(bundle: Bundle, quality: Quality, host: Host) -> EngineEntry:
    """Return the fastest engine of the processor that keeps a quality."""
    known = [entry for entry in engines_of(bundle) if entry.precision in QUALITIES[quality]]
    able = [entry for entry in known if obstacle_to(bundle, entry, host) is None]
    on_processor = [entry for entry in able if entry.runner in ("native", "onnxruntime")]
    if on_processor:
        return fastest(on_processor, kind_of_processor())
    listed = sorted({entry.precision for entry in bundle.manifest.engines})
    raise BundleError(
        f"{bundle.folder}: has no engine of quality {quality!r} that this processor runs, only "
        f"{', '.join(listed)}; export it with --precision {QUALITIES[quality][-1]}"
        if quality != "fast"
        else f"{bundle.folder}: has no engine that this processor runs; export it with "
        "--precision int8"
    )


def engines_of(bundle: Bundle) -> tuple[EngineEntry, ...]:
    """Return all engines of a bundle: those listed, then those of the native kernels."""
    listed = bundle.manifest.engines
    native = (native_entry(entry) for entry in listed)
    return (*listed, *(entry for entry in native if entry is not None))


def listed_entry(bundle: Bundle, entry: EngineEntry) -> EngineEntry:
    """Return the entry in the bundle's list whose graphs the native kernels run as `entry`."""
    pairs = ((listed, native_entry(listed)) for listed in bundle.manifest.engines)
    return next(
        listed for listed, native in pairs if native is not None and native.name == entry.name
    )


def engine_named(bundle: Bundle, name: str) -> EngineEntry:
    """Return the entry of an engine by its name, or by a way to run one on a GPU.

    Args:
        bundle: that lists it.
        name: of an engine; "ort_cpu" is the first that ONNX Runtime can run on the processor,
            "tensorrt" the first that TensorRT can, "trt-int8:ort_cuda" that one by ONNX Runtime.

    Raises:
        BundleError: the bundle has no engine of that name.
    """
    if name == "ort_cpu":
        return cpu_engine(bundle)
    engines = engines_of(bundle)
    for entry in engines:
        if entry.name == name:
            return by_builder(entry)
    found = gpu_entry(bundle.manifest.engines, name)
    if found is not None:
        return found
    if name.rpartition(":")[2] == REMOVED_RUNNER:
        raise BundleError(
            f"engine {name!r} is no more: ONNX Runtime's TensorRT provider cannot run strongly "
            "typed graphs; use 'tensorrt' or 'tensorrt_rtx'"
        )
    raise BundleError(
        f"{bundle.folder}: has no engine {name!r}; it has {[e.name for e in engines]}"
        + (
            f"; {name} runs graphs that `trine export --target tensorrt` adds"
            if name.rpartition(":")[2] in GPU_RUNNERS
            else ""
        )
    )


def cpu_engine(bundle: Bundle) -> EngineEntry:
    """Return the first engine whose graphs ONNX Runtime runs on a CPU; the first if none is."""
    listed = bundle.manifest.engines
    return next((entry for entry in listed if "cpu" in entry.devices), listed[0])


def obstacle_to(bundle: Bundle, entry: EngineEntry, host: Host) -> str | None:
    """Return why an entry cannot run on a machine; None if nothing speaks against it.

    Args:
        bundle: that lists it.
        entry: with the runner that it would be run by.
        host: the machine.
    """
    if entry.runner == "native":
        return host.no_native
    if entry.runner not in GPU_RUNNERS:
        known = ", ".join(entry.devices)
        return None if "cpu" in entry.devices else f"its graphs run on {known} only"
    if isinstance(host.sm, str):
        return host.sm
    if entry.runner != "tensorrt" and entry.runner != "tensorrt_rtx":
        return host.no_cuda
    version = host.builders.get(entry.runner)
    if version is None:
        return f"the package {entry.runner} is not installed"
    try:
        for graph in (entry.vision, *entry.decoders.values()):
            built_engine(bundle, entry, graph, entry.runner, version, host.sm)
    except EngineError as problem:
        return str(problem)
    return None


def read_host(bundle: Bundle, device: int) -> Host:
    """Return what this machine can do for a bundle; a GPU is looked for only if it has graphs.

    Args:
        bundle: whose engines are to be run.
        device: ordinal of the GPU.
    """
    wanted = any(entry.runner in GPU_RUNNERS for entry in bundle.manifest.engines)
    sm = _read_sm(device) if wanted else "the bundle has no graphs for GPUs"
    return Host(
        sm=sm,
        no_native=why_unavailable(),
        no_cuda=None if isinstance(sm, str) else _cuda_obstacle(),
        builders={
            builder: version
            for builder, packages in PACKAGES.items()
            if (version := _installed(packages)) is not None
        },
        misses_kernels=misses_kernels(read_cpu().features),
    )


def _read_sm(device: int) -> int | str:
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


def _cuda_obstacle() -> str | None:
    try:
        onnxruntime = import_onnxruntime()
    except DependencyError:
        return "onnxruntime is not installed"
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return f"onnxruntime {onnxruntime.__version__} was built without CUDA"
    return None


def _installed(packages: tuple[str, ...]) -> str | None:
    for package in packages:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
