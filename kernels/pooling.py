"""Mean pooling, projection and normalisation of hidden states.

Sums run in float64, so that a vector of 32,768 tokens is as exact as one of three.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["l2_normalise", "mean_rows", "project", "truncate"]

#: As `torch.nn.functional.normalize`: a zero vector stays zero.
EPSILON = 1e-12


def mean_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return float32 [D], the mean of float32 [T, D] over T; not normalised."""
    return rows.mean(axis=0, dtype=np.float64).astype(np.float32)


def l2_normalise(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return float32 [..., D], each vector divided by max(its length, 1e-12)."""
    squares = np.einsum("...d,...d->...", vectors, vectors, dtype=np.float64)
    length = np.maximum(np.sqrt(squares), EPSILON)
    return (vectors / length[..., None]).astype(np.float32)


def project(
    rows: NDArray[np.float32], weight: NDArray[np.float32], bias: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return float32 [T, D] = rows · weightᵀ + bias, normalised to length 1.

    Args:
        rows: float32 [T, hidden].
        weight: float32 [D, hidden].
        bias: float32 [D].
    """
    with np.errstate(over="ignore", invalid="ignore"):  # not finite is for the caller to judge
        return l2_normalise(rows @ weight.T + bias)


def truncate(vectors: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """Return float32 [B, dim]: the first `dim` values of normalised vectors, normalised again."""
    return l2_normalise(vectors[:, :dim])
