"""The thin drivers against the packages they call: every name, argument and option is there.

No GPU is needed, and none is proved: the packages' own classes, enumerations and signatures stand
for what a GPU would run.
"""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from tests.runtime.engines.gpu.simulated_gpu import SimulatedDevice
from trine.runtime.engines.gpu import tensorrt
from trine.runtime.engines.gpu.compiled import Binding
from trine.runtime.engines.gpu.cuda.driver import CudaDevice, open_device
from trine.runtime.engines.gpu.ort_library import (
    OrtGraph,
    OrtSettings,
    cuda_options,
    onnxruntime_with_cuda,
)
from trine.runtime.errors import DependencyError, EngineError

ROOT = Path(__file__).parents[4]
#: The wheel for GPUs, beside the environment's own onnxruntime; `make test-reference` fetches it.
ORT_GPU = ROOT / "build" / "onnxruntime-gpu"
SETTINGS = OrtSettings(memory_bytes=1 << 30, cuda_graphs=True)


class CheckedDriver:
    """`cuda.bindings.driver` whose functions only hold their arguments against the real ones."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.called: set[str] = set()
        self._pinned = np.zeros(4096, np.uint8)

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if not name.startswith("cu"):
            return real
        values = {
            "cuDeviceGetCount": 2,
            "cuDeviceGetAttribute": 8,
            "cuDeviceGetName": b"A GPU\0",
            "cuMemHostAlloc": self._pinned.ctypes.data,
        }

        def call(*arguments: object) -> tuple[object, ...]:
            inspect.signature(real).bind(*arguments)
            self.called.add(name)
            return self._real.CUresult.CUDA_SUCCESS, values.get(name, 256)

        return call


def test_every_call_of_the_driver_is_one_of_cuda_bindings() -> None:
    real = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    driver = CheckedDriver(real)
    device = CudaDevice(driver, 1)  # type: ignore[arg-type]
    assert (device.index, device.sm, device.name) == (1, 88, "A GPU")
    stream, event = device.make_stream(), device.make_event()
    address, block = device.allocate(512), device.allocate_host(512)
    assert (block.shape, block.dtype) == ((512,), np.uint8)
    device.upload(address, block, stream)
    device.download(block, address, stream)
    device.record(event, stream)
    device.wait(stream, event)
    device.synchronise(event)
    device.begin_capture(stream)
    graph = device.end_capture(stream)
    device.launch_graph(graph, stream)
    device.destroy_graph(graph)
    device.free_event(event)
    device.free_host(block)
    device.free(address)
    # Nothing that the source names was left out here.
    source = inspect.getsource(sys.modules[CudaDevice.__module__])
    assert set(re.findall(r'"(cu[A-Z]\w+)"', source)) <= driver.called


def test_a_device_that_is_not_there_is_named() -> None:
    real = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    with pytest.raises(EngineError, match="device is 2, and this machine has 2 GPUs"):
        CudaDevice(CheckedDriver(real), 2)  # type: ignore[arg-type]


def test_a_status_that_is_not_success_is_one_sentence() -> None:
    real = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    driver = CheckedDriver(real)
    device = CudaDevice(driver, 0)  # type: ignore[arg-type]
    for status, sentence in (
        (real.CUresult.CUDA_ERROR_OUT_OF_MEMORY, "device 0 is out of memory"),
        (real.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS, "cuMemAlloc failed with CUDA_ERROR_ILLEGAL"),
    ):
        driver.cuMemAlloc = lambda size, status=status: (status, 0)
        with pytest.raises(EngineError, match=sentence):
            device.allocate(1)


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="a driver is here")
def test_without_a_driver_the_remedy_is_named() -> None:
    pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    with pytest.raises(EngineError, match=r"no NVIDIA driver.*--gpus all, or load with engine="):
        open_device(0)


def test_without_the_package_the_install_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(DependencyError, match=r"pip install 'trine\[tensorrt\]'"):
        open_device(0)


@pytest.mark.parametrize("package", ["tensorrt_lean", "tensorrt_rtx"])
def test_every_call_of_the_library_is_one_of_the_package(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lean runtime of TensorRT 11 stands for TensorRT itself, which has the same classes."""
    real = pytest.importorskip(package, reason=f"{package} is not installed")
    builder: Any = "tensorrt_rtx" if package == "tensorrt_rtx" else "tensorrt"
    context = Mock(spec_set=real.IExecutionContext)
    config = Mock(spec_set=real.IRuntimeConfig)
    engine = Mock(spec_set=real.ICudaEngine)
    engine.get_device_memory_size_for_profile_v2.side_effect = lambda profile: 4096 << profile
    engine.create_runtime_config.return_value = config
    engine.create_execution_context.return_value = context
    runtime = Mock(spec_set=real.Runtime)
    runtime.deserialize_cuda_engine.return_value = engine
    # Enumerations and the logger are the package's own, so a name that is not there is an error.
    names = {"Runtime": lambda log: runtime, "__version__": real.__version__}
    module = SimpleNamespace(
        **names,
        ILogger=real.ILogger,
        ExecutionContextAllocationStrategy=real.ExecutionContextAllocationStrategy,
        CudaGraphStrategy=getattr(real, "CudaGraphStrategy", None),
    )
    monkeypatch.setattr(tensorrt, "import_builder", lambda name: module)
    library = tensorrt.TensorRt(builder, SimulatedDevice())
    assert library.title.endswith(real.__version__)
    path = tmp_path / "engine"
    path.write_bytes(b"an engine")
    graph = library.load(path)
    assert (graph.scratch_bytes(0), graph.scratch_bytes(1)) == (4096, 8192)
    made = graph.context(1, 42)
    config.set_execution_context_allocation_strategy.assert_called_once_with(
        real.ExecutionContextAllocationStrategy.USER_MANAGED
    )
    context.set_optimization_profile_async.assert_called_once_with(1, 42)
    binding = Binding(
        profile=1,
        shapes={"x": (2, 3)},
        output=("y", (2,)),
        addresses={"x": 1, "y": 2},
        expected=False,
    )
    made.bind(binding, 512)
    made.enqueue(42)
    context.set_input_shape.assert_called_once_with("x", (2, 3))
    assert [call.args for call in context.set_tensor_address.call_args_list] == [("x", 1), ("y", 2)]
    context.set_device_memory.assert_called_once_with(512, 8192)
    context.execute_async_v3.assert_called_once_with(42)
    for method in ("execute_async_v3", "set_input_shape", "set_tensor_address"):
        _check_arity(getattr(real.IExecutionContext, method), getattr(context, method))
    context.execute_async_v3.return_value = False
    with pytest.raises(EngineError, match="a run was refused"):
        made.enqueue(42)
    runtime.deserialize_cuda_engine.return_value = None
    with pytest.raises(EngineError, match="cannot load it"):
        library.load(path)


def _check_arity(real: Any, called: Mock) -> None:
    """Hold the number of arguments against the signature in a native method's docstring."""
    text = (real.__doc__ or "").split(" -> ")
    counts = {part.rpartition("(")[2].count(": ") - 1 for part in text if "self: " in part}
    assert len(called.call_args.args) in counts


def test_the_real_library_refuses_an_engine_without_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    path = tmp_path / "engine"
    path.write_bytes(b"no engine")
    with pytest.raises(EngineError, match=r"TensorRT-RTX .* cannot (load it|start)"):
        tensorrt.TensorRt("tensorrt_rtx", SimulatedDevice()).load(path)


def test_a_missing_builder_has_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for builder, extra in (("tensorrt", "tensorrt"), ("tensorrt_rtx", "tensorrt-rtx")):
        monkeypatch.setitem(sys.modules, builder, None)
        with pytest.raises(DependencyError, match=rf"pip install 'trine\[{extra}\]'"):
            tensorrt.import_builder(builder)


def test_a_builder_without_its_libraries_is_told_from_a_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvonnxparser.so.11: not there')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(EngineError, match=r"libnvonnxparser.*--force-reinstall tensorrt"):
        tensorrt.import_builder("tensorrt")


def test_onnxruntime_of_the_processor_is_refused_with_the_swap() -> None:
    runtime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in runtime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed")
    with pytest.raises(EngineError, match=r"without CUDAExecutionProvider.*trine\[gpu\]"):
        onnxruntime_with_cuda()


def test_graphs_run_on_memory_bound_by_address(golden_bundle: Path) -> None:
    """ONNX Runtime's own binding, on its processor's provider: the same calls as on a GPU."""
    runtime = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    path = next(golden_bundle.glob("engines/*/vision.onnx"))
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    sizes = {"patches": (64, 1176), "rope_cos": (64, 8), "rope_sin": (64, 8)}
    feeds: dict[str, np.ndarray[Any, Any]] = {
        name: rng.standard_normal(shape).astype(np.float32) for name, shape in sizes.items()
    }
    feeds["window_gather"] = np.arange(64).reshape(1, 64)
    feeds["window_scatter"] = np.arange(64)
    feeds["window_lengths"] = np.array([64], np.int32)
    feeds["num_images"] = np.array([1])
    (want,) = session.run(None, feeds)
    out = np.zeros_like(want)
    name = session.get_outputs()[0].name
    graph = OrtGraph(runtime, session, 0, cuda_graphs=False, device_type="cpu")
    context = graph.context(0, 0)
    places = {key: array.ctypes.data for key, array in feeds.items()}
    context.bind(
        Binding(
            profile=0,
            shapes={key: array.shape for key, array in feeds.items()},
            output=(name, out.shape),
            addresses={**places, name: out.ctypes.data},
            expected=False,
        ),
        0,
    )
    context.enqueue(0)
    assert np.array_equal(out, want)


def test_repeated_runs_of_a_session_get_a_graph_of_their_own() -> None:
    options: list[list[tuple[str, str]]] = []

    class RunOptions:
        def __init__(self) -> None:
            options.append([])

        def add_run_config_entry(self, name: str, value: str) -> None:
            options[-1].append((name, value))

    session = Mock(get_inputs=list, get_outputs=list)
    graph = OrtGraph(SimpleNamespace(RunOptions=RunOptions), session, 0, cuda_graphs=True)
    for key in ("a", "a", "b", "a", "b"):
        graph.run(None, key)
    assert [dict(entries)["gpu_graph_id"] for entries in options] == ["-1", "0", "-1", "0", "1"]


@pytest.fixture
def ort_gpu() -> Path:
    """The folder of the unpacked wheel for GPUs."""
    if not (ORT_GPU / "onnxruntime").is_dir():
        pytest.skip("onnxruntime-gpu is not in build/; make .venv/stamp-reference fetches it")
    return ORT_GPU


@pytest.mark.reference
def test_every_provider_option_is_in_the_package(ort_gpu: Path) -> None:
    libraries = [path.read_bytes() for path in ort_gpu.glob("onnxruntime/capi/*.so*")]
    options = {
        **cuda_options(0, 1, SETTINGS),
        "session.disable_cpu_ep_fallback": "1",
        "disable_synchronize_execution_providers": "1",
        "gpu_graph_id": "-1",
        "kSameAsRequested": "",
    }
    missing = [o for o in options if not any(f"{o}\0".encode() in lib for lib in libraries)]
    assert missing == []


RUN_CUDA = """
import sys
from pathlib import Path
from tests.runtime.engines.gpu.simulated_gpu import SimulatedDevice
from trine.runtime.engines.gpu.ort_library import OrtLibrary, OrtSettings, onnxruntime_with_cuda
settings = OrtSettings(memory_bytes=None, cuda_graphs=True)
try:
    library = OrtLibrary(onnxruntime_with_cuda(), SimulatedDevice(), 1, settings)
    library.load(Path(sys.argv[1]))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.reference
def test_the_real_package_fails_here_with_our_sentence(ort_gpu: Path, golden_bundle: Path) -> None:
    """It would make a session on the processor, and say nothing."""
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("a driver is here")
    path = next(golden_bundle.glob("engines/*/vision.onnx"))
    done = subprocess.run(
        [sys.executable, "-c", RUN_CUDA, str(path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ort_gpu}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("EngineError")
    assert "ONNX Runtime 1." in last
