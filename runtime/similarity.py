"""How alike two sets of embeddings are."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trine.kernels.maxsim import maxsim_scores
from trine.kernels.pooling import l2_normalise
from trine.runtime.errors import InputError

__all__ = ["cosine_similarity", "maxsim"]


def cosine_similarity(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return float32 [n, m] cosines of single vectors.

    Args:
        a: float32 [n, D] or [D]; need not be normalised.
        b: float32 [m, D] or [D].

    Raises:
        InputError: the vectors differ in size.
    """
    left, right = np.atleast_2d(a), np.atleast_2d(b)
    if left.shape[1] != right.shape[1]:
        raise InputError(
            f"vectors of {left.shape[1]} and {right.shape[1]} dimensions cannot be compared; "
            "give both the same truncate_dim"
        )
    return l2_normalise(left) @ l2_normalise(right).T


def maxsim(
    queries: Sequence[NDArray[np.float32]], documents: Sequence[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Return float32 [queries, documents] late-interaction scores of multi-vectors.

    Each query token's best match among the document's tokens, summed over the query's tokens;
    scores of queries of different lengths are not comparable with each other.

    Args:
        queries: float32 [T_i, D] each, rows normalised.
        documents: float32 [T_j, D] each, rows normalised.

    Raises:
        InputError: an item is no 2-D array, is empty, or differs in vector size.
    """
    sizes = set()
    for name, items in (("query", queries), ("document", documents)):
        for index, item in enumerate(items):
            if not isinstance(item, np.ndarray) or item.ndim != 2 or not len(item):
                raise InputError(f"{name} {index} is not an array [tokens, dimensions] with rows")
            sizes.add(item.shape[1])
    if len(sizes) > 1:
        raise InputError(f"multi-vectors of {sorted(sizes)} dimensions cannot be compared")
    return maxsim_scores(queries, documents)
