"""The heads in numpy, for hidden states that were copied back."""

import numpy as np
from numpy.typing import NDArray

from trine.kernels.pooling import l2_normalise, mean_rows, project, truncate
from trine.runtime.engines.base import HeadVectors
from trine.runtime.engines.gpu.heads import HeadPart

__all__ = ["host_vectors"]


def host_vectors(hidden: NDArray[np.float32], part: HeadPart) -> HeadVectors:
    """Return the vectors of some sequences.

    Args:
        hidden: float32 [T, hidden size], of the sequences behind one another.
        part: what the heads are to make of them.
    """
    ends = np.cumsum(part.lengths)[:-1]
    rows = np.split(hidden, ends)
    single = multi = None
    if part.single:
        means = [
            mean_rows(own[kept])
            for own, kept in zip(rows, np.split(part.pooled, ends), strict=True)
        ]
        vectors = l2_normalise(np.stack(means))
        single = vectors if part.dim == vectors.shape[1] else truncate(vectors, part.dim)
    if part.multi:
        multi = np.concatenate(
            [
                project(own, adapter.projector.weight, adapter.projector.bias)
                for own, adapter in zip(rows, part.adapters, strict=True)
            ]
        )
    return HeadVectors(single, multi)
