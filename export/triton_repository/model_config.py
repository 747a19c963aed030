"""`config.pbtxt`: what Triton Inference Server must know of a model, as typed data and as text.

Format: protobuf text of `inference.ModelConfig`, from model_config.proto of the server's `common`
repository. Written by hand, so that no protobuf package is needed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["Batching", "Device", "ServedModel", "TensorConfig", "config_text"]

Device = Literal["cpu", "gpu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorConfig:
    """One input or output.

    Attributes:
        name: as clients say it.
        data_type: as Triton names it, e.g. "TYPE_FP32".
        dims: without the batch dimension where the model has one; -1 where any size goes. Empty for
            a scalar, which Triton passes as one value and reshapes.
        optional: whether an input may be left out.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """How requests are joined.

    Attributes:
        max_items: of one batch.
        max_delay_us: how long the first request waits for others, in microseconds.
        preferred: sizes that are run without waiting further.
    """

    max_items: int
    max_delay_us: int
    preferred: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One model of the repository.

    Attributes:
        name: of its folder.
        backend: "python" or "onnxruntime".
        file: its main file in the version's folder.
        inputs, outputs: its tensors.
        batching: None for models whose inputs are packed by their caller.
        device: where instances run.
        instances: how many.
        parameters: read by the Python backend.
    """

    name: str
    backend: Literal["python", "onnxruntime"]
    file: str
    inputs: tuple[TensorConfig, ...]
    outputs: tuple[TensorConfig, ...]
    batching: Batching | None
    device: Device
    instances: int
    parameters: Mapping[str, str]


def config_text(model: ServedModel) -> str:
    """Return the text of the model's config.pbtxt."""
    return "\n".join(_lines(model)) + "\n"


def _lines(model: ServedModel) -> Iterator[str]:
    yield f"name: {_quoted(model.name)}"
    yield f"backend: {_quoted(model.backend)}"
    yield f"default_model_filename: {_quoted(model.file)}"
    yield f"max_batch_size: {0 if model.batching is None else model.batching.max_items}"
    for tensor in model.inputs:
        yield from _tensor("input", tensor)
    for tensor in model.outputs:
        yield from _tensor("output", tensor)
    if model.batching is not None:
        yield "dynamic_batching {"
        for size in model.batching.preferred:
            yield f"  preferred_batch_size: {size}"
        yield f"  max_queue_delay_microseconds: {model.batching.max_delay_us}"
        yield "}"
    yield "instance_group {"
    yield f"  count: {model.instances}"
    yield f"  kind: KIND_{model.device.upper()}"
    yield "}"
    for key, value in model.parameters.items():
        yield "parameters {"
        yield f"  key: {_quoted(key)}"
        yield f"  value {{ string_value: {_quoted(value)} }}"
        yield "}"


def _tensor(field: str, tensor: TensorConfig) -> Iterator[str]:
    yield f"{field} {{"
    yield f"  name: {_quoted(tensor.name)}"
    yield f"  data_type: {tensor.data_type}"
    for size in tensor.dims or (1,):
        yield f"  dims: {size}"
    if not tensor.dims:
        yield "  reshape { }"
    if tensor.optional:
        yield "  optional: true"
    yield "}"


def _quoted(text: str) -> str:
    """Return a protobuf text string; the names here are plain, so two characters need care."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
