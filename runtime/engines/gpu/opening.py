"""Opens an engine on a GPU: the device, the library, the built graphs, the heads' kernels."""

from collections.abc import Callable
from pathlib import Path

from trine.kernels.triton.errors import KernelError
from trine.kernels.triton.index import INDEX_NAME
from trine.kernels.triton.launch import CudaKernels
from trine.runtime.bundle import Bundle
from trine.runtime.engine import EngineOptions
from trine.runtime.engines.gpu.built import built_engine
from trine.runtime.engines.gpu.compiled import Library
from trine.runtime.engines.gpu.cuda import open_device
from trine.runtime.engines.gpu.decoders import merged_decoders, shared_decoder
from trine.runtime.engines.gpu.device import Device
from trine.runtime.engines.gpu.heads import DeviceHeads, Kernels, heads_obstacle
from trine.runtime.engines.gpu.lanes import Lanes
from trine.runtime.engines.gpu.memory import DeviceBuffer
from trine.runtime.engines.gpu.program import Program
from trine.runtime.engines.gpu.tensorrt import TensorRt
from trine.runtime.engines.gpu.tensorrt_engine import Parts, TensorRtEngine
from trine.runtime.errors import EngineError
from trine.runtime.manifest import Builder, EngineEntry

__all__ = ["KERNELS_FOLDER", "Drivers", "open_tensorrt"]

#: Folder of compiled kernels in a bundle.
KERNELS_FOLDER = "kernels"


class Drivers:
    """What touches the GPU; tests put others in their place."""

    def device(self, ordinal: int) -> Device:
        """Return a GPU.

        Raises:
            EngineError, DependencyError: as `cuda.open_device`.
        """
        return open_device(ordinal)

    def library(self, builder: Builder, device: Device) -> Library:
        """Return TensorRT or TensorRT-RTX.

        Raises:
            EngineError, DependencyError: as `tensorrt.TensorRt`.
        """
        return TensorRt(builder, device)

    def kernels(self, folder: Path, device: Device) -> Kernels:
        """Return the kernels that were compiled into a folder.

        Raises:
            KernelError: there are none for this GPU.
        """
        return CudaKernels.load(folder, device.index)


def open_tensorrt(
    bundle: Bundle,
    entry: EngineEntry,
    options: EngineOptions,
    builder: Builder,
    drivers: Drivers | None = None,
) -> TensorRtEngine:
    """Return an engine that runs what `builder` built, its decoders loaded to the device.

    Args:
        bundle: that has the built engines.
        entry: of their graphs.
        options: device, tasks, and whether to make CUDA graphs.
        builder: whose engines to run.
        drivers: of the GPU; None for the real ones.

    Raises:
        EngineError: the driver or GPU is missing, or nothing was built for it; the message says
            what to do.
        DependencyError: a package is not installed.
        BundleError: a file is damaged.
    """
    drivers = drivers or Drivers()
    device = drivers.device(options.device)
    library = drivers.library(builder, device)
    lanes = Lanes(device)
    scratch = DeviceBuffer(device)

    def load(graph: str) -> Program:
        built = built_engine(bundle, entry, graph, builder, library.version, device.sm)
        return Program(
            device,
            library.load(bundle.path(built.path)),
            built.profiles,
            stream=lanes.compute_stream,
            scratch=scratch,
            capture=options.cuda_graphs and not library.captures_graphs,
        )

    for graph in (entry.vision, *(entry.decoders[task] for task in options.tasks)):
        built_engine(bundle, entry, graph, builder, library.version, device.sm)
    if entry.adapters == "merged":
        decoders = merged_decoders(bundle, entry, options.tasks, load)
    else:
        decoders = shared_decoder(bundle, entry, options.tasks, load, device)
    heads, why = _open_heads(bundle, device, drivers.kernels, lanes.compute_stream)
    parts = Parts(
        device=device,
        lanes=lanes,
        library=library,
        decoders=decoders,
        open_vision=lambda: load(entry.vision),
        heads=heads,
        no_heads=why,
    )
    return TensorRtEngine(entry, bundle.manifest.model, parts, options)


def _open_heads(
    bundle: Bundle, device: Device, load: Callable[[Path, Device], Kernels], stream: int
) -> tuple[DeviceHeads | None, str]:
    """Return the heads on the device, or None and why they are not there.

    Raises:
        EngineError: the bundle has kernels, but they do not run here.
    """
    model = bundle.manifest.model
    if f"{KERNELS_FOLDER}/{INDEX_NAME}" not in bundle.manifest.files:
        return None, "the bundle has no kernels; `trine build --kernels` compiles them"
    obstacle = heads_obstacle(model)
    if obstacle is not None:
        return None, obstacle
    try:
        kernels = load(bundle.path(KERNELS_FOLDER), device)
    except KernelError as cause:
        raise EngineError(f"{cause}; or build again with `trine build --kernels`") from cause
    return DeviceHeads(device, kernels, model, stream), ""
