"""Weights packed for the native kernels, kept in files that processes map and share.

A file beside the bundle's own holds one graph's weights. Its name carries the hash of the graph's
data and the layout's version, so that a file of another export or version is never read.
Format: safetensors, the data on a multiple of 64 bytes.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trine.kernels.cpu.packed import LAYOUT_VERSION, PackedValues
from trine.runtime.bundle.atomic import write_file
from trine.runtime.bundle.bundle import Bundle
from trine.runtime.bundle.safetensors_file import TensorFile
from trine.runtime.bundle.tuned_settings import TUNED_FOLDER
from trine.runtime.errors import BundleError

__all__ = ["PackedStore", "open_store", "packed_path", "remove_others", "write_packed"]

#: A cache line: vectors that cross none load faster.
ALIGNMENT = 64
HASH_DIGITS = 16


class PackedStore:
    """Packed weights of one graph, by the names of their layers.

    Args:
        file: that holds them; None for none.
    """

    def __init__(self, file: TensorFile | None) -> None:
        self._file = file

    @property
    def mapped(self) -> bool:
        """Whether weights come from a mapped file."""
        return self._file is not None

    def get(self, key: str, shape: tuple[int, int, int, int]) -> PackedValues | None:
        """Return read-only maps of a layer's weights; None if they are not there.

        Raises:
            BundleError: they have another shape.
        """
        if self._file is None:
            return None
        found = self._file.tensors.get(f"{key}.values")
        if found is None:
            return None
        if found.shape != shape:
            raise BundleError(
                f"{self._file.path}: {key} has shape {list(found.shape)}, not {list(shape)}; "
                "delete the file, or run `trine tune` again"
            )
        values = self._file.stored(f"{key}.values")
        if f"{key}.offsets" not in self._file.tensors:
            return PackedValues(values.view(np.uint16), None)
        return PackedValues(
            values.view(np.int8), self._file.stored(f"{key}.offsets").view(np.int32)
        )


def packed_path(bundle: Bundle, graph: str) -> Path:
    """Return where the packed weights of a graph are kept."""
    data = _data(graph)
    digest = bundle.manifest.files[data.as_posix()].sha256[:HASH_DIGITS]
    return bundle.folder / TUNED_FOLDER / f"{data.stem}-{digest}-v{LAYOUT_VERSION}.packed"


def open_store(bundle: Bundle, graph: str) -> PackedStore:
    """Return the packed weights of a graph that were written before, if they were."""
    if _data(graph).as_posix() not in bundle.manifest.files:
        # A bundle that is being written: what is in it has no hash yet.
        return PackedStore(None)
    path = packed_path(bundle, graph)
    return PackedStore(TensorFile(path, BundleError) if path.is_file() else None)


def _data(graph: str) -> Path:
    return Path(graph).with_suffix(".data")


def remove_others(bundle: Bundle, kept: Collection[Path]) -> None:
    """Remove packed weights of other exports, versions and engines, which nothing reads any more.

    Processes that have one mapped keep it until they end.

    Args:
        bundle: whose.
        kept: files that stay.
    """
    for path in (bundle.folder / TUNED_FOLDER).glob("*.packed"):
        if path not in kept:
            path.unlink()


def write_packed(path: Path, layers: Mapping[str, PackedValues]) -> int:
    """Write packed weights; nothing stays at `path` when that fails. Return the file's size.

    Args:
        path: of the file to create or replace; its folder is made.
        layers: by the names that `PackedStore.get` will be asked for.
    """
    arrays: dict[str, NDArray[np.generic]] = {}
    for key, packed in layers.items():
        arrays[f"{key}.values"] = packed.values
        if packed.offsets is not None:
            arrays[f"{key}.offsets"] = packed.offsets
    header, end = {}, 0
    for name, array in arrays.items():
        dtype = {"int8": "I8", "int32": "I32", "uint16": "BF16"}[array.dtype.name]
        offsets = [end, end + array.nbytes]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
        end = offsets[1]
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    path.parent.mkdir(exist_ok=True)
    with write_file(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            array.tofile(file)
    return path.stat().st_size
