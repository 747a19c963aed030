"""The probes, on this machine and on made-up ones."""

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from trine.runtime.commands.doctor.onnx_runtime import linked_libraries, read_onnxruntime
from trine.runtime.commands.doctor.packages import parse_extras, read_extras, version_numbers
from trine.runtime.hardware.cpu import read_cpu
from trine.runtime.hardware.isolation import RESULT_MARK, Outcome, run_isolated
from trine.runtime.hardware.machine import Gpu
from trine.runtime.hardware.nvidia import driver_from, read_driver
from trine.runtime.hardware.probe import TINY_GRAPH, main, probe_cuda, probe_import

GIB = 1 << 30


class FakeCuda:
    """A driver's library with devices, as ctypes would call it."""

    def __init__(self, devices: list[tuple[str, int, int]], init: int = 0) -> None:
        self.devices = devices
        self.init = init

    def cuDriverGetVersion(self, out: object) -> int:
        out._obj.value = 13020  # type: ignore[attr-defined]
        return 0

    def cuInit(self, flags: int) -> int:
        return self.init

    def cuGetErrorString(self, code: int, out: object) -> int:
        out._obj.value = b"system driver mismatch"  # type: ignore[attr-defined]
        return 0

    def cuDeviceGetCount(self, out: object) -> int:
        out._obj.value = len(self.devices)  # type: ignore[attr-defined]
        return 0

    def cuDeviceGet(self, out: object, index: int) -> int:
        out._obj.value = index  # type: ignore[attr-defined]
        return 0

    def cuDeviceGetName(
        self, name: "ctypes.Array[ctypes.c_char]", size: int, device: object
    ) -> int:
        name.value = self.devices[device.value][0].encode()  # type: ignore[attr-defined]
        return 0

    def cuDeviceTotalMem_v2(self, out: object, device: object) -> int:
        out._obj.value = self.devices[device.value][2]  # type: ignore[attr-defined]
        return 0

    def cuDeviceGetAttribute(self, out: object, attribute: int, device: object) -> int:
        sm = self.devices[device.value][1]  # type: ignore[attr-defined]
        out._obj.value = {75: sm // 10, 76: sm % 10}[attribute]  # type: ignore[attr-defined]
        return 0


def test_devices_are_read_through_the_drivers_library() -> None:
    devices = [("NVIDIA L4", 89, 24 * GIB), ("NVIDIA GeForce RTX 5090", 120, 32 * GIB)]
    driver = driver_from("580.65.06", Outcome(probe_cuda(FakeCuda(devices)), None))
    assert driver.cuda == (13, 2)
    assert driver.problem is None
    assert driver.gpus == (
        Gpu(index=0, name="NVIDIA L4", sm=89, memory_bytes=24 * GIB),
        Gpu(index=1, name="NVIDIA GeForce RTX 5090", sm=120, memory_bytes=32 * GIB),
    )


def test_a_driver_that_fails_to_start_says_why() -> None:
    found = probe_cuda(FakeCuda([], init=803))
    assert found == {
        "problem": "the driver is there, but cuInit failed: system driver mismatch (CUDA error 803)"
    }


def test_a_driver_without_devices_is_a_problem() -> None:
    driver = driver_from(None, Outcome(probe_cuda(FakeCuda([])), None))
    assert driver.gpus == ()
    assert driver.problem == "the driver works but shows no device"


def test_a_missing_driver_is_a_finding() -> None:
    driver = read_driver(lambda kind, name: run_isolated(kind, "libcuda-that-is-not-there.so.1"))
    assert driver.gpus == ()
    assert driver.cuda is None
    assert "no NVIDIA driver (libcuda-that-is-not-there.so.1" in (driver.problem or "")


def write_module(folder: Path, code: str) -> None:
    (folder / "probe_of_a_test.py").write_text(code, encoding="utf-8")


@pytest.fixture
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Outcome]:
    """Runs code as a probe."""

    def run(code: str) -> Outcome:
        write_module(tmp_path, code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return run_isolated("kind", "name", "probe_of_a_test", timeout_s=2)

    return run


def test_a_native_crash_is_reported(isolated: Callable[[str], Outcome]) -> None:
    outcome = isolated("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    assert outcome.result is None
    assert outcome.problem == "the process crashed in native code (SIGSEGV)"


def test_an_exception_is_reported_with_its_last_line(isolated: Callable[[str], Outcome]) -> None:
    outcome = isolated("raise RuntimeError('no such thing')")
    assert outcome.problem == "the process ended with code 1: RuntimeError: no such thing"


def test_a_hang_is_ended(isolated: Callable[[str], Outcome]) -> None:
    assert isolated("import time\ntime.sleep(60)").problem == "no answer within 2 s"


def test_a_result_is_found_between_other_output(isolated: Callable[[str], Outcome]) -> None:
    code = f"print('noise')\nprint('{RESULT_MARK}' + '{{\"a\": 1}}')\nprint('more')"
    assert isolated(code) == Outcome({"a": 1}, None)


def test_the_tiny_graph_is_a_valid_product() -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_model_from_string(TINY_GRAPH)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(TINY_GRAPH, providers=["CPUExecutionProvider"])
    x = np.array([[1, 2], [3, 4]], np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], x @ x)


def test_onnxruntime_here_runs_on_the_cpu() -> None:
    found = read_onnxruntime()
    assert found.version == onnxruntime.__version__
    assert found.provider("CPUExecutionProvider").works
    for provider in found.providers:
        assert provider.offered == (provider.name in onnxruntime.get_available_providers())
    assert not found.provider("NoSuchProvider").offered


def test_a_provider_that_is_not_there_is_no_fall_back_to_the_cpu() -> None:
    outcome = run_isolated("provider", "CUDAExecutionProvider")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        assert outcome.result is None
        assert outcome.problem
    else:
        assert (outcome.result is None) == (outcome.problem is not None)


def test_a_broken_package_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "raise ImportError('libnvonnxparser.so.11: cannot open shared object file')"
    (tmp_path / "broken_native.py").write_text(code, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    problem = str(probe_import("broken_native")["problem"])
    assert problem.startswith("ImportError: libnvonnxparser.so.11")


def test_the_probe_prints_its_result_behind_the_mark(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "json"]) == 0
    assert f"\n{RESULT_MARK}" in capsys.readouterr().out


def test_linked_libraries_are_read_from_the_files(tmp_path: Path) -> None:
    (tmp_path / "libonnxruntime_providers_cuda.so").write_bytes(
        b"\0libcublasLt.so.13\0libcudnn.so.9\0"
    )
    (tmp_path / "libonnxruntime_providers_shared.so").write_bytes(b"")
    assert linked_libraries(tmp_path) == {"cublasLt": 13, "cudnn": 9}


def test_a_containers_limits_count(tmp_path: Path) -> None:
    proc, group = tmp_path / "proc", tmp_path / "cgroup"
    proc.mkdir()
    group.mkdir()
    (proc / "cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx512_vnni amx_int8\n"
    )
    (proc / "meminfo").write_text("MemTotal: 33554432 kB\nMemAvailable: 16777216 kB\n")
    cpu = read_cpu(proc, group)
    assert (cpu.name, cpu.features) == ("Some CPU", ("avx2", "avx512_vnni", "amx_int8"))
    assert (cpu.memory_bytes, cpu.available_bytes) == (32 * GIB, 16 * GIB)
    (group / "cpu.max").write_text("100000 100000\n")
    (group / "memory.max").write_text(f"{4 * GIB}\n")
    (group / "memory.current").write_text(f"{GIB}\n")
    limited = read_cpu(proc, group)
    assert limited.cores == 1
    assert (limited.memory_bytes, limited.available_bytes) == (4 * GIB, 3 * GIB)


def test_a_system_without_proc_has_unknown_memory(tmp_path: Path) -> None:
    cpu = read_cpu(tmp_path, tmp_path)
    assert cpu.cores >= 1
    assert cpu.memory_bytes is None
    assert cpu.features == ()


def test_extras_are_those_of_the_package() -> None:
    extras = {extra.name: extra for extra in read_extras()}
    assert {"cpu", "gpu", "export", "server", "pdf"} <= set(extras)
    assert "dev" not in extras
    assert extras["cpu"].complete


@pytest.mark.parametrize(
    ("installed", "fits"),
    [({}, False), ({"a": "1.9"}, False), ({"a": "1.31.0"}, True), ({"a": "2.0rc1"}, True)],
)
def test_an_extra_is_complete_if_versions_are_high_enough(
    installed: dict[str, str], fits: bool
) -> None:
    (extra,) = parse_extras(['a>=1.31; extra == "x"', "numpy>=1.26"], installed)
    assert extra.complete is fits


def test_onnxruntime_gpu_stands_in_for_onnxruntime() -> None:
    lines = ['onnxruntime>=1.31; extra == "export"']
    (extra,) = parse_extras(lines, {"onnxruntime-gpu": "1.31.1"})
    assert extra.complete


def test_version_numbers() -> None:
    assert version_numbers("1.31.1.post2") == (1, 31, 1)
    assert version_numbers("unknown") == ()
