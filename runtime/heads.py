"""From hidden states to vectors: pooling for single vectors, projection for multi-vectors."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trine.kernels.pooling import l2_normalise, mean_rows, project
from trine.runtime.errors import BundleError
from trine.runtime.sequence import TokenSequence
from trine.runtime.tensor_file import TensorFile

__all__ = ["Projector", "load_projectors", "multi_vector", "single_vector"]


@dataclass(frozen=True, slots=True)
class Projector:
    """One task's multi-vector projection.

    Attributes:
        weight: float32 [projector_dim, hidden], the adapter merged in.
        bias: float32 [projector_dim].
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


def load_projectors(path: Path, tasks: tuple[str, ...]) -> dict[str, Projector]:
    """Return the projector of each task from heads.safetensors.

    Raises:
        BundleError: the file is damaged or lacks a task.
    """
    file = TensorFile(path, BundleError)
    missing = [
        name for t in tasks for name in (f"{t}.weight", f"{t}.bias") if name not in file.tensors
    ]
    if missing:
        raise BundleError(f"{path}: lacks {', '.join(missing)}; export the bundle again")
    return {t: Projector(file.float32(f"{t}.weight"), file.float32(f"{t}.bias")) for t in tasks}


def single_vector(hidden: NDArray[np.float32], sequence: TokenSequence) -> NDArray[np.float32]:
    """Return float32 [hidden], normalised: the mean of the sequence's pooled tokens.

    Args:
        hidden: float32 [T, hidden], the sequence's own tokens.
        sequence: says which are pooled.
    """
    rows = hidden if sequence.pooled.all() else hidden[sequence.pooled]
    return l2_normalise(mean_rows(rows))


def multi_vector(hidden: NDArray[np.float32], projector: Projector) -> NDArray[np.float32]:
    """Return float32 [T, projector_dim], rows normalised: every token of the sequence projected."""
    return project(hidden, projector.weight, projector.bias)
