"""Reads safetensors files through memory maps, tensor by tensor, without holding the file.

A map is opened for one tensor and dropped with it, so reading a checkpoint of any size costs the
memory of its largest tensor. bfloat16, which numpy lacks, is handed out as its uint16 bits;
`trine.runtime.bundle.dtypes` turns it into float32.

Format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}},
then the data (https://github.com/huggingface/safetensors#format).
"""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from trine.runtime.bundle.dtypes import FLOATS, STORAGE, widen
from trine.runtime.errors import TrineError

__all__ = ["TensorFile", "TensorInfo"]

#: The format's own bound on its header.
MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies.

    Attributes:
        dtype: name in the header, e.g. "BF16".
        shape: in elements, C-order.
        offset: first byte in the file.
        num_bytes: length in bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


class TensorFile:
    """One safetensors file whose header has been read and checked.

    Args:
        path: the file.
        error: the error class to raise: the caller knows whether this is a checkpoint or a bundle.

    Raises:
        error: the file is missing, shorter than its header says, or not a safetensors file.
    """

    def __init__(self, path: Path, error: type[TrineError]) -> None:
        self.path = path
        self._error = error
        self.tensors, self.metadata = self._read_header()

    def _fail(self, what: str) -> TrineError:
        return self._error(f"{self.path}: {what}")

    def _read_header(self) -> tuple[dict[str, TensorInfo], dict[str, str]]:
        try:
            size = self.path.stat().st_size
            with self.path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if size < 8 or length > MAX_HEADER_BYTES or 8 + length > size:
                    raise self._fail(
                        f"not a whole safetensors file: {size} bytes, header of {length} bytes "
                        "announced; download or copy it again"
                    )
                header = json.loads(file.read(length))
        except OSError as cause:
            raise self._fail(f"cannot be read ({cause.strerror}); check the path") from cause
        except (ValueError, RecursionError) as cause:
            raise self._fail("its header is not JSON; download or copy it again") from cause
        if not isinstance(header, dict):
            raise self._fail("its header is not a JSON object; download or copy it again")
        metadata = header.pop("__metadata__", {})
        return {
            name: self._tensor_info(name, entry, 8 + length, size) for name, entry in header.items()
        }, metadata

    def _tensor_info(self, name: str, entry: object, start: int, size: int) -> TensorInfo:
        fields = entry if isinstance(entry, dict) else {}
        dtype, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
        if not isinstance(dtype, str) or not _is_counts(shape) or not _is_counts(offsets, 2):
            raise self._fail(f"tensor {name!r} has no dtype, shape and offsets; download it again")
        if dtype not in STORAGE:
            raise self._fail(f"tensor {name!r} has dtype {dtype!r}; known are {sorted(STORAGE)}")
        begin, end = offsets
        if start + end > size:
            raise self._fail(
                f"truncated: tensor {name!r} ends at byte {start + end}, the file has {size}; "
                "download or copy it again"
            )
        if end - begin != prod(shape) * np.dtype(STORAGE[dtype]).itemsize:
            raise self._fail(f"tensor {name!r}: {end - begin} bytes do not hold {dtype} {shape}")
        return TensorInfo(dtype, tuple(shape), start + begin, end - begin)

    def require(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise the file's error unless it holds floats of this name and shape."""
        info = self.tensors.get(name)
        if info is None:
            raise self._fail(f"holds no {name}; export the bundle again")
        if info.shape != shape or info.dtype not in FLOATS:
            raise self._fail(
                f"{name} is {info.dtype} {list(info.shape)}, not floats {list(shape)}; "
                "export the bundle again"
            )

    def stored(self, name: str) -> NDArray[np.generic]:
        """Return a read-only map of tensor `name` in its storage dtype (bfloat16 as uint16 bits).

        The map lives as long as the returned array; dropping it gives the pages back.
        """
        info = self.tensors[name]
        dtype = np.dtype(STORAGE[info.dtype])
        if prod(info.shape) == 0:
            return np.empty(info.shape, dtype)
        return np.memmap(self.path, dtype, mode="r", offset=info.offset, shape=info.shape)

    def float32(self, name: str) -> NDArray[np.float32]:
        """Return tensor `name` as float32, C-order, owned by the caller."""
        return np.array(widen(self.stored(name), self.tensors[name].dtype), np.float32)


def _is_counts(value: object, length: int | None = None) -> TypeGuard[list[int]]:
    """Whether parsed JSON is a list of whole numbers that numpy can count to."""
    return (
        isinstance(value, list)
        and (length is None or len(value) == length)
        and all(type(n) is int and 0 <= n < 1 << 62 for n in value)
    )
