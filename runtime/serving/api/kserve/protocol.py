"""The inference protocol of KServe v2 as bytes: a JSON header, and tensors in it or behind it.

The header's length is in `Inference-Header-Content-Length` where tensors follow it; each such
tensor says its size in `parameters.binary_data_size`. A BYTES tensor holds, for each element, its
length as 4 bytes, little-endian, and the bytes themselves.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/
extension_binary_data.md
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from trine.runtime.serving.api.requests.bodies import Body, decode_body
from trine.runtime.serving.api.responses.output_types import encode_numbers
from trine.runtime.serving.service.call_checks import check_count
from trine.runtime.serving.service.calls import ServiceError
from trine.runtime.serving.service.item_fields import ItemField

__all__ = [
    "HEADER_LENGTH",
    "InferAnswer",
    "InferRequest",
    "Tensor",
    "TensorData",
    "parse_infer",
    "write_infer",
]

#: Of requests and responses: bytes of the JSON header, where tensors follow it.
HEADER_LENGTH = "inference-header-content-length"
#: numpy's little-endian name of the types that inputs may have beside BYTES.
INPUT_TYPES = {
    "INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
    "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
}  # fmt: skip
#: Likewise of outputs. FP32 and nothing smaller: over HTTP clients turn BF16 back into it anyway.
OUTPUT_TYPES = {"FP32": "<f4", "INT64": "<i8", "BOOL": "?"}

#: Elements in C-order: strings from JSON, bytes from behind it, or numbers.
TensorData: TypeAlias = list[str | bytes] | NDArray[Any]


class InputHeader(Body, frozen=True, kw_only=True):
    """One tensor of a request."""

    name: str
    datatype: str
    shape: list[int]
    data: Any = None
    parameters: dict[str, Any] | None = None


class OutputHeader(Body, frozen=True, kw_only=True):
    """One tensor that a request asks for."""

    name: str
    parameters: dict[str, Any] | None = None


class InferHeader(Body, frozen=True, kw_only=True):
    """The JSON header of a request."""

    inputs: list[InputHeader]
    outputs: list[OutputHeader] | None = None
    id: str | None = None
    parameters: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Tensor:
    """One named tensor.

    Attributes:
        datatype: of the protocol, such as "BYTES" or "FP32".
        shape: its product is the number of elements.
        data: the elements.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: TensorData


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """A request to infer.

    Attributes:
        id: that the answer repeats, or None.
        inputs: by name.
        outputs: asked for, by name: whether as bytes behind the header; empty for the model's
            usual ones.
        binary: whether outputs that do not say come as bytes.
        parameters: of the request.
    """

    id: str | None
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, bool]
    binary: bool
    parameters: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class InferAnswer:
    """A response's body; `header_length` is None where all of it is JSON."""

    content: bytes
    header_length: int | None


def parse_infer(raw: bytes, header_length: str | None, max_items: int) -> InferRequest:
    """Return the request that a body describes.

    Args:
        raw: the body, decompressed.
        header_length: of the header of that name, or None. Larger than the body, it is left over
            from another request, as one Triton client does that, and is ignored.
        max_items: elements of a BYTES tensor, which cost far more memory apart than together.

    Raises:
        ServiceError: 400 or 422 the body is not understood; 413 it has too many items.
    """
    length = _parse_length(header_length, len(raw))
    header = decode_body(raw[:length], InferHeader)
    inputs: dict[str, Tensor] = {}
    place = length
    for entry in header.inputs:
        if entry.name in inputs:
            raise _broken(f"the input {entry.name!r} comes twice")
        size = (entry.parameters or {}).get("binary_data_size")
        if size is None:
            inputs[entry.name] = _tensor(entry, _from_json(entry))
            continue
        if type(size) is not int or not 0 <= size <= len(raw) - place:
            raise _broken(
                f"the input {entry.name!r} has a binary_data_size of {size!r}, but "
                f"{len(raw) - place} bytes follow"
            )
        inputs[entry.name] = _tensor(
            entry, _from_bytes(entry, raw[place : place + size], max_items)
        )
        place += size
    if place != len(raw):
        raise _broken(f"{len(raw) - place} bytes follow the last input")
    parameters = header.parameters or {}
    binary = parameters.get("binary_data_output") is True
    return InferRequest(
        id=header.id,
        inputs=inputs,
        outputs={
            entry.name: (entry.parameters or {}).get("binary_data", binary) is True
            for entry in header.outputs or ()
        },
        binary=binary,
        parameters=parameters,
    )


async def write_infer(
    model: str, version: str, request_id: str | None, outputs: Sequence[tuple[Tensor, bool]]
) -> InferAnswer:
    """Return the body of a response.

    Args:
        model: that was asked.
        version: of it.
        request_id: of the request.
        outputs: numeric tensors, each with whether it comes as bytes behind the header.
    """
    entries: list[dict[str, object]] = []
    tail: list[bytes] = []
    for tensor, binary in outputs:
        array = np.ascontiguousarray(tensor.data)
        entry: dict[str, object] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
        }
        if binary:
            tail.append(array.astype(OUTPUT_TYPES[tensor.datatype], copy=False).tobytes())
            entry["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            entry["data"] = await encode_numbers(array.reshape(-1))
        entries.append(entry)
    header: dict[str, object] = {"model_name": model, "model_version": version, "outputs": entries}
    if request_id is not None:
        header["id"] = request_id
    text = orjson.dumps(header)
    return InferAnswer(b"".join([text, *tail]), len(text) if tail else None)


def _parse_length(value: str | None, size: int) -> int:
    if value is None:
        return size
    if not (value.isascii() and value.isdigit()):
        raise _broken(f"{HEADER_LENGTH} is {value!r}, not a number of bytes")
    # Digits are counted first: int() refuses thousands of them with an error of its own.
    return min(int(value), size) if len(value) <= 18 else size


def _tensor(entry: InputHeader, data: TensorData) -> Tensor:
    if any(side < 0 for side in entry.shape) or math.prod(entry.shape) != len(data):
        raise _broken(
            f"the input {entry.name!r} has the shape {entry.shape[:8]} but {len(data)} elements"
        )
    return Tensor(entry.name, entry.datatype, tuple(entry.shape), data)


def _from_json(entry: InputHeader) -> TensorData:
    if not isinstance(entry.data, list):
        raise _broken(f"the input {entry.name!r} has neither a list as data nor a binary_data_size")
    flat = entry.data
    # The protocol allows nested lists; no input here has more than two axes.
    if all(isinstance(row, list) for row in flat):
        flat = [element for row in flat for element in row]
    if entry.datatype == "BYTES":
        if not all(isinstance(element, str) for element in flat):
            raise _broken(f"the input {entry.name!r} of BYTES has elements that are no strings")
        return flat
    dtype = _numpy_type(entry)
    limits = np.iinfo(dtype)
    # bool is a kind of int in Python, and none in JSON.
    if not all(type(value) is int and limits.min <= value <= limits.max for value in flat):
        raise _broken(f"the input {entry.name!r} has elements that are not {entry.datatype}")
    return np.array(flat, dtype)


def _from_bytes(entry: InputHeader, raw: bytes, max_items: int) -> TensorData:
    if entry.datatype == "BYTES":
        return _split_bytes(entry, raw, max_items)
    dtype = _numpy_type(entry)
    if len(raw) % dtype.itemsize:
        raise _broken(
            f"the input {entry.name!r} has {len(raw)} bytes, no whole number of {entry.datatype}"
        )
    return np.frombuffer(raw, dtype)


def _split_bytes(entry: InputHeader, raw: bytes, max_items: int) -> TensorData:
    if any(side < 0 for side in entry.shape):
        raise _broken(f"the input {entry.name!r} has the shape {entry.shape[:8]}")
    count = math.prod(entry.shape)
    check_count(count, max_items, (ItemField(entry.name),))
    elements: list[str | bytes] = []
    place = 0
    while place < len(raw):
        if len(elements) == count:
            raise _broken(
                f"the input {entry.name!r} has the shape {entry.shape[:8]} but more elements"
            )
        start = place + 4
        end = start + int.from_bytes(raw[place:start], "little")
        if start > len(raw) or end > len(raw):
            raise _broken(
                f"the input {entry.name!r} ends within element {len(elements)} of its BYTES"
            )
        elements.append(raw[start:end])
        place = end
    return elements


def _numpy_type(entry: InputHeader) -> np.dtype[Any]:
    if entry.datatype not in INPUT_TYPES:
        raise _broken(
            f"the input {entry.name!r} is of {entry.datatype!r}; known are "
            f"{['BYTES', *INPUT_TYPES]}"
        )
    return np.dtype(INPUT_TYPES[entry.datatype])


def _broken(what: str) -> ServiceError:
    return ServiceError(400, "invalid_infer_request", f"{what}; see the protocol of KServe v2")
