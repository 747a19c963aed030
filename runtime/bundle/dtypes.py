"""Converts stored dtypes to float32 and back, by their names in safetensors headers.

bfloat16, which numpy lacks, is stored as its uint16 bits. `widen` is exact for all dtypes but
float64 and integers over 2**24.
"""

import numpy as np
from numpy.typing import NDArray

from trine.runtime.errors import TrineError

__all__ = ["FLOATS", "STORAGE", "check_finite", "narrow", "widen"]

#: Storage dtype by its name in the header; BF16 is read as bits.
STORAGE = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
#: Of them, those a weight may have.
FLOATS = ("BF16", "F16", "F32", "F64")


def widen(stored: NDArray[np.generic], dtype: str) -> NDArray[np.float32]:
    """Return float32 values of a stored array, same shape; `dtype` is its name in the header."""
    if dtype == "BF16":
        bits = stored.astype(np.uint32)
        bits <<= np.uint32(16)
        return bits.view(np.float32)
    return stored.astype(np.float32, copy=False)


def narrow(values: NDArray[np.float32], dtype: str) -> NDArray[np.generic]:
    """Return float32 values in the storage of `dtype`, "BF16" (as bits), "F16" or "F32".

    Rounded to nearest, ties to even; the values must be finite.
    """
    if dtype == "BF16":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        return (rounded >> np.uint32(16)).astype(np.uint16)
    return values.astype(STORAGE[dtype], copy=False)


def check_finite(
    array: NDArray[np.float32], where: str, error: type[TrineError]
) -> NDArray[np.float32]:
    """Return `array`, or raise `error` if it holds NaN or infinity; `where` names it."""
    # min and max propagate NaN and see infinity, without a mask of the array's size.
    if array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
        count = int(np.size(array) - np.count_nonzero(np.isfinite(array)))
        raise error(
            f"{where}: {count} values are NaN or infinite; "
            "the file is damaged or the training failed"
        )
    return array
