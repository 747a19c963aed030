"""Reads a graph's inputs and outputs as Triton describes tensors."""

from pathlib import Path
from typing import TYPE_CHECKING

from trine.export.triton_repository.model_config import TensorConfig
from trine.runtime.errors import BundleError, missing_package

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["graph_tensors"]

#: Triton's names of ONNX's types.
DATA_TYPES = {
    "FLOAT": "TYPE_FP32",
    "FLOAT16": "TYPE_FP16",
    "BFLOAT16": "TYPE_BF16",
    "INT64": "TYPE_INT64",
    "INT32": "TYPE_INT32",
    "BOOL": "TYPE_BOOL",
}


def graph_tensors(path: Path) -> tuple[tuple[TensorConfig, ...], tuple[TensorConfig, ...]]:
    """Return the inputs without a default, and the outputs, of an ONNX file; weights are not read.

    Raises:
        BundleError: a tensor has a type Triton does not know, or no shape.
        DependencyError: onnx_ir is not installed.
    """
    try:
        import onnx_ir
    except ImportError as cause:
        raise missing_package("onnx_ir", "export", "to read a graph's inputs") from cause
    graph = onnx_ir.load(path).graph
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    return (
        tuple(_tensor(value, path) for value in inputs),
        tuple(_tensor(value, path) for value in graph.outputs),
    )


def _tensor(value: "ir.Value", path: Path) -> TensorConfig:
    kind = DATA_TYPES.get("" if value.dtype is None else value.dtype.name)
    if kind is None or value.shape is None or value.name is None:
        raise BundleError(
            f"{path}: {value.name} is {value.dtype} {value.shape}, which Triton cannot be told of; "
            "export the bundle again"
        )
    dims = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return TensorConfig(name=value.name, data_type=kind, dims=dims)
