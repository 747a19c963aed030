"""Compiled kernels on a driver that reads the memory a launch hands it, as the real one does.

No GPU is needed, and none is proved: what is checked is which code is loaded, and that every
argument lies where the driver looks for it, in the width the kernel's parameter has.
"""

import ctypes
import hashlib
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trine.kernels.triton.driver import CudaDriver, open_driver
from trine.kernels.triton.errors import KernelError
from trine.kernels.triton.index import (
    INDEX_NAME,
    CompiledKernel,
    KernelIndex,
    read_index,
    write_index,
)
from trine.kernels.triton.launch import CudaKernels, choose_architecture, pack_arguments
from trine.kernels.triton.launches import DeviceArray, Launch, launch_pool_segments
from trine.kernels.triton.specs import Parameter, find_spec, kernel_specs, recipe_hash


@dataclass
class RecordingDriver:
    """Loads anything; keeps the bytes that a launch's arguments had while it was called."""

    present: int = 89
    loaded: list[tuple[bytes, str, int]] = field(default_factory=list)
    launches: list[tuple[object, ...]] = field(default_factory=list)
    widths: tuple[int, ...] = ()
    closed: bool = False

    def architecture(self) -> int:
        return self.present

    def load(self, code: bytes, entry: str, shared_bytes: int) -> int:
        self.loaded.append((code, entry, shared_bytes))
        return len(self.loaded)

    def launch(
        self,
        function: int,
        grid: tuple[int, int, int],
        num_threads: int,
        shared_bytes: int,
        stream: int,
        arguments: int,
    ) -> None:
        table = (ctypes.c_void_p * len(self.widths)).from_address(arguments)
        values = [
            int.from_bytes(ctypes.string_at(address, width), "little", signed=width == 4)
            for address, width in zip(table, self.widths, strict=True)
        ]
        self.launches.append((function, grid, num_threads, shared_bytes, stream, values))

    def close(self) -> None:
        self.closed = True


def write_folder(folder: Path, *targets: int, recipe: str | None = None) -> Path:
    """Write an index of all kernels with made-up code."""
    kernels = []
    for spec in kernel_specs():
        for sm in targets:
            name = f"{spec.name}.sm_{sm}.cubin"
            code = f"code of {name}".encode()
            (folder / name).write_bytes(code)
            kernels.append(
                CompiledKernel(
                    name=spec.name,
                    sm=sm,
                    entry=spec.function,
                    parameters=spec.parameters,
                    num_threads=spec.num_warps * 32,
                    shared_bytes=4096,
                    registers=32,
                    spill_bytes=0,
                    stack_bytes=0,
                    recipe_sha256=recipe or recipe_hash(spec),
                    cubin=name,
                    cubin_sha256=hashlib.sha256(code).hexdigest(),
                    ptx="",
                    ptx_sha256="",
                )
            )
    write_index(folder, KernelIndex(triton="3.9.0", ptxas="12.9", kernels=tuple(kernels)))
    return folder


def array(pointer: int, *shape: int, dtype: str = "fp32") -> DeviceArray:
    return DeviceArray(pointer=pointer, shape=shape, dtype=dtype)


def pooling(tokens: int = 7, batch: int = 3, offset: int = 0) -> Launch:
    return launch_pool_segments(
        array(0x7F00_0000_1000 + offset, tokens, 256, dtype="bf16"),
        array(0x7F00_0000_2000, batch + 1, dtype="i32"),
        array(0x7F00_0000_3000, tokens, dtype="u8"),
        array(0x7F00_0000_4000, batch, 128),
    )


def test_a_launch_hands_over_every_argument_in_its_width(tmp_path: Path) -> None:
    driver = RecordingDriver(widths=(8, 8, 8, 4, 4, 8))
    kernels = CudaKernels.load(write_folder(tmp_path, 80, 89), driver=driver)
    kernels.launch(pooling(), stream=42)
    ((function, grid, num_threads, shared_bytes, stream, values),) = driver.launches
    code, entry, _ = driver.loaded[function - 1]
    assert (code, entry) == (b"code of pool_segments.bf16.sm_89.cubin", "pool_segments")
    assert (grid, num_threads, shared_bytes, stream) == ((3, 1, 1), 512, 4096, 42)
    assert values == [
        0x7F00_0000_1000,
        0x7F00_0000_2000,
        0x7F00_0000_3000,
        256,
        128,
        0x7F00_0000_4000,
    ]


def test_an_empty_batch_is_not_launched(tmp_path: Path) -> None:
    driver = RecordingDriver()
    CudaKernels.load(write_folder(tmp_path, 89), driver=driver).launch(pooling(0, 0), 0)
    assert driver.launches == []


def test_what_the_code_relies_on_is_checked_before_the_launch(tmp_path: Path) -> None:
    driver = RecordingDriver()
    kernels = CudaKernels.load(write_folder(tmp_path, 89), driver=driver)
    with pytest.raises(ValueError, match=r"hidden is .* compiled for multiples of 16"):
        kernels.launch(pooling(offset=8), 0)
    odd = Launch(
        kernel="pool_segments.bf16",
        grid=(1, 1, 1),
        arguments=(*pooling().arguments[:3], 250, 128, array(0, 3, 128)),
    )
    with pytest.raises(ValueError, match="hidden_size is 250"):
        kernels.launch(odd, 0)
    assert driver.launches == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((array(16, 4),), "1 arguments for 2 parameters"),
        ((array(16, 4, dtype="fp16"), 1), r"x is an array of fp16 and must be \*fp32"),
        ((1, 1), r"x is 1 and must be \*fp32"),
        ((array(16, 4), array(16, 4)), "n is an array of fp32 and must be i32"),
        ((array(16, 4), 2**31), "n is 2147483648 and must be i32"),
    ],
)
def test_arguments_of_another_kind_are_refused(
    arguments: tuple[DeviceArray | int, ...], message: str
) -> None:
    parameters = (Parameter(name="x", dtype="*fp32"), Parameter(name="n", dtype="i32"))
    with pytest.raises(ValueError, match=message):
        pack_arguments(parameters, arguments)


@given(st.integers(0, 2**64 - 1), st.integers(-(2**31), 2**31 - 1))
def test_packed_values_are_the_arguments(pointer: int, number: int) -> None:
    parameters = (Parameter(name="x", dtype="*i8"), Parameter(name="n", dtype="i32"))
    packed = pack_arguments(parameters, (array(pointer, 4, dtype="i8"), number))
    first, second = packed.addresses
    assert ctypes.c_uint64.from_address(first).value == pointer
    assert ctypes.c_int32.from_address(second).value == number


def test_an_architecture_runs_code_of_its_generation_up_to_itself() -> None:
    compiled = [80, 86, 89, 90, 120]
    wanted = {80: 80, 86: 86, 87: 86, 89: 89, 90: 90, 120: 120, 121: 120, 100: None, 75: None}
    assert {sm: choose_architecture(sm, compiled) for sm in wanted} == wanted
    assert choose_architecture(86, [89]) is None


def test_a_gpu_without_code_is_refused_with_the_command(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, 80, 89)
    with pytest.raises(KernelError, match=r"sm \[80, 89\].*sm 90; .*compile --sm 90 --out"):
        CudaKernels.load(folder, driver=RecordingDriver(present=90))


def test_code_of_other_sources_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, 89, recipe="0" * 64)
    with pytest.raises(KernelError, match="compiled from other sources"):
        CudaKernels.load(folder, driver=RecordingDriver())


def test_damaged_and_missing_code_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, 89)
    file = folder / "patchify.fp16.sm_89.cubin"
    file.write_bytes(b"other")
    with pytest.raises(KernelError, match=r"patchify.fp16.sm_89.cubin: is not the file"):
        CudaKernels.load(folder, driver=RecordingDriver())
    file.unlink()
    with pytest.raises(KernelError, match=r"patchify.fp16.sm_89.cubin: cannot be read"):
        CudaKernels.load(folder, driver=RecordingDriver())


def test_a_kernel_that_was_not_compiled_is_named(tmp_path: Path) -> None:
    kernels = CudaKernels.load(write_folder(tmp_path, 89), driver=RecordingDriver())
    with pytest.raises(KernelError, match=r"'pool.fp8' was not compiled; there are"):
        kernels.launch(Launch(kernel="pool.fp8", grid=(1, 1, 1), arguments=()), 0)


def test_closing_frees_the_code(tmp_path: Path) -> None:
    driver = RecordingDriver()
    kernels = CudaKernels.load(write_folder(tmp_path, 89), driver=driver)
    kernels.close()
    assert driver.closed


def test_the_index_comes_back_as_written(tmp_path: Path) -> None:
    index = read_index(write_folder(tmp_path, 86, 120))
    assert len(index.kernels) == 2 * len(kernel_specs())
    assert index.kernels[0].parameters == find_spec(index.kernels[0].name).parameters
    before = (tmp_path / INDEX_NAME).read_bytes()
    write_index(tmp_path, index)
    assert (tmp_path / INDEX_NAME).read_bytes() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read .* compile the kernels where Triton is installed"),
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"format_version": 1, "kernels": [{}]}', "is damaged"),
        ('{"format_version": 9}', "has the format 9, but this version reads 1"),
    ],
)
def test_an_unusable_index_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / INDEX_NAME).write_text(text)
    with pytest.raises(KernelError, match=message):
        read_index(tmp_path)


def test_cuda_bindings_are_named_where_they_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(KernelError, match=r"'cuda-bindings' is needed .*trine\[tensorrt\]"):
        open_driver(0)


class Bindings(ModuleType):
    """cuda.bindings.driver as far as a test goes: every call is kept, and answers as told."""

    CUresult = SimpleNamespace(CUDA_SUCCESS="success")

    def __init__(self, **answers: object) -> None:
        super().__init__("driver")
        self.answers = answers
        self.calls: list[tuple[object, ...]] = []

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments: object) -> object:
            self.calls.append((name, *arguments))
            answer = self.answers.get(name, ("success", f"{name}()"))
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


def install(bindings: Bindings, monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("cuda.bindings")
    package.driver = bindings  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", package)


def test_a_missing_driver_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    install(Bindings(cuInit=RuntimeError("libcuda.so.1 not found.")), monkeypatch)
    with pytest.raises(KernelError, match=r"libcuda\) cannot be loaded: libcuda.so.1 not found"):
        open_driver(0)


def test_a_driver_without_a_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    no_device = SimpleNamespace(name="CUDA_ERROR_NO_DEVICE")
    install(Bindings(cuInit=(no_device,)), monkeypatch)
    with pytest.raises(KernelError, match="finds no usable GPU: CUDA_ERROR_NO_DEVICE"):
        open_driver(0)


def test_a_failing_call_is_named_and_leaves_no_context_current() -> None:
    refused = SimpleNamespace(name="CUDA_ERROR_INVALID_IMAGE")
    bindings = Bindings(cuLibraryLoadData=(refused, None))
    driver = CudaDriver(bindings, 0)
    with pytest.raises(KernelError, match="cuLibraryLoadData failed with CUDA_ERROR_INVALID_IMAGE"):
        driver.load(b"", "entry", 0)
    assert [call[0] for call in bindings.calls[-3:]] == [
        "cuCtxPushCurrent",
        "cuLibraryLoadData",
        "cuCtxPopCurrent",
    ]


def test_the_real_bindings_say_that_there_is_no_driver() -> None:
    """On a machine without an NVIDIA driver; with one, the tests marked `gpu` say more."""
    pytest.importorskip("cuda.bindings.driver", reason="needs cuda-bindings: trine[tensorrt]")
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        with pytest.raises(KernelError, match="libcuda"):
            open_driver(0)
    else:
        pytest.skip("this machine has an NVIDIA driver")


def test_the_real_bindings_have_every_function_that_is_called() -> None:
    bindings = pytest.importorskip(
        "cuda.bindings.driver", reason="needs cuda-bindings: trine[tensorrt]"
    )
    source = Path(sys.modules[CudaDriver.__module__].__file__ or "").read_text(encoding="utf-8")
    called = set(re.findall(r"\bcu[A-Z]\w+", source))
    assert len(called) > 8
    assert [name for name in sorted(called) if not hasattr(bindings, name)] == []
