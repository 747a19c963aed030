"""Opens an engine on a GPU: the device, the library, the built graphs, the heads' kernels."""

from collections.abc import Callable
from pathlib import Path

from trine.kernels.triton.errors import KernelError
from trine.kernels.triton.index import INDEX_NAME
from trine.kernels.triton.launch import CudaKernels
from trine.runtime.bundle.bundle import Bundle
from trine.runtime.bundle.manifest import Builder, EngineEntry, SizeRange
from trine.runtime.engines.base import EngineOptions
from trine.runtime.engines.gpu.buckets import ANY_SIZE, Buckets
from trine.runtime.engines.gpu.built import built_engine, rebuild_command
from trine.runtime.engines.gpu.compiled import Library
from trine.runtime.engines.gpu.cuda.device import Device
from trine.runtime.engines.gpu.cuda.driver import open_device
from trine.runtime.engines.gpu.cuda.lanes import Lanes
from trine.runtime.engines.gpu.cuda.memory import DeviceBuffer
from trine.runtime.engines.gpu.decoders import OpenProgram, merged_decoders, shared_decoder
from trine.runtime.engines.gpu.engine import GpuEngine, Parts
from trine.runtime.engines.gpu.heads import DeviceHeads, Kernels, heads_obstacle
from trine.runtime.engines.gpu.ort_library import (
    OrtLibrary,
    OrtSettings,
    onnxruntime_with_cuda,
)
from trine.runtime.engines.gpu.program import Program
from trine.runtime.engines.gpu.tensorrt import TensorRt
from trine.runtime.errors import EngineError

__all__ = ["KERNELS_FOLDER", "Drivers", "open_gpu_engine"]

#: Folder of compiled kernels in a bundle.
KERNELS_FOLDER = "kernels"
#: What runs of few tokens are padded to where graphs take any size: `Padding.free_tokens`.
SHORT_TEXTS = {
    "tokens": SizeRange(1, 256, 256),
    "sequences": SizeRange(1, 8, 8),
    "length": SizeRange(1, 64, 64),
}


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

    def onnxruntime(self, settings: OrtSettings, device: Device, stream: int) -> Library:
        """Return ONNX Runtime on a stream of a GPU.

        Raises:
            EngineError, DependencyError: as `ort_library.onnxruntime_with_cuda`.
        """
        return OrtLibrary(onnxruntime_with_cuda(), device, stream, settings)

    def kernels(self, folder: Path, device: Device) -> Kernels:
        """Return the kernels that were compiled into a folder.

        Raises:
            KernelError: there are none for this GPU.
        """
        return CudaKernels.load(folder, device.index)


def open_gpu_engine(
    bundle: Bundle, entry: EngineEntry, options: EngineOptions, drivers: Drivers | None = None
) -> GpuEngine:
    """Return the engine of `entry` on a GPU, its decoders loaded to the device.

    Args:
        bundle: that has its files.
        entry: with the runner to use: "tensorrt", "tensorrt_rtx" or "ort_cuda".
        options: device, tasks, memory, and whether to make CUDA graphs.
        drivers: of the GPU; None for the real ones.

    Raises:
        EngineError: the driver or GPU is missing, or nothing was built for it; the message says
            what to do.
        DependencyError: a package is not installed.
        BundleError: a file is damaged.
    """
    drivers = drivers or Drivers()
    device = drivers.device(options.device)
    lanes = Lanes(device)
    if entry.runner == "ort_cuda":
        settings = OrtSettings(
            memory_bytes=options.device_memory_bytes, cuda_graphs=options.cuda_graphs
        )
        library = drivers.onnxruntime(settings, device, lanes.compute_stream)
        load = _graph_loader(bundle, library, lanes)
    elif entry.runner == "tensorrt" or entry.runner == "tensorrt_rtx":
        library = drivers.library(entry.runner, device)
        load = _built_loader(bundle, entry, options, library, lanes, entry.runner)
    else:
        raise EngineError(f"engine {entry.name} has the runner {entry.runner!r}, none of a GPU")
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
    return GpuEngine(entry, bundle.manifest.model, parts, options)


def _built_loader(
    bundle: Bundle,
    entry: EngineEntry,
    options: EngineOptions,
    library: Library,
    lanes: Lanes,
    builder: Builder,
) -> OpenProgram:
    """Return what loads the engines that `builder` built; all are looked for at once.

    Raises:
        EngineError: one was not built for this GPU and version.
    """
    device, scratch = lanes.device, DeviceBuffer(lanes.device)
    graphs = (entry.vision, *(entry.decoders[task] for task in options.tasks))
    built = {
        graph: built_engine(bundle, entry, graph, builder, library.version, device.sm)
        for graph in graphs
    }
    remedy = rebuild_command(bundle, entry, builder, device.sm)

    def load(graph: str) -> Program:
        return Program(
            device,
            library.load(bundle.path(built[graph].path)),
            Buckets(built[graph].profiles, remedy),
            stream=lanes.compute_stream,
            scratch=scratch,
            capture=options.cuda_graphs and not library.captures_graphs,
        )

    return load


def _graph_loader(bundle: Bundle, library: Library, lanes: Lanes) -> OpenProgram:
    """Return what loads the graphs themselves."""
    scratch = DeviceBuffer(lanes.device)

    def load(graph: str) -> Program:
        return Program(
            lanes.device,
            library.load(bundle.path(graph)),
            Buckets((SHORT_TEXTS, ANY_SIZE), ""),
            stream=lanes.compute_stream,
            scratch=scratch,
            capture=False,
        )

    return load


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
