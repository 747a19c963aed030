"""Writes safetensors files from lazily produced bytes, so a file of any size needs little memory.

Tensors are ordered as the reference writer orders them, widest dtype first and then by name: the
same tensors always give the same file, and every tensor begins at a multiple of its item size.

Format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}
padded with spaces, then the data (https://github.com/huggingface/safetensors#format).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from trine.runtime.bundle.dtypes import STORAGE

__all__ = ["TensorEntry", "entry_from_array", "write_safetensors"]

#: The data begins at a multiple of this many bytes.
ALIGNMENT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """One tensor to write.

    Attributes:
        name: unique in its file.
        dtype: name in the header, e.g. "BF16".
        shape: in elements, C-order.
        chunks: consecutive pieces of the little-endian data, read once, when the tensor's turn
            comes; a piece may be overwritten by its producer when the next one is asked for.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Iterable[bytes | memoryview]

    @property
    def item_bytes(self) -> int:
        return np.dtype(STORAGE[self.dtype]).itemsize

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * self.item_bytes


def entry_from_array(name: str, array: NDArray[np.generic], dtype: str) -> TensorEntry:
    """Return the entry of an array that is in memory (or mapped) already.

    Args:
        name: unique in its file.
        array: any shape, in the storage dtype of `dtype`; bfloat16 as its uint16 bits. It must not
            change before the file is written.
        dtype: name in the header, e.g. "F16".

    Raises:
        ValueError: the array's dtype is not the storage dtype.
    """
    if dtype not in STORAGE or array.dtype != np.dtype(STORAGE[dtype]):
        raise ValueError(f"tensor {name!r}: an array of {array.dtype} cannot be written as {dtype}")
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1)
    return TensorEntry(
        name=name, dtype=dtype, shape=array.shape, chunks=(little.view(np.uint8).data,)
    )


def write_safetensors(
    path: Path, entries: Iterable[TensorEntry], metadata: Mapping[str, str]
) -> None:
    """Write `entries` as one safetensors file; nothing stays at `path` when that fails.

    Args:
        path: the file to create or replace.
        entries: in any order.
        metadata: the file's own strings; transformers wants {"format": "pt"}.

    Raises:
        ValueError: a name occurs twice, a dtype is unknown, or a tensor's chunks do not add up to
            its size.
    """
    ordered = _ordered(entries)
    try:
        with path.open("wb") as file:
            file.write(_header(ordered, metadata))
            for entry in ordered:
                _write_chunks(file, entry)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _ordered(entries: Iterable[TensorEntry]) -> list[TensorEntry]:
    listed = list(entries)
    seen: set[str] = set()
    for entry in listed:
        if entry.name in seen:
            raise ValueError(f"tensor {entry.name!r} was given twice; names must be unique")
        if entry.dtype not in STORAGE:
            raise ValueError(
                f"tensor {entry.name!r} has dtype {entry.dtype!r}; known are {sorted(STORAGE)}"
            )
        seen.add(entry.name)
    return sorted(listed, key=lambda entry: (-entry.item_bytes, entry.name))


def _header(entries: Sequence[TensorEntry], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    begin = 0
    for entry in entries:
        end = begin + entry.num_bytes
        header[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _write_chunks(file: BinaryIO, entry: TensorEntry) -> None:
    written = 0
    for chunk in entry.chunks:
        written += memoryview(chunk).nbytes
        file.write(chunk)
    if written != entry.num_bytes:
        raise ValueError(
            f"tensor {entry.name!r}: its chunks hold {written} bytes, {entry.dtype} "
            f"{list(entry.shape)} needs {entry.num_bytes}"
        )
