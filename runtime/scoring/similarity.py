"""Scores two sets of embeddings against each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trine.kernels.maxsim import largest, maxsim_scores
from trine.kernels.pooling import l2_normalise
from trine.runtime.errors import InputError
from trine.runtime.hardware.processors import num_processors

__all__ = ["TopK", "cosine_similarity", "maxsim", "maxsim_top_k"]


@dataclass(frozen=True, slots=True)
class TopK:
    """The best documents of a query, best first; of equal scores the earlier document first.

    Attributes:
        indices: int64 [k], their places among the documents.
        scores: float32 [k].
    """

    indices: NDArray[np.int64]
    scores: NDArray[np.float32]


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
    queries: Sequence[NDArray[np.float32]], documents: Sequence[NDArray[Any]]
) -> NDArray[np.float32]:
    """Return float32 [queries, documents] late-interaction scores of multi-vectors.

    Each query token's best match among the document's tokens, summed over the query's tokens;
    scores of queries of different lengths are not comparable with each other.

    Args:
        queries: float32 [T_i, D] each, rows normalised.
        documents: [T_j, D] each, rows normalised; float32, float16, or int8, whose whole numbers
            are multiplied as they are. All of one type are read in place.

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
    return maxsim_scores(queries, documents, num_processors())


def maxsim_top_k(query: NDArray[np.float32], documents: Sequence[NDArray[Any]], k: int) -> TopK:
    """Return the `k` documents with the largest `maxsim`, all of them scored: the result is exact.

    Args:
        query: float32 [T, D], rows normalised.
        documents: as in `maxsim`.
        k: how many; all documents where there are fewer.

    Raises:
        InputError: k is not a whole number of at least 1, or as in `maxsim`.
    """
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise InputError(f"k is {k!r}; give a whole number of at least 1")
    scores = maxsim([query], documents)[0]
    indices = largest(scores, k)
    return TopK(indices, scores[indices])
