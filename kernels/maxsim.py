"""Late-interaction scores between multi-vectors.

score(q, d) = Σ_i max_j q_i · d_j (ColBERT, https://arxiv.org/abs/2004.12832). The compiled kernels
read documents once for all tokens of the queries, and no product of theirs is ever written.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trine.kernels.cpu import scores
from trine.kernels.cpu.library import native_library

__all__ = ["largest", "maxsim_scores", "maxsim_with_numpy"]

#: Query tokens scored at once; their products with all documents are held for so many.
MAX_TOKENS = 1024
#: Products of two vectors below which a second thread costs more than it saves.
MIN_PRODUCTS = 1 << 16


def maxsim_scores(
    queries: Sequence[NDArray[np.float32]], documents: Sequence[NDArray[Any]], threads: int = 1
) -> NDArray[np.float32]:
    """Return float32 [queries, documents]: for each query token its best document token, summed.

    Args:
        queries: float32 [T_i, D] each; one without rows scores 0.
        documents: float32, float16 or int8 [T_j, D] each, with at least one row, multiplied as the
            numbers they hold. C-order is read in place.
        threads: that share the work, where there is enough of it.
    """
    library = native_library()
    if library is None or not queries or not documents:
        return maxsim_with_numpy(queries, documents)
    dtypes = {document.dtype for document in documents}
    dtype = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)
    if dtype not in scores.NUMBERS:
        dtype = np.dtype(np.float32)
    # The kernel reads through addresses, so the arrays are held here until it is done.
    rows = [np.ascontiguousarray(document, dtype) for document in documents]
    addresses = np.array([row.__array_interface__["data"][0] for row in rows], np.uintp)
    lengths = np.array([len(row) for row in rows], np.int64)
    result = np.empty((len(queries), len(documents)), np.float32)
    total_rows = int(lengths.sum())
    for first, last in _blocks(queries):
        tokens = np.concatenate(queries[first:last])
        many = len(tokens) * total_rows >= MIN_PRODUCTS
        best = scores.best_matches(
            library,
            np.asarray(tokens, np.float32),
            addresses,
            lengths,
            dtype=dtype,
            threads=threads if many else 1,
        )
        end = 0
        for index in range(first, last):
            start, end = end, end + len(queries[index])
            result[index] = best[:, start:end].sum(axis=1)
    return result


def _blocks(queries: Sequence[NDArray[np.float32]]) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of consecutive queries with at most MAX_TOKENS, or one, at a time."""
    first = total = 0
    for index, query in enumerate(queries):
        if index > first and total + len(query) > MAX_TOKENS:
            yield first, index
            first, total = index, 0
        total += len(query)
    yield first, len(queries)


def maxsim_with_numpy(
    queries: Sequence[NDArray[np.float32]], documents: Sequence[NDArray[Any]]
) -> NDArray[np.float32]:
    """Do the same as `maxsim_scores` without the compiled kernels."""
    result = np.zeros((len(queries), len(documents)), np.float32)
    if not queries or not documents:
        return result
    stacked = np.concatenate(list(queries))
    lengths = np.array([len(query) for query in queries])
    owner = np.repeat(np.arange(len(queries)), lengths)
    for column, document in enumerate(documents):
        best = (stacked @ document.T.astype(np.float32, copy=False)).max(axis=1)
        result[:, column] = np.bincount(owner, weights=best, minlength=len(queries))
    return result


def largest(values: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return int64 [min(k, n)]: places of the largest of float32 [n], largest first.

    Of equal values the earlier place comes first, also where only some of them are returned.
    """
    if k < len(values):
        # All that are at least as large as the k-th, so that ties are cut by place, not by chance.
        threshold = np.partition(values, len(values) - k)[len(values) - k]
        places = np.flatnonzero(values >= threshold)
    else:
        places = np.arange(len(values))
    return places[np.argsort(-values[places], kind="stable")][:k]
