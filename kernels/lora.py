"""Low-rank deltas of several adapters in one batch of tokens.

delta_t = B[a_t] · (A[a_t] · x_t), where a_t is the adapter of token t. The factor alpha / r is part
of B. Tokens are grouped by adapter, so that each group is two plain matrix products
(https://arxiv.org/abs/2310.18547 calls the grouped product SGMV).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["NO_ADAPTER", "AdapterTiles", "adapter_tiles", "lora_delta"]

#: Marks a token without an adapter, and an unused row of a tile.
NO_ADAPTER = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterTiles:
    """Tokens sorted by adapter and cut into tiles of one adapter each.

    Attributes:
        rows: int32 [tiles, tile size], numbers of tokens; -1 in unused rows.
        adapters: int32 [tiles], the adapter of a tile's tokens; -1 for none.
    """

    rows: NDArray[np.int32]
    adapters: NDArray[np.int32]


def lora_delta(
    x: NDArray[np.float32],
    adapters: NDArray[np.integer],
    a: NDArray[np.float32],
    b: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return float32 [T, out], what each token's adapter adds to a linear layer's output.

    Args:
        x: float32 [T, in], the layer's input.
        adapters: integers [T], the adapter of each token, -1 for none, which adds 0.
        a: float32 [n, r, in].
        b: float32 [n, out, r], alpha / r included.
    """
    delta = np.zeros((len(x), b.shape[1]), np.float32)
    for adapter in np.unique(adapters[adapters != NO_ADAPTER]):
        rows = np.flatnonzero(adapters == adapter)
        delta[rows] = x[rows] @ a[adapter].T @ b[adapter].T
    return delta


def adapter_tiles(adapters: NDArray[np.integer], tile_size: int) -> AdapterTiles:
    """Return the tokens in tiles of one adapter each; tokens keep their order within an adapter.

    Args:
        adapters: integers [T], the adapter of each token, -1 for none.
        tile_size: rows of a tile.
    """
    order = np.argsort(adapters, kind="stable").astype(np.int32)
    names, counts = np.unique(adapters, return_counts=True)
    tiles_each = -(-counts // tile_size)
    rows = np.full((int(tiles_each.sum()), tile_size), NO_ADAPTER, np.int32)
    first_tile = np.cumsum(tiles_each) - tiles_each
    # Where a token lands: behind its group's earlier tokens, whole tiles behind earlier groups.
    offset = first_tile * tile_size - (np.cumsum(counts) - counts)
    rows.ravel()[np.arange(len(order)) + np.repeat(offset, counts)] = order
    return AdapterTiles(rows=rows, adapters=np.repeat(names, tiles_each).astype(np.int32))
