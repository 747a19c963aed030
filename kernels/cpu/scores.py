"""The compiled kernel for late-interaction scores, called on numpy arrays."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trine.kernels.cpu.library import NativeLibrary
from trine.kernels.cpu.structures import MaxSimCall

__all__ = ["NUMBERS", "best_matches"]

#: Tokens of a query that the kernel multiplies side by side.
PANEL = 32
#: How the kernel calls the types that documents are stored in.
NUMBERS = {np.dtype(np.float32): 0, np.dtype(np.float16): 2, np.dtype(np.int8): 3}


def best_matches(
    library: NativeLibrary,
    tokens: NDArray[np.float32],
    documents: NDArray[np.uintp],
    lengths: NDArray[np.int64],
    *,
    dtype: np.dtype[Any],
    threads: int,
) -> NDArray[np.float32]:
    """Return float32 [documents, T]: each query token's largest product with a document's rows.

    Args:
        library: the compiled kernels.
        tokens: float32 [T, D] of one or more queries.
        documents: addresses [documents] of rows [lengths[d], D], packed, which must stay alive.
        lengths: int64 [documents], at least 1 each.
        dtype: of the rows, one of `NUMBERS`.
        threads: that share the documents.
    """
    count, dim = tokens.shape
    panels = -(-count // PANEL)
    # Aligned, as the kernel loads whole cache lines of it.
    storage = np.zeros(panels * dim * PANEL + 16, np.float32)
    skip = -storage.ctypes.data % 64 // 4
    queries = storage[skip : skip + panels * dim * PANEL].reshape(panels, dim, PANEL)
    for panel in range(panels):
        part = tokens[panel * PANEL : (panel + 1) * PANEL]
        queries[panel, :, : len(part)] = part.T
    scores = np.empty((len(documents), panels * PANEL), np.float32)
    call = MaxSimCall(
        queries=queries.ctypes.data,
        panels=panels,
        dim=dim,
        documents=documents.ctypes.data,
        lengths=lengths.ctypes.data,
        count=len(documents),
        scores=scores.ctypes.data,
        number=NUMBERS[dtype],
        threads=threads,
    )
    library.run("maxsim", call)
    return scores[:, :count]
