"""Makes vectors of hidden states: pooled into single vectors, projected into multi-vectors."""

import numpy as np
from numpy.typing import NDArray

from trine.kernels.pooling import l2_normalise, mean_rows, project
from trine.runtime.adapters.projector import Projector

__all__ = ["mean_vector", "multi_vector", "single_vector"]


def single_vector(hidden: NDArray[np.float32], pooled: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return float32 [hidden], normalised: the mean of a sequence's pooled tokens.

    Args:
        hidden: float32 [T, hidden], the sequence's own tokens.
        pooled: bool [T], at least one True.
    """
    return l2_normalise(mean_vector(hidden, pooled))


def mean_vector(hidden: NDArray[np.float32], pooled: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return float32 [hidden], not normalised: the mean of the pooled tokens.

    Args:
        hidden: float32 [T, hidden].
        pooled: bool [T], at least one True.
    """
    return mean_rows(hidden if pooled.all() else hidden[pooled])


def multi_vector(hidden: NDArray[np.float32], projector: Projector) -> NDArray[np.float32]:
    """Return float32 [T, projector_dim], rows normalised: every token of the sequence projected."""
    return project(hidden, projector.weight, projector.bias)
