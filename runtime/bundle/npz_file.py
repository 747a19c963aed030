"""Writes named arrays into a .npz file, the same bytes for the same arrays."""

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["write_arrays"]


def write_arrays(file: Path | IO[bytes], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays, none of them of objects, with a fixed date.

    Args:
        file: path of a new file, its name ending in .npz, or a file that is open for writing.
        arrays: by name; in the order of the mapping.
    """
    # Options of `savez` differ between numpy's versions, where an older one takes them for arrays.
    save: Any = np.savez
    save(file, **arrays)
