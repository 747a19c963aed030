"""Opens the engine that a bundle's entry asks for."""

from trine.kernels.cpu.library import NativeLibraryError
from trine.runtime.bundle.bundle import Bundle
from trine.runtime.bundle.manifest import EngineEntry
from trine.runtime.engines.base import Engine, EngineOptions
from trine.runtime.engines.gpu.entries import GPU_RUNNERS
from trine.runtime.engines.gpu.opening import open_gpu_engine
from trine.runtime.engines.native.engine import NativeCpuEngine
from trine.runtime.engines.ort.engine import OrtCpuEngine
from trine.runtime.errors import EngineError

__all__ = ["open_engine"]


def open_engine(bundle: Bundle, entry: EngineEntry, options: EngineOptions) -> Engine:
    """Return the engine of `entry`, its decoders loaded.

    Raises:
        EngineError: it cannot run on this machine.
        DependencyError: its package is not installed.
    """
    if entry.runner in GPU_RUNNERS:
        return open_gpu_engine(bundle, entry, options)
    if "cpu" not in entry.devices:
        raise EngineError(
            f"engine {entry.name} runs on {', '.join(entry.devices)} only, for the CPU has no "
            f"products of {entry.precision}, and GPUs run the graphs of --target tensorrt; take "
            "another engine of the bundle, or export one with --precision fp32 or int8"
        )
    if entry.runner == "native":
        try:
            return NativeCpuEngine(bundle, entry, options)
        except NativeLibraryError as cause:
            raise EngineError(
                f"engine {entry.name} cannot run here: {cause}; or take another of the bundle"
            ) from cause
    return OrtCpuEngine(bundle, entry, options)
