"""The few calls of the CUDA driver that launching a kernel takes, through cuda-bindings.

Never run so far on a machine with a GPU; what was checked is that the library, or the lack of it,
is found, and the bytes of the arguments (`launch.pack_arguments`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Protocol

from trine.kernels.triton.errors import KernelError

__all__ = ["CudaDriver", "Driver", "open_driver"]

#: Shared memory in bytes that a thread block may have without asking.
DEFAULT_SHARED_BYTES = 48 * 1024


class Driver(Protocol):
    """What `CudaKernels` needs of a device. Handles are addresses, 0 is none."""

    def architecture(self) -> int:
        """Return the device's compute capability times 10, e.g. 89."""
        ...

    def load(self, code: bytes, entry: str, shared_bytes: int) -> int:
        """Return the function `entry` of machine code, ready for that much shared memory."""
        ...

    def launch(
        self,
        function: int,
        grid: tuple[int, int, int],
        num_threads: int,
        shared_bytes: int,
        stream: int,
        arguments: int,
    ) -> None:
        """Queue a launch on a stream; `arguments` is the address of an array of addresses."""
        ...

    def close(self) -> None:
        """Free the functions; no launch may be running."""
        ...


def open_driver(device: int) -> "CudaDriver":
    """Return the driver of one GPU, with its primary context, which engines share.

    Args:
        device: ordinal of the GPU.

    Raises:
        KernelError: cuda-bindings, the driver or the GPU is missing.
    """
    try:
        from cuda.bindings import driver
    except ImportError as cause:
        raise KernelError(
            "the package 'cuda-bindings' is needed to launch kernels but is not installed: "
            "pip install 'trine[tensorrt]'"
        ) from cause
    try:
        (status,) = driver.cuInit(0)
    except RuntimeError as cause:  # cuda-bindings' DynamicLibNotFoundError is one
        raise KernelError(
            f"the NVIDIA driver (libcuda) cannot be loaded: {cause} Kernels run on a machine with "
            "an NVIDIA GPU and its driver only"
        ) from cause
    if status != driver.CUresult.CUDA_SUCCESS:
        raise KernelError(f"the NVIDIA driver finds no usable GPU: {status.name}; see nvidia-smi")
    return CudaDriver(driver, device)


class CudaDriver:
    """One GPU's primary context and the code loaded into it; `open_driver` makes it."""

    def __init__(self, bindings: ModuleType, device: int) -> None:
        self._cuda = bindings
        self._libraries: list[object] = []
        self._device = self._call("cuDeviceGet", device)
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)

    def architecture(self) -> int:
        names = self._cuda.CUdevice_attribute
        major, minor = (
            self._call("cuDeviceGetAttribute", name, self._device)
            for name in (
                names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        return int(major) * 10 + int(minor)

    def load(self, code: bytes, entry: str, shared_bytes: int) -> int:
        with self._current():
            library = self._call("cuLibraryLoadData", code, [], [], 0, [], [], 0)
            self._libraries.append(library)
            kernel = self._call("cuLibraryGetKernel", library, entry.encode())
            function = self._call("cuKernelGetFunction", kernel)
            if shared_bytes > DEFAULT_SHARED_BYTES:
                names = self._cuda.CUfunction_attribute
                attribute = names.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                self._call("cuFuncSetAttribute", function, attribute, shared_bytes)
        return int(function)

    def launch(
        self,
        function: int,
        grid: tuple[int, int, int],
        num_threads: int,
        shared_bytes: int,
        stream: int,
        arguments: int,
    ) -> None:
        with self._current():
            self._call(
                "cuLaunchKernel",
                self._cuda.CUfunction(function),
                *grid,
                num_threads,
                1,
                1,
                shared_bytes,
                self._cuda.CUstream(stream),
                arguments,
                0,
            )

    def close(self) -> None:
        with self._current():
            while self._libraries:
                self._call("cuLibraryUnload", self._libraries.pop())
        self._call("cuDevicePrimaryCtxRelease", self._device)

    @contextmanager
    def _current(self) -> Iterator[None]:
        """Make this GPU's context the calling thread's current one while a block runs."""
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent")

    def _call(self, name: str, *arguments: object) -> Any:
        """Return what a driver function returns beside its status.

        Raises:
            KernelError: the status is not success.
        """
        status, *values = getattr(self._cuda, name)(*arguments)
        if status != self._cuda.CUresult.CUDA_SUCCESS:
            raise KernelError(f"{name} failed with {status.name}; check the driver with nvidia-smi")
        return values[0] if values else None
