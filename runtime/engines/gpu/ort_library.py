"""ONNX Runtime's CUDA provider as a `Library`: graphs run as they are in the bundle.

Inputs and outputs are bound to device memory that the engine owns, and runs are queued on its
stream, so copies overlap with runs as they do with TensorRT. ONNX Runtime falls back to the
processor without a word; that is turned off, and the provider is checked once a session is there.
Never run so far on a machine with a GPU; the bindings were run on the processor's provider, and the
names of options found in the packages.
"""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from trine.runtime.engines.gpu.compiled import Binding, CompiledGraph, ExecutionContext
from trine.runtime.engines.gpu.cuda.device import Device
from trine.runtime.errors import EngineError
from trine.runtime.libraries import import_onnxruntime

__all__ = [
    "OrtGraph",
    "OrtLibrary",
    "OrtSettings",
    "cuda_options",
    "onnxruntime_with_cuda",
]

PROVIDER = "CUDAExecutionProvider"
#: ONNX Runtime's log level for errors.
LOG_ERRORS = 3
#: ONNX's numbers of element types, by ONNX Runtime's names.
ELEMENT_TYPES = {
    "tensor(float)": 1,
    "tensor(int32)": 6,
    "tensor(int64)": 7,
    "tensor(bool)": 9,
    "tensor(float16)": 10,
    "tensor(bfloat16)": 16,
}
#: Numbers of CUDA graphs that a session keeps; -1 is for runs without one.
NUM_GRAPHS, NO_GRAPH = 16, "-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class OrtSettings:
    """How sessions are made.

    Attributes:
        memory_bytes: most that its arena takes of the device's memory; None for all.
        cuda_graphs: whether repeated runs are replayed.
    """

    memory_bytes: int | None
    cuda_graphs: bool


def onnxruntime_with_cuda() -> ModuleType:
    """Return ONNX Runtime, built with the CUDA provider.

    Raises:
        DependencyError: it is not installed.
        EngineError: it was built without the provider, or the provider's libraries are missing.
    """
    onnxruntime = import_onnxruntime("gpu", "to run on a GPU")
    if PROVIDER not in onnxruntime.get_available_providers():
        raise EngineError(
            f"onnxruntime {onnxruntime.__version__} was built without {PROVIDER}; two packages "
            "bring that module, have the one for GPUs alone: pip uninstall -y onnxruntime "
            "onnxruntime-gpu && pip install 'trine[gpu]'"
        )
    # Where NVIDIA's libraries came as packages, this finds them.
    onnxruntime.preload_dlls()
    return onnxruntime


def cuda_options(device: int, stream: int, settings: OrtSettings) -> dict[str, str]:
    """Return the CUDA provider's options, by the names in the package."""
    options = {
        "device_id": str(device),
        "user_compute_stream": str(stream),
        # Grown by what is asked for, not to the next power of two: weights are most of it.
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cuda_graph": "1" if settings.cuda_graphs else "0",
    }
    if settings.memory_bytes is not None:
        options["gpu_mem_limit"] = str(settings.memory_bytes)
    return options


class OrtLibrary:
    """ONNX Runtime with the CUDA provider, on one stream of a device.

    Args:
        onnxruntime: the module.
        device: that runs are on.
        stream: that they are queued on.
        settings: of the sessions.
    """

    def __init__(
        self, onnxruntime: Any, device: Device, stream: int, settings: OrtSettings
    ) -> None:
        self._ort = onnxruntime
        self._device = device
        self._stream = stream
        self._settings = settings

    @property
    def title(self) -> str:
        return f"ONNX Runtime {self.version}, CUDA provider"

    @property
    def version(self) -> str:
        return str(self._ort.__version__)

    @property
    def captures_graphs(self) -> bool:
        return True

    def load(self, path: Path) -> CompiledGraph:
        options = self._ort.SessionOptions()
        options.log_severity_level = LOG_ERRORS
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        cuda = (PROVIDER, cuda_options(self._device.index, self._stream, self._settings))
        try:
            session = self._ort.InferenceSession(path, options, providers=[cuda])
        except Exception as cause:  # onnxruntime has no common base for its own exceptions
            raise EngineError(f"{path}: {self.title} cannot load it: {cause}") from cause
        have = session.get_providers()
        if not have or have[0] != PROVIDER:
            raise EngineError(
                f"{path}: {PROVIDER} was asked for, and ONNX Runtime made a session on "
                f"{', '.join(have)}; `trine doctor` says what the provider lacks"
            )
        return OrtGraph(self._ort, session, self._device.index, self._settings.cuda_graphs)


class OrtGraph:
    """A session, as a `CompiledGraph`.

    Args:
        onnxruntime: the module.
        session: on the device.
        device: its ordinal.
        cuda_graphs: whether the session makes them.
        device_type: what ONNX Runtime calls the device.
    """

    def __init__(
        self,
        onnxruntime: Any,
        session: Any,
        device: int,
        cuda_graphs: bool,
        device_type: str = "cuda",
    ) -> None:
        self._ort = onnxruntime
        self._session = session
        self._place = (device_type, device)
        self._cuda_graphs = cuda_graphs
        self._types = {
            value.name: ELEMENT_TYPES[value.type]
            for value in (*session.get_inputs(), *session.get_outputs())
        }
        self._graphs: dict[object, str] = {}

    def scratch_bytes(self, profile: int) -> int:
        # The arena of the session has it.
        return 0

    def context(self, profile: int, stream: int) -> ExecutionContext:
        return _Context(self)

    def bind(self, binding: Binding) -> Any:
        """Return ONNX Runtime's binding of all inputs and the output to device memory."""
        bound = self._session.io_binding()
        for name, shape in binding.shapes.items():
            bound.bind_input(name, *self._place, self._types[name], shape, binding.addresses[name])
        name, shape = binding.output
        bound.bind_output(name, *self._place, self._types[name], shape, binding.addresses[name])
        return bound

    def run(self, binding: Any, key: object) -> None:
        """Queue a run; one of a `key` that came before is captured, and replayed from then on."""
        options = self._ort.RunOptions()
        # The stream is the engine's own, which waits itself.
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if self._cuda_graphs:
            options.add_run_config_entry("gpu_graph_id", self._graph_of(key))
        try:
            self._session.run_with_iobinding(binding, options)
        except Exception as cause:  # onnxruntime has no common base for its own exceptions
            raise EngineError(f"ONNX Runtime could not run: {cause}") from cause

    def _graph_of(self, key: object) -> str:
        if key in self._graphs:
            number = self._graphs[key]
            if number == NO_GRAPH:
                used = sum(known != NO_GRAPH for known in self._graphs.values())
                number = str(used) if used < NUM_GRAPHS else NO_GRAPH
                self._graphs[key] = number
            return number
        self._graphs[key] = NO_GRAPH
        return NO_GRAPH


class _Context:
    def __init__(self, graph: OrtGraph) -> None:
        self._graph = graph
        self._bound: Any = None
        self._key: object = None

    def bind(self, binding: Binding, scratch: int) -> None:
        self._bound = self._graph.bind(binding)
        self._key = (tuple(binding.shapes.items()), tuple(binding.addresses.items()))

    def enqueue(self, stream: int) -> None:
        self._graph.run(self._bound, self._key)
