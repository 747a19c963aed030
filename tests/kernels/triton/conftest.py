"""Devices to run kernels on: Triton's interpreter, and a GPU where there is one.

Both take the launches of `trine.kernels.triton.launches`, so grids, arguments and checks are the
product's; the interpreter runs the kernel's source, the GPU its compiled code.
"""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec as find_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trine.kernels.triton.errors import KernelError
from trine.kernels.triton.launch import CudaKernels
from trine.kernels.triton.launches import DeviceArray, Launch
from trine.kernels.triton.specs import find_spec

# Triton reads these when it is first imported, which no test module does by itself.
os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "0")

STORAGE = {"fp32": "f4", "fp16": "f2", "bf16": "u2", "i32": "i4", "i8": "i1", "u8": "u1"}
#: What results are filled with before a kernel runs: left alone, it is neither 0 nor near 1.
GARBAGE = 0x7B


class Device:
    """Arrays of one device by address, and kernels that run on them."""

    def upload(self, values: NDArray[Any], dtype: str) -> DeviceArray:
        """Return a copy of `values`, rounded to nearest."""
        stored = _to_storage(values, dtype)
        return DeviceArray(pointer=self._store(stored, dtype), shape=stored.shape, dtype=dtype)

    def empty(self, *shape: int, dtype: str = "fp32") -> DeviceArray:
        """Return an array full of garbage."""
        size = int(np.prod(shape)) * np.dtype(STORAGE[dtype]).itemsize
        stored = np.full(size, GARBAGE, np.uint8).view(STORAGE[dtype]).reshape(shape)
        return DeviceArray(pointer=self._store(stored, dtype), shape=shape, dtype=dtype)

    def download(self, array: DeviceArray) -> NDArray[Any]:
        """Return a copy; bfloat16 as float32."""
        stored = np.empty(array.shape, STORAGE[array.dtype])
        self._fetch(array.pointer, stored)
        if array.dtype == "bf16":
            return (stored.astype(np.uint32) << 16).view(np.float32)
        return stored

    def run(self, launch: Launch) -> None:
        """Run a launch to its end."""
        raise NotImplementedError

    def close(self) -> None:
        """Free all."""

    def _store(self, stored: NDArray[Any], dtype: str) -> int:
        raise NotImplementedError

    def _fetch(self, pointer: int, stored: NDArray[Any]) -> None:
        raise NotImplementedError


class InterpretedDevice(Device):
    """Host memory, and Triton's interpreter on it.

    The interpreter keeps bfloat16 as uint16. It multiplies matrices of it as those integers, and
    cuts digits off where a GPU rounds to nearest; here both are done as a GPU does them.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        from triton.language import bfloat16, float32
        from triton.runtime import interpreter

        builder = interpreter.InterpreterBuilder
        convert, dot = interpreter._convert_float, builder.create_dot

        def convert_rounded(data: Any, source: Any, target: Any, mode: Any) -> NDArray[Any]:
            if (source, target) == (float32, bfloat16):
                return _to_storage(data, "bf16")
            return convert(data, source, target, mode)

        def dot_float32(self: Any, a: Any, b: Any, *rest: Any) -> Any:
            if a.dtype.scalar == bfloat16:
                a, b = (self.cast_impl(factor, float32) for factor in (a, b))
            return dot(self, a, b, *rest)

        patch.setattr(interpreter, "_convert_float", convert_rounded)
        patch.setattr(builder, "create_dot", dot_float32)
        self._tensors: dict[int, tuple[NDArray[Any], Any]] = {}

    def run(self, launch: Launch) -> None:
        spec = find_spec(launch.kernel)
        module = importlib.import_module(f"trine.kernels.triton.{spec.module}")
        arguments = [
            self._tensors[argument.pointer][1] if isinstance(argument, DeviceArray) else argument
            for argument in launch.arguments
        ]
        if 0 not in launch.grid:
            getattr(module, spec.function)[launch.grid](*arguments, **dict(spec.constants))

    def _store(self, stored: NDArray[Any], dtype: str) -> int:
        import torch

        owned = stored.copy()
        tensor = torch.from_numpy(owned)
        tensor = tensor.view(torch.bfloat16) if dtype == "bf16" else tensor
        # Not its address: an empty tensor has none.
        self._tensors[len(self._tensors)] = (owned, tensor)
        return len(self._tensors) - 1

    def _fetch(self, pointer: int, stored: NDArray[Any]) -> None:
        stored[...] = self._tensors[pointer][0]


class CudaDevice(Device):
    """A GPU's memory, and compiled kernels on it."""

    def __init__(self, folder: Path) -> None:
        self._kernels = CudaKernels.load(folder)
        from cuda.bindings import driver

        self._cuda = driver
        self._call("cuCtxPushCurrent", self._call("cuDevicePrimaryCtxRetain", 0))
        self._pointers: list[int] = []

    def run(self, launch: Launch) -> None:
        self._kernels.launch(launch, 0)
        self._call("cuCtxSynchronize")

    def close(self) -> None:
        for pointer in self._pointers:
            self._call("cuMemFree", pointer)
        self._call("cuCtxPopCurrent")
        self._call("cuDevicePrimaryCtxRelease", 0)
        self._kernels.close()

    def _store(self, stored: NDArray[Any], dtype: str) -> int:
        pointer = int(self._call("cuMemAlloc", max(stored.nbytes, 1)))
        self._pointers.append(pointer)
        if stored.nbytes:
            self._call("cuMemcpyHtoD", pointer, stored.ctypes.data, stored.nbytes)
        return pointer

    def _fetch(self, pointer: int, stored: NDArray[Any]) -> None:
        if stored.nbytes:
            self._call("cuMemcpyDtoH", stored.ctypes.data, pointer, stored.nbytes)

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *values = getattr(self._cuda, name)(*arguments)
        assert status == self._cuda.CUresult.CUDA_SUCCESS, (name, status)
        return values[0] if values else None


def _to_storage(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    if dtype == "bf16":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.ascontiguousarray(values, STORAGE[dtype])


@pytest.fixture(
    params=[
        pytest.param("interpreter", marks=pytest.mark.reference),
        pytest.param("gpu", marks=pytest.mark.gpu),
    ]
)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """Each device in turn."""
    if request.param == "interpreter":
        _require("triton", "kernels")
        _require("torch", "reference")  # the interpreter takes its tensors
        yield InterpretedDevice(monkeypatch)
        return
    try:
        gpu = CudaDevice(request.getfixturevalue("compiled"))
    except KernelError as reason:
        if os.environ.get("REQUIRE_GPU") == "1":
            raise
        pytest.skip(f"NOT VERIFIED HERE: {reason}")
    yield gpu
    gpu.close()


@pytest.fixture(scope="session")
def run_compiler() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The compile command, in a process of its own: this one's Triton interprets."""
    _require("triton", "kernels")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "trine.kernels.triton.compile", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def compiled(
    tmp_path_factory: pytest.TempPathFactory,
    run_compiler: Callable[..., subprocess.CompletedProcess[str]],
) -> Path:
    """All kernels for all architectures. Not to be changed."""
    folder = tmp_path_factory.mktemp("kernels")
    done = run_compiler("--out", str(folder))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder


def _require(package: str, extra: str) -> None:
    if find_module(package) is None:
        reason = f"needs {package}: pip install 'trine[{extra}]'"
        if os.environ.get("REQUIRE_GPU") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
