"""The TensorRT plugin against TensorRT 11.4's own decorators, as far as they go without a builder.

The wheel `tensorrt-lean-cu13` has TensorRT's Python plugin code, its plugin registry and its enums,
and neither builder nor `ITensor` and `TensorFormat`, which are filled in by empty classes; symbolic
expressions are evaluated by a stand-in for the builder's. What this shows: the plugin is accepted
and registered, its output has the right shape, and the launch is that of `launch_pool_segments`.
"""

import json
import subprocess
import sys
from importlib.util import find_spec as find_module
from pathlib import Path

import pytest

from trine.kernels.triton.index import read_index
from trine.kernels.triton.launches import DeviceArray, launch_pool_segments

pytestmark = [
    pytest.mark.reference,
    pytest.mark.skipif(
        find_module("tensorrt_lean") is None,
        reason="needs tensorrt-lean-cu13>=11.4: pip install 'trine[reference]'",
    ),
]

#: Runs in a process of its own, for what is registered stays so.
SCRIPT = """
import json, operator, sys
from pathlib import Path
import tensorrt_lean as trt

sys.modules["tensorrt"] = trt
for name in ("ITensor", "TensorFormat"):
    setattr(trt, name, type(name, (), {}))
import tensorrt_lean_bindings.plugin as trtp
from tensorrt_lean_bindings.plugin._lib import QDP_REGISTRY
from tensorrt_lean_bindings.plugin._tensor import SymIntExpr

sys.modules["tensorrt.plugin"] = trt.plugin = trtp
OPERATIONS = {
    trt.DimensionOperation.SUB: operator.sub,
    trt.DimensionOperation.SUM: operator.add,
    trt.DimensionOperation.PROD: operator.mul,
}


class Number:
    def __init__(self, value): self.value = value
    def is_constant(self): return True
    def get_constant_value(self): return self.value


class Builder:
    def constant(self, value): return Number(value)
    def operation(self, kind, a, b): return Number(OPERATIONS[kind](a.value, b.value))


def evaluate(expressions): return [expression._expr.value for expression in expressions]


from trine.kernels.triton.errors import KernelError
from trine.kernels.triton.plugin import PLUGIN, register_pool_plugin

folder, tokens, hidden_size, batch, dim = Path(sys.argv[1]), *map(int, sys.argv[2:])
register_pool_plugin(folder, 89)
try:
    register_pool_plugin(folder, 89)
    again = ""
except KernelError as error:
    again = str(error)
creator = trt.get_plugin_registry().get_creator("pool_segments", "1", "trine")
trt.IDimensionExpr = Number
SymIntExpr._exprBuilder = Builder()
plugin = QDP_REGISTRY[PLUGIN]
results = {}
for name in ("float32", "float16", "bfloat16"):
    inputs = [
        trtp.TensorDesc(trtp.ShapeExprs.from_tuple(shape), dtype)
        for shape, dtype in (
            ((tokens, hidden_size), getattr(trt, name)),
            ((batch + 1,), trt.int32),
            ((tokens,), trt.bool),
        )
    ]
    out = plugin.register_func(*inputs, dim)
    entry, ptx, launch, scalars = plugin.aot_impl_func(*inputs, dim, (out,), -1)
    results[name] = {
        "shape": evaluate(out.shape_expr),
        "dtype": str(out.dtype),
        "entry": entry,
        "ptx": ptx.decode(),
        "grid": evaluate(getattr(launch, f"grid_{axis}") for axis in "xyz"),
        "block": evaluate(getattr(launch, f"block_{axis}") for axis in "xyz"),
        "shared": evaluate([launch.shared_mem]),
        "scalars": evaluate(scalars),
        "int32": all(isinstance(scalar, trtp.SymInt32) for scalar in scalars),
    }
print(json.dumps({"creator": creator is not None, "again": again, "results": results}))
"""


def test_the_plugin_is_registered_and_launches_as_the_kernel_does(compiled: Path) -> None:
    tokens, hidden_size, batch, dim = 70, 256, 3, 128
    command = [sys.executable, "-c", SCRIPT, str(compiled)]
    command += [str(size) for size in (tokens, hidden_size, batch, dim)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["creator"]
    assert "TensorRT refuses the plugin trine::pool_segments" in answer["again"]
    kernels = {kernel.name: kernel for kernel in read_index(compiled).kernels if kernel.sm == 89}
    for name, dtype in (("float32", "fp32"), ("float16", "fp16"), ("bfloat16", "bf16")):
        kernel, found = kernels[f"pool_segments.{dtype}"], answer["results"][name]
        launch = launch_pool_segments(
            DeviceArray(pointer=0, shape=(tokens, hidden_size), dtype=dtype),
            DeviceArray(pointer=0, shape=(batch + 1,), dtype="i32"),
            DeviceArray(pointer=0, shape=(tokens,), dtype="u8"),
            DeviceArray(pointer=0, shape=(batch, dim), dtype="fp32"),
        )
        assert found["shape"] == [batch, dim]
        assert found["dtype"] == "DataType.FLOAT"
        assert found["entry"] == kernel.entry
        assert found["ptx"] == (compiled / kernel.ptx).read_text(encoding="utf-8")
        assert tuple(found["grid"]) == launch.grid
        assert found["block"] == [kernel.num_threads, 1, 1]
        assert found["shared"] == [kernel.shared_bytes]
        assert found["scalars"] == [part for part in launch.arguments if isinstance(part, int)]
        assert found["int32"]
