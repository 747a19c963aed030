"""Reads the weights of a bundle's ONNX graph without the onnx package: names, shapes, places.

Protocol buffers: a field is a varint of (number << 3 | type), then a varint (type 0), 8 bytes (1),
a length and that many bytes (2), or 4 bytes (5). Field numbers are those of onnx.proto.
"""

import mmap
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trine.runtime.errors import BundleError

__all__ = ["GraphWeights"]

#: numpy dtypes by ONNX's numbers of types; bfloat16 is read as its bits.
DTYPES: dict[int, type[np.generic]] = {
    1: np.float32,
    2: np.uint8,
    3: np.int8,
    6: np.int32,
    7: np.int64,
    10: np.float16,
    16: np.uint16,
}
#: Fields of ModelProto, GraphProto and TensorProto.
MODEL_GRAPH, GRAPH_INITIALIZER = 7, 5
DIMS, DATA_TYPE, NAME, RAW_DATA, EXTERNAL_DATA = 1, 2, 8, 9, 13
#: What reading bytes that are no such message, or one without a field, comes to.
DAMAGE = (ValueError, LookupError, OverflowError)


class GraphWeights:
    """The initializers of one graph by name; large ones are views of a mapped file.

    Args:
        path: of the .onnx file, whose data lie beside it.

    Raises:
        BundleError: the file is no such graph.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._tensors = dict(_tensors(path.read_bytes()))
            with path.with_suffix(".data").open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._data = np.frombuffer(self._map, np.uint8)
        except OSError as cause:
            raise BundleError(
                f"{path}: its weights cannot be read ({cause}); export the bundle again"
            ) from cause
        except DAMAGE as cause:
            raise self._damaged("the graph", cause) from cause

    @property
    def names(self) -> set[str]:
        """All initializers with values."""
        return set(self._tensors)

    def release(self) -> None:
        """Give back the memory of what was read so far; it is read again where it is used again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def get(self, name: str) -> NDArray[np.generic] | None:
        """Return the tensor `name`, read-only, bfloat16 as uint16; None if there is none.

        Raises:
            BundleError: it has a type that no engine here computes with, lies outside the file, or
                is damaged otherwise.
        """
        fields = self._tensors.get(name)
        if fields is None:
            return None
        try:
            return self._array(name, fields)
        except DAMAGE as cause:
            raise self._damaged(name, cause) from cause

    def _array(self, name: str, fields: dict[int, list[bytes]]) -> NDArray[np.generic]:
        dtype = DTYPES.get(int.from_bytes(fields[DATA_TYPE][0], "little"))
        if dtype is None:
            raise BundleError(f"{self._path}: {name} has an unknown type; export the bundle again")
        shape = tuple(int.from_bytes(size, "little") for size in fields.get(DIMS, []))
        count = prod(shape)
        if EXTERNAL_DATA not in fields:
            return np.frombuffer(fields[RAW_DATA][0], dtype, count).reshape(shape)
        place = dict(_pairs(fields[EXTERNAL_DATA]))
        start = int(place.get("offset", "0"))
        size = count * np.dtype(dtype).itemsize
        part = self._data[start : start + size]
        if start < 0 or part.nbytes != size:
            raise BundleError(
                f"{self._path}: {name} lies outside its file; export the bundle again"
            )
        return part.view(dtype).reshape(shape)

    def floats(self, name: str) -> NDArray[np.float32] | None:
        """Return the float32 tensor `name`, read-only; None if there is none."""
        found = self.get(name)
        if found is not None and found.dtype != np.float32:
            raise BundleError(f"{self._path}: {name} is {found.dtype}, not float32")
        return found  # type: ignore[return-value]

    def _damaged(self, what: str, cause: Exception) -> BundleError:
        return BundleError(
            f"{self._path}: {what} is damaged ({type(cause).__name__}: {cause}); export the bundle "
            "again"
        )


def _tensors(model: bytes) -> Iterator[tuple[str, dict[int, list[bytes]]]]:
    """Yield the name and the fields of each initializer."""
    for number, graph in _fields(model):
        if number == MODEL_GRAPH:
            for kind, content in _fields(graph):
                if kind == GRAPH_INITIALIZER:
                    fields: dict[int, list[bytes]] = {}
                    for field, value in _fields(content):
                        fields.setdefault(field, []).append(value)
                    yield fields[NAME][0].decode(), _unpacked(fields)


def _unpacked(fields: dict[int, list[bytes]]) -> dict[int, list[bytes]]:
    """Return fields with `dims` one number an entry, whether they were packed or not."""
    sizes = []
    for entry in fields.get(DIMS, []):
        at = 0
        while at < len(entry):
            size, at = _varint(entry, at)
            sizes.append(size.to_bytes(8, "little"))
    kind, _ = _varint(fields[DATA_TYPE][0], 0)
    return fields | {DIMS: sizes, DATA_TYPE: [kind.to_bytes(4, "little")]}


def _pairs(entries: list[bytes]) -> Iterator[tuple[str, str]]:
    """Yield key and value of StringStringEntryProto messages."""
    for entry in entries:
        fields = dict(_fields(entry))
        yield fields[1].decode(), fields[2].decode()


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of each field; of a varint its own bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 2:
            length, at = _varint(message, at)
            end = at + length
            if end > len(message):
                raise ValueError(f"a field of {length} bytes in {len(message) - at}")
        elif kind == 0:
            _, end = _varint(message, at)
        else:
            end = at + {1: 8, 5: 4}[kind]
        yield number, message[at:end]
        at = end


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return a number and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
