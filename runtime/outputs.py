"""Results of `Embedder.encode`, and the types they come in."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from trine.runtime.errors import InputError

__all__ = [
    "OUTPUT_DTYPES",
    "Embedding",
    "Embeddings",
    "Heads",
    "OutputDtype",
    "check_output_dtype",
    "stored_shape",
]

#: How the numbers of vectors are stored; `trine.kernels.quantise` defines the last three.
OutputDtype = Literal["float32", "float16", "int8", "binary", "ubinary"]
OUTPUT_DTYPES: tuple[OutputDtype, ...] = get_args(OutputDtype)


@dataclass(frozen=True, slots=True)
class Heads:
    """Which vectors are wanted.

    Attributes:
        single: whether one a sequence is.
        multi: whether one a token is.
        dim: leading values of single vectors, at most the model's hidden size.
    """

    single: bool
    multi: bool
    dim: int


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors of a list of items, in the order of the items.

    Attributes:
        single: [B, D], C-order; None when only multi-vectors were asked for. Float32, each row of
            length 1, unless the call named another `output_dtype`: float16 [B, D], int8 [B, D], or
            bits in int8 ("binary") or uint8 ("ubinary") [B, ceil(D / 8)].
        multi: one array [T_i, projector_dim] per item, of dtypes and lengths as `single` has them;
            None when only single vectors were asked for.
        num_tokens: int64 [B], the tokens of each item after truncation, prefix and image tokens
            included.
        truncated: bool [B], whether an item's text was cut to `max_length`.

    The arrays belong to the caller.
    """

    single: NDArray[Any] | None
    multi: list[NDArray[Any]] | None
    num_tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return `single`, for `np.asarray` and what calls it.

        Raises:
            TypeError: there are multi-vectors only, which differ in their number.
        """
        if self.single is None:
            raise TypeError("multi-vectors of several items are no one array; take them of .multi")
        found = self.single if dtype is None else self.single.astype(dtype, copy=False)
        if copy is False and found is not self.single:
            raise ValueError(f"the vectors are {self.single.dtype}; as {dtype} they are a copy")
        return found.copy() if copy and found is self.single else found


@dataclass(frozen=True, slots=True)
class Embedding:
    """Vectors of one item of a stream.

    Attributes:
        single: [D], a row of `Embeddings.single`; None when only multi-vectors were asked for.
        multi: [T, projector_dim], of `Embeddings.multi`; None when only single vectors were.
        num_tokens: of the item after truncation, prefix and image tokens included.
        truncated: whether its text was cut to `max_length`.

    The arrays may share memory with those of the stream's other results; keep a copy of one that
    outlives many others.
    """

    single: NDArray[Any] | None
    multi: NDArray[Any] | None
    num_tokens: int
    truncated: bool


def check_output_dtype(name: str) -> OutputDtype:
    """Return `name` if it is an output type.

    Raises:
        InputError: it is not.
    """
    for known in OUTPUT_DTYPES:
        if name == known:
            return known
    raise InputError(f"output_dtype is {name!r}; known are {list(OUTPUT_DTYPES)}")


def stored_shape(output_dtype: OutputDtype, dim: int) -> tuple[np.dtype[Any], int]:
    """Return the dtype that holds a vector of `dim` dimensions, and how many values it has."""
    if output_dtype in ("binary", "ubinary"):
        return np.dtype(np.int8 if output_dtype == "binary" else np.uint8), -(-dim // 8)
    return np.dtype(output_dtype), dim
