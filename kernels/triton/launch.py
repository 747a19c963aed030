"""Launches compiled kernels on a GPU, with neither Triton nor PyTorch: machine code and the driver.

    kernels = CudaKernels.load(Path("kernels"), device=0)
    kernels.launch(launch_pool_segments(hidden, cu_seqlens, pooled, out), stream)

Only packing and the choice of code were tested without a GPU, against a driver that reads what a
launch hands it.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trine.kernels.triton.driver import Driver, open_driver
from trine.kernels.triton.errors import KernelError
from trine.kernels.triton.index import CompiledKernel, compile_command, read_code, read_index
from trine.kernels.triton.launches import DeviceArray, Launch
from trine.kernels.triton.specs import Parameter, find_spec, recipe_hash

__all__ = ["CudaKernels", "PackedArguments", "choose_architecture", "pack_arguments"]

INT32 = range(-(2**31), 2**31)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedArguments:
    """A launch's arguments in host memory, to be kept until the launch is queued.

    Attributes:
        values: an 8-byte address or a 4-byte integer each.
        addresses: of the values, in order; the driver is given the address of this array.
    """

    values: tuple[ctypes.c_uint64 | ctypes.c_int32, ...]
    addresses: ctypes.Array[ctypes.c_void_p]


class CudaKernels:
    """A folder's kernels, loaded for one GPU. May be used by several threads."""

    def __init__(self, driver: Driver, loaded: Sequence[tuple[CompiledKernel, int]]) -> None:
        self._driver = driver
        self._loaded = {kernel.name: (kernel, function) for kernel, function in loaded}

    @classmethod
    def load(cls, folder: Path, device: int = 0, driver: Driver | None = None) -> "CudaKernels":
        """Return the kernels of `folder` that fit a GPU, loaded into its primary context.

        Args:
            folder: written by `trine.kernels.triton.compile`.
            device: ordinal of the GPU.
            driver: of that GPU, in place of the CUDA driver.

        Raises:
            KernelError: the index or a file is missing, damaged or of other sources; nothing is
                compiled for this GPU; or cuda-bindings, the driver or the GPU is missing.
        """
        index = read_index(folder)
        driver = open_driver(device) if driver is None else driver
        present = driver.architecture()
        sm = choose_architecture(present, [kernel.sm for kernel in index.kernels])
        if sm is None:
            compiled = sorted({kernel.sm for kernel in index.kernels})
            raise KernelError(
                f"{folder}: has kernels for sm {compiled}, and none of them runs on this GPU of "
                f"sm {present}; compile them: {compile_command(folder, present)}"
            )
        loaded = []
        for kernel in index.kernels:
            if kernel.sm == sm:
                _check_recipe(folder, kernel)
                code = read_code(folder, kernel.cubin, kernel.cubin_sha256)
                loaded.append((kernel, driver.load(code, kernel.entry, kernel.shared_bytes)))
        return cls(driver, loaded)

    def launch(self, launch: Launch, stream: int) -> None:
        """Queue a launch and return; arrays must live until the stream has run it.

        Args:
            launch: of `trine.kernels.triton.launches`.
            stream: handle of a CUDA stream, 0 for the default one.

        Raises:
            KernelError: the folder had no such kernel, or the driver refuses the launch.
            ValueError: an argument is not what the kernel was compiled for.
        """
        if launch.kernel not in self._loaded:
            raise KernelError(
                f"the kernel {launch.kernel!r} was not compiled; there are {sorted(self._loaded)}"
            )
        kernel, function = self._loaded[launch.kernel]
        packed = pack_arguments(kernel.parameters, launch.arguments)
        if 0 not in launch.grid:
            self._driver.launch(
                function,
                launch.grid,
                kernel.num_threads,
                kernel.shared_bytes,
                stream,
                ctypes.addressof(packed.addresses),
            )

    def close(self) -> None:
        """Unload the kernels; no launch may be running or follow."""
        self._loaded.clear()
        self._driver.close()


def choose_architecture(present: int, compiled: Sequence[int]) -> int | None:
    """Return the best of the compiled architectures for a GPU, or None.

    Machine code runs on its own and on later architectures of the same generation, that is with
    the same compute capability before the point.

    Args:
        present: the GPU's compute capability times 10.
        compiled: those there is code for.
    """
    fitting = [sm for sm in compiled if sm // 10 == present // 10 and sm <= present]
    return max(fitting, default=None)


def pack_arguments(
    parameters: Sequence[Parameter], arguments: Sequence[DeviceArray | int]
) -> PackedArguments:
    """Return arguments as the driver reads them.

    Args:
        parameters: of the compiled kernel.
        arguments: an array for each pointer, an integer for each scalar.

    Raises:
        ValueError: a number, kind, type, alignment or range is not what the kernel takes.
    """
    if len(parameters) != len(arguments):
        raise ValueError(f"{len(arguments)} arguments for {len(parameters)} parameters")
    values = tuple(map(_value, parameters, arguments))
    addresses = [ctypes.addressof(value) for value in values]
    return PackedArguments(values=values, addresses=(ctypes.c_void_p * len(values))(*addresses))


def _value(parameter: Parameter, argument: DeviceArray | int) -> ctypes.c_uint64 | ctypes.c_int32:
    if isinstance(argument, DeviceArray):
        if parameter.dtype != f"*{argument.dtype}":
            raise ValueError(
                f"{parameter.name} is an array of {argument.dtype} and must be {parameter.dtype}"
            )
        number = argument.pointer
    else:
        if parameter.dtype != "i32" or argument not in INT32:
            raise ValueError(f"{parameter.name} is {argument} and must be {parameter.dtype}")
        number = argument
    if number % parameter.multiple_of:
        raise ValueError(
            f"{parameter.name} is {number}, but the kernel was compiled for multiples of "
            f"{parameter.multiple_of}"
        )
    return ctypes.c_int32(number) if isinstance(argument, int) else ctypes.c_uint64(number)


def _check_recipe(folder: Path, kernel: CompiledKernel) -> None:
    try:
        current = recipe_hash(find_spec(kernel.name))
    except KeyError:
        current = ""
    if current != kernel.recipe_sha256:
        raise KernelError(
            f"{folder / kernel.cubin}: was compiled from other sources than this version's; "
            f"compile again: {compile_command(folder, kernel.sm)}"
        )
