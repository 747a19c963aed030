"""TensorRT and the heads' kernels on the simulated GPU: ONNX Runtime's CPU provider, and numpy.

An engine file is JSON: the typed graph it stands for, and the bucket sizes it was built with.
"""

import ctypes
import hashlib
import itertools
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from tests.runtime.engines.gpu.simulated_gpu import SimulatedDevice, SimulationError
from trine.kernels.pooling import l2_normalise, project
from trine.kernels.triton.index import CompiledKernel, KernelIndex, write_index
from trine.kernels.triton.launch import CudaKernels
from trine.kernels.triton.specs import find_spec, recipe_hash
from trine.runtime.bundle.manifest import Builder
from trine.runtime.engines.gpu.compiled import Binding, CompiledGraph, ExecutionContext
from trine.runtime.engines.gpu.cuda.device import Device
from trine.runtime.engines.gpu.heads import Kernels
from trine.runtime.engines.gpu.opening import Drivers
from trine.runtime.errors import EngineError

VERSION = "11.4.0.106"
HEADS = ("pool_segments.fp32", "project_rows.fp32")
DTYPES = {
    onnx.TensorProto.FLOAT: np.float32,
    onnx.TensorProto.FLOAT16: np.uint16,
    onnx.TensorProto.BFLOAT16: np.uint16,
    onnx.TensorProto.INT64: np.int64,
    onnx.TensorProto.INT32: np.int32,
    onnx.TensorProto.BOOL: np.bool_,
}


class SimulatedLibrary:
    """A `Library` whose engines are graphs."""

    title = f"Simulated TensorRT {VERSION}"
    version = VERSION

    def __init__(self, device: SimulatedDevice, captures_graphs: bool) -> None:
        self.captures_graphs = captures_graphs
        self.loaded: list[str] = []
        self._device = device

    def load(self, path: Path) -> CompiledGraph:
        self.loaded.append(path.name)
        return SimulatedGraph(self._device, json.loads(path.read_text(encoding="utf-8")))


class SimulatedGraph:
    """A graph on ONNX Runtime's CPU provider."""

    def __init__(self, device: SimulatedDevice, content: Mapping[str, object]) -> None:
        graph = Path(str(content["graph"]))
        self._stem = graph.stem
        self.device = device
        self.profiles = content["profiles"]
        model = square_masks(onnx.load(graph))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        self.types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
        self.dims = {
            value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in model.graph.input
        }
        (self.output,) = [value.name for value in model.graph.output]
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def scratch_bytes(self, profile: int) -> int:
        # Different sizes, so that shared scratch memory has to grow.
        return 4096 * (1 + len(self._stem) + 8 * profile)

    def context(self, profile: int, stream: int) -> ExecutionContext:
        return SimulatedContext(self, profile, stream)


class SimulatedContext:
    """One bucket of a graph, which refuses what TensorRT refuses."""

    def __init__(self, graph: SimulatedGraph, profile: int, stream: int) -> None:
        self._graph = graph
        self._profile = profile
        self._stream = stream
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._scratch = 0
        self._warm: dict[str, tuple[int, ...]] | None = None

    def bind(self, binding: Binding, scratch: int) -> None:
        shapes, addresses = binding.shapes, binding.addresses
        ranges = self._graph.profiles[self._profile]  # type: ignore[index]
        if set(shapes) != set(self._graph.dims):
            raise EngineError(f"inputs are {sorted(shapes)}, not {sorted(self._graph.dims)}")
        for name, shape in shapes.items():
            for dim, size in zip(self._graph.dims[name], shape, strict=True):
                low, high = (dim, dim) if isinstance(dim, int) else ranges[dim]
                if not low <= size <= high:
                    raise EngineError(f"input {name} cannot have the shape {shape}")
        self._shapes, self._addresses = dict(shapes), dict(addresses)
        self._scratch = scratch

    def enqueue(self, stream: int) -> None:
        device = self._graph.device
        if stream != self._stream:
            raise SimulationError("a context was used on another stream than its own")
        if device.capturing(stream) and self._warm != self._shapes:
            raise SimulationError("a run was captured before a warm run of the same sizes")
        self._warm = dict(self._shapes)
        shapes, addresses, scratch = dict(self._shapes), dict(self._addresses), self._scratch
        device.queue(stream, lambda: self._run(shapes, addresses, scratch), "enqueue")

    def _run(
        self, shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int], scratch: int
    ) -> None:
        graph = self._graph
        graph.device.memory(scratch, graph.scratch_bytes(self._profile))[...] = 0xFF
        feeds: dict[str, object] = {}
        for name, shape in shapes.items():
            kind = graph.types[name]
            array = graph.device.array(addresses[name], shape, DTYPES[kind]).copy()
            feeds[name] = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, kind)
        (result,) = graph.session.run_with_ort_values([graph.output], feeds)
        values = result.numpy()
        graph.device.array(addresses[graph.output], values.shape, np.float32)[...] = values


class SimulatedKernelDriver:
    """The driver below `CudaKernels`: reads arguments as CUDA does, computes in numpy."""

    def __init__(self, device: SimulatedDevice) -> None:
        self._device = device
        self._names: list[str] = []
        self.launched: list[str] = []

    def architecture(self) -> int:
        return self._device.sm

    def load(self, code: bytes, entry: str, shared_bytes: int) -> int:
        self._names.append(code.decode())
        return len(self._names)

    def launch(
        self,
        function: int,
        grid: tuple[int, int, int],
        num_threads: int,
        shared_bytes: int,
        stream: int,
        arguments: int,
    ) -> None:
        name = self._names[function - 1]
        parameters = find_spec(name).parameters
        table = (ctypes.c_void_p * len(parameters)).from_address(arguments)
        widths = [8 if parameter.dtype.startswith("*") else 4 for parameter in parameters]
        values = {
            parameter.name: int.from_bytes(ctypes.string_at(place, width), "little")
            for parameter, place, width in zip(parameters, table, widths, strict=True)
        }
        run = {"pool_segments.fp32": self._pool, "project_rows.fp32": self._project}[name]
        self.launched.append(name)
        self._device.queue(stream, lambda: run(grid[0], values), "kernel")

    def close(self) -> None:
        self._names.clear()

    def _pool(self, num_sequences: int, values: Mapping[str, int]) -> None:
        device, size, dim = self._device, values["hidden_size"], values["dim"]
        starts = device.array(values["cu_seqlens"], (num_sequences + 1,), np.int32)
        hidden = device.array(values["hidden"], (int(starts[-1]), size), np.float32)
        kept = device.array(values["pooled"], (int(starts[-1]),), np.uint8).astype(bool)
        out = device.array(values["out"], (num_sequences, dim), np.float32)
        for number, (first, last) in enumerate(itertools.pairwise(starts)):
            rows = hidden[first:last][kept[first:last]].astype(np.float64)
            out[number] = l2_normalise(rows.mean(axis=0)[:dim].astype(np.float32))

    def _project(self, num_blocks: int, values: Mapping[str, int]) -> None:
        device, size, dim = self._device, values["hidden_size"], values["dim"]
        rows = device.array(values["hidden"], (values["num_rows"], size), np.float32)
        weight = device.array(values["weight"], (dim, size), np.float32)
        bias = device.array(values["bias"], (dim,), np.float32)
        out = device.array(values["out"], (values["num_rows"], dim), np.float32)
        out[...] = project(rows.view(np.float32), weight.view(np.float32), bias.view(np.float32))


class SimulatedDrivers(Drivers):
    """All that an engine opens, on one simulated GPU."""

    def __init__(
        self, device: SimulatedDevice | None = None, captures_graphs: bool = False
    ) -> None:
        self.simulated = device or SimulatedDevice()
        self.simulated_library = SimulatedLibrary(self.simulated, captures_graphs)
        self.kernel_driver = SimulatedKernelDriver(self.simulated)

    def device(self, ordinal: int) -> Device:
        return self.simulated

    def library(self, builder: Builder, device: Device) -> SimulatedLibrary:
        return self.simulated_library

    def kernels(self, folder: Path, device: Device) -> Kernels:
        return CudaKernels.load(folder, driver=self.kernel_driver)


def write_kernels(folder: Path, sm: int = 89) -> None:
    """Write an index of the heads' kernels whose code is their names."""
    folder.mkdir()
    kernels = []
    for name in HEADS:
        spec, code = find_spec(name), name.encode()
        (folder / f"{name}.cubin").write_bytes(code)
        kernels.append(
            CompiledKernel(
                name=name,
                sm=sm,
                entry=spec.function,
                parameters=spec.parameters,
                num_threads=spec.num_warps * 32,
                shared_bytes=0,
                registers=32,
                spill_bytes=0,
                stack_bytes=0,
                recipe_sha256=recipe_hash(spec),
                cubin=f"{name}.cubin",
                cubin_sha256=hashlib.sha256(code).hexdigest(),
                ptx="",
                ptx_sha256="",
            )
        )
    write_index(folder, KernelIndex(triton="0", ptxas="0", kernels=tuple(kernels)))


def square_masks(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with a row of its mask for each query, which this provider insists on."""
    users = [n for n in model.graph.node if n.op_type == "Attention" and len(n.input) > 3]
    if not users:
        return model
    (mask,) = {node.input[3] for node in users}
    for node in users:
        node.input[3] = "square"
    for name, values in (("square.ones", [1, 1]), ("square.one", [1])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(values), name))
    parts = ["square.ones", "square.length", "square.one"]
    added = [
        helper.make_node("Shape", [mask], ["square.length"], start=3, end=4),
        helper.make_node("Concat", parts, ["square.shape"], axis=0),
        helper.make_node("Expand", [mask, "square.shape"], ["square"]),
    ]
    nodes = list(model.graph.node)
    place = next(i for i, node in enumerate(nodes) if mask in node.output) + 1
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:place], *added, *nodes[place:]])
    return model
