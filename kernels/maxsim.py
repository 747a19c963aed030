"""Late-interaction scores between multi-vectors."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["maxsim_scores"]


def maxsim_scores(
    queries: Sequence[NDArray[np.float32]], documents: Sequence[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Return float32 [queries, documents]: for each query token its best document token, summed.

    score(q, d) = Σ_i max_j q_i · d_j (ColBERT, https://arxiv.org/abs/2004.12832).

    Args:
        queries: float32 [T_i, D] each.
        documents: float32 [T_j, D] each, with at least one row.
    """
    scores = np.zeros((len(queries), len(documents)), np.float32)
    if not queries or not documents:
        return scores
    stacked = np.concatenate(list(queries))
    lengths = np.array([len(query) for query in queries])
    owner = np.repeat(np.arange(len(queries)), lengths)
    for column, document in enumerate(documents):
        best = (stacked @ document.T).max(axis=1)
        scores[:, column] = np.bincount(owner, weights=best, minlength=len(queries))
    return scores
