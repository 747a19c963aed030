"""TensorRT 10 and 11, and TensorRT-RTX, as a `Library`: the same calls of two packages.

Never run so far on a machine with a GPU; what was checked is that every class, method and name used
here is in the packages, and that a missing package is one clear error.
"""

import importlib
import logging
import mmap
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from trine.runtime.bundle.manifest import Builder
from trine.runtime.engines.gpu.compiled import Binding, CompiledGraph, ExecutionContext
from trine.runtime.engines.gpu.cuda.device import Device
from trine.runtime.errors import EngineError, missing_package

__all__ = ["TITLES", "TensorRt", "import_builder"]

#: What people call the builders, which are also the names of their extras with dashes.
TITLES: Mapping[Builder, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}

logger = logging.getLogger(__name__)


def import_builder(builder: Builder) -> ModuleType:
    """Return the module of TensorRT or TensorRT-RTX.

    Raises:
        DependencyError: its package is not installed.
        EngineError: the package is there, but its libraries are not.
    """
    try:
        return importlib.import_module(builder)
    except ModuleNotFoundError as cause:
        if cause.name != builder:
            raise _broken(builder, cause) from cause
        extra = builder.replace("_", "-")
        raise missing_package(builder, extra, f"to run {TITLES[builder]} engines") from cause
    except Exception as cause:  # a package of native code raises what it likes at import
        raise _broken(builder, cause) from cause


def _broken(builder: Builder, cause: Exception) -> EngineError:
    package = builder.replace("_", "-")
    return EngineError(
        f"{TITLES[builder]} is installed but cannot be imported ({cause}); its package "
        f"fetches its libraries from NVIDIA: pip install --force-reinstall {package}"
    )


class TensorRt:
    """One of the two packages on one device.

    Args:
        builder: which.
        device: that engines are loaded to.

    Raises:
        DependencyError, EngineError: as `import_builder`.
    """

    def __init__(self, builder: Builder, device: Device) -> None:
        self._trt: Any = import_builder(builder)
        self._builder = builder
        self._device = device
        self._log = _make_log(self._trt)
        with device.current():
            self._runtime = self._trt.Runtime(self._log)
        if self._runtime is None:
            raise EngineError(
                f"{TITLES[builder]} cannot start on device {device.index}: {self._log.last}"
            )

    @property
    def title(self) -> str:
        return f"{TITLES[self._builder]} {self.version}"

    @property
    def version(self) -> str:
        return str(self._trt.__version__)

    @property
    def captures_graphs(self) -> bool:
        return self._builder == "tensorrt_rtx"

    def load(self, path: Path) -> CompiledGraph:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            self._device.current(),
        ):
            engine = self._runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise EngineError(f"{path}: {self.title} cannot load it: {self._log.last}")
        return _CompiledGraph(self._trt, self._log, engine, self._device, self.captures_graphs)


class _CompiledGraph:
    def __init__(
        self, trt: Any, log: Any, engine: Any, device: Device, captures_graphs: bool
    ) -> None:
        self._trt = trt
        self._log = log
        self._engine = engine
        self._device = device
        self._captures_graphs = captures_graphs

    def scratch_bytes(self, profile: int) -> int:
        # Not `device_memory_size_v2`, which is the largest bucket's: a query would pay for it too.
        return int(self._engine.get_device_memory_size_for_profile_v2(profile))

    def context(self, profile: int, stream: int) -> ExecutionContext:
        trt = self._trt
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if self._captures_graphs:
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        with self._device.current():
            context = self._engine.create_execution_context(config)
            if context is None or not context.set_optimization_profile_async(profile, stream):
                raise EngineError(f"bucket {profile} cannot be used: {self._log.last}")
        return _Context(context, self._log, self.scratch_bytes(profile))


class _Context:
    def __init__(self, context: Any, log: Any, scratch_bytes: int) -> None:
        self._context = context
        self._log = log
        self._scratch_bytes = scratch_bytes

    def bind(self, binding: Binding, scratch: int) -> None:
        context = self._context
        for name, shape in binding.shapes.items():
            if not context.set_input_shape(name, shape):
                raise EngineError(f"input {name} cannot have the shape {shape}: {self._log.last}")
        for name, address in binding.addresses.items():
            if not context.set_tensor_address(name, address):
                raise EngineError(f"there is no tensor {name}: {self._log.last}")
        context.set_device_memory(scratch, self._scratch_bytes)

    def enqueue(self, stream: int) -> None:
        if not self._context.execute_async_v3(stream):
            raise EngineError(f"a run was refused: {self._log.last}")


def _make_log(trt: Any) -> Any:
    """Return a logger of the library that passes messages on, and keeps the last error."""
    levels = {
        trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.Severity.ERROR: logging.ERROR,
        trt.ILogger.Severity.WARNING: logging.WARNING,
        trt.ILogger.Severity.INFO: logging.DEBUG,
        trt.ILogger.Severity.VERBOSE: logging.DEBUG,
    }

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.last = "no message"

        def log(self, severity: Any, message: str) -> None:
            level = levels[severity]
            if level == logging.ERROR:
                self.last = message
            logger.log(level, "%s", message)

    return Log()
