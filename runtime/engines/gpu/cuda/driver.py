"""The calls of the CUDA driver that engines make, through cuda-bindings: a `Device`.

Never run so far on a machine with a GPU; what was checked is that every function and name called
here is in the package, and that a missing package, driver or GPU is one clear error.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from trine.runtime.engines.gpu.cuda.device import HostBlock
from trine.runtime.errors import EngineError, missing_package

__all__ = ["CudaDevice", "open_device"]

#: Longest name of a device.
NAME_BYTES = 256


def open_device(device: int) -> "CudaDevice":
    """Return a GPU, with its primary context, which libraries share.

    Args:
        device: ordinal of the GPU.

    Raises:
        EngineError: the driver is missing, or there is no such GPU.
        DependencyError: cuda-bindings is not installed.
    """
    try:
        from cuda.bindings import driver
    except ImportError as cause:
        raise missing_package("cuda.bindings", "tensorrt", "to run on a GPU") from cause
    try:
        (status,) = driver.cuInit(0)
    except RuntimeError as cause:  # cuda-bindings' DynamicLibNotFoundError is one
        raise EngineError(
            "no NVIDIA driver: libcuda cannot be loaded; install NVIDIA's driver on the host, "
            "start a container with --gpus all, or load with engine='ort_cpu'"
        ) from cause
    if status != driver.CUresult.CUDA_SUCCESS:
        raise EngineError(
            f"the NVIDIA driver finds no usable GPU ({status.name}); see nvidia-smi, or load with "
            "engine='ort_cpu'"
        )
    return CudaDevice(driver, device)


class CudaDevice:
    """One GPU; `open_device` makes it.

    Args:
        bindings: the module `cuda.bindings.driver`, initialised.
        device: ordinal of the GPU.

    Raises:
        EngineError: there is no such GPU.
    """

    def __init__(self, bindings: ModuleType, device: int) -> None:
        self._cuda = bindings
        count = int(self._call("cuDeviceGetCount"))
        if not 0 <= device < count:
            raise EngineError(
                f"device is {device}, and this machine has {count} GPUs, numbered from 0"
            )
        self._index = device
        self._handle = self._call("cuDeviceGet", device)
        self._context = self._call("cuDevicePrimaryCtxRetain", self._handle)
        names = bindings.CUdevice_attribute
        major, minor = (
            int(self._call("cuDeviceGetAttribute", name, self._handle))
            for name in (
                names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        self._sm = 10 * major + minor
        name = bytes(self._call("cuDeviceGetName", NAME_BYTES, self._handle))
        self._name = name.split(b"\0")[0].decode(errors="replace")

    @property
    def index(self) -> int:
        return self._index

    @property
    def name(self) -> str:
        return self._name

    @property
    def sm(self) -> int:
        return self._sm

    @contextmanager
    def current(self) -> Iterator[None]:
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent")

    def allocate(self, num_bytes: int) -> int:
        with self.current():
            return int(self._call("cuMemAlloc", num_bytes))

    def free(self, address: int) -> None:
        with self.current():
            self._call("cuMemFree", self._cuda.CUdeviceptr(address))

    def allocate_host(self, num_bytes: int) -> HostBlock:
        with self.current():
            address = int(self._call("cuMemHostAlloc", num_bytes, 0))
        memory = (ctypes.c_uint8 * num_bytes).from_address(address)
        return np.ctypeslib.as_array(memory)

    def free_host(self, block: HostBlock) -> None:
        with self.current():
            self._call("cuMemFreeHost", block.ctypes.data)

    def make_stream(self) -> int:
        flags = self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING
        with self.current():
            return int(self._call("cuStreamCreate", flags))

    def make_event(self) -> int:
        flags = self._cuda.CUevent_flags.CU_EVENT_DISABLE_TIMING
        with self.current():
            return int(self._call("cuEventCreate", flags))

    def free_event(self, event: int) -> None:
        with self.current():
            self._call("cuEventDestroy", self._cuda.CUevent(event))

    def upload(self, address: int, source: HostBlock, stream: int) -> None:
        target = self._cuda.CUdeviceptr(address)
        with self.current():
            self._call(
                "cuMemcpyHtoDAsync", target, source.ctypes.data, source.nbytes, self._stream(stream)
            )

    def download(self, target: HostBlock, address: int, stream: int) -> None:
        source = self._cuda.CUdeviceptr(address)
        with self.current():
            self._call(
                "cuMemcpyDtoHAsync", target.ctypes.data, source, target.nbytes, self._stream(stream)
            )

    def record(self, event: int, stream: int) -> None:
        with self.current():
            self._call("cuEventRecord", self._cuda.CUevent(event), self._stream(stream))

    def wait(self, stream: int, event: int) -> None:
        flags = self._cuda.CUevent_wait_flags.CU_EVENT_WAIT_DEFAULT
        with self.current():
            self._call(
                "cuStreamWaitEvent", self._stream(stream), self._cuda.CUevent(event), int(flags)
            )

    def synchronise(self, event: int) -> None:
        with self.current():
            self._call("cuEventSynchronize", self._cuda.CUevent(event))

    def begin_capture(self, stream: int) -> None:
        # Of this thread alone: others may allocate meanwhile.
        mode = self._cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        with self.current():
            self._call("cuStreamBeginCapture", self._stream(stream), mode)

    def end_capture(self, stream: int) -> int:
        with self.current():
            graph = self._call("cuStreamEndCapture", self._stream(stream))
            try:
                return int(self._call("cuGraphInstantiate", graph, 0))
            finally:
                self._call("cuGraphDestroy", graph)

    def launch_graph(self, graph: int, stream: int) -> None:
        with self.current():
            self._call("cuGraphLaunch", self._cuda.CUgraphExec(graph), self._stream(stream))

    def destroy_graph(self, graph: int) -> None:
        with self.current():
            self._call("cuGraphExecDestroy", self._cuda.CUgraphExec(graph))

    def _stream(self, stream: int) -> Any:
        return self._cuda.CUstream(stream)

    def _call(self, name: str, *arguments: object) -> Any:
        """Return what a function of the driver returns beside its status.

        Raises:
            EngineError: the status is not success.
        """
        status, *values = getattr(self._cuda, name)(*arguments)
        if status != self._cuda.CUresult.CUDA_SUCCESS:
            raise EngineError(self._sentence(name, status))
        return values[0] if values else None

    def _sentence(self, name: str, status: Any) -> str:
        if status == self._cuda.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            return (
                f"device {self._index} is out of memory ({name}); load fewer tasks, build smaller "
                "buckets, or stop what else uses the GPU (nvidia-smi lists it)"
            )
        return f"{name} failed with {status.name}; check the driver with nvidia-smi"
