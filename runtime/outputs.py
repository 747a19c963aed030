"""What comes out of `Embedder.encode`."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Embeddings"]


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors of a list of items, in the order of the items.

    Attributes:
        single: float32 [B, D], C-order, each row of length 1; None when only multi-vectors were
            asked for.
        multi: one float32 [T_i, projector_dim] per item, each row of length 1; None when only
            single vectors were asked for.
        num_tokens: int64 [B], the tokens of each item after truncation, prefix and image tokens
            included.
        truncated: bool [B], whether an item's text was cut to `max_length`.

    The arrays belong to the caller.
    """

    single: NDArray[np.float32] | None
    multi: list[NDArray[np.float32]] | None
    num_tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]
