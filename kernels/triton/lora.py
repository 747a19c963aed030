"""Low-rank deltas of several adapters in one batch; reference and tiles: `kernels.lora`.

Two launches, so that the low-rank product is computed once and not once for each block of outputs:
`lora_shrink` multiplies by A, `lora_expand` by B. A tile of tokens has one adapter. The product
between them stays in float32.
"""

import triton
import triton.language as tl

__all__ = ["lora_expand", "lora_shrink"]


@triton.jit
def lora_shrink(
    x: tl.tensor,
    a: tl.tensor,
    rows: tl.tensor,
    tile_adapters: tl.tensor,
    num_in: tl.tensor,
    rank: tl.tensor,
    low: tl.tensor,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """Write float32 [T, rank]: low_t = A[adapter of t] · x_t; rows without an adapter are left.

    Grid: (tiles, rank / BLOCK_R rounded up).

    Args:
        x: [T, num_in], C-order.
        a: [n, rank, num_in], C-order, x's type.
        rows: int32 [tiles, BLOCK_T], numbers of tokens, -1 in unused rows.
        tile_adapters: int32 [tiles], -1 for none.
        num_in: a multiple of 16 in compiled kernels.
        rank: of all adapters, smaller ones filled up with zeros; as num_in.
        low: float32 [T, rank].
    """
    tile = tl.program_id(0)
    adapter = tl.load(tile_adapters + tile)
    if adapter >= 0:
        row = tl.load(rows + tile * BLOCK_T + tl.arange(0, BLOCK_T))
        r = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
        row_start = row.to(tl.int64)[:, None] * num_in
        r_start = (adapter.to(tl.int64) * rank + r)[None, :] * num_in
        total = tl.zeros((BLOCK_T, BLOCK_R), tl.float32)
        for first in range(0, num_in, BLOCK_K):
            k = first + tl.arange(0, BLOCK_K)
            x_mask = (row >= 0)[:, None] & (k < num_in)[None, :]
            x_tile = tl.load(x + row_start + k[None, :], mask=x_mask, other=0.0)
            a_mask = (k < num_in)[:, None] & (r < rank)[None, :]
            a_tile = tl.load(a + r_start + k[:, None], mask=a_mask, other=0.0)
            total = tl.dot(x_tile, a_tile, total, input_precision="tf32x3")
        place = row.to(tl.int64)[:, None] * rank + r[None, :]
        tl.store(low + place, total, mask=(row >= 0)[:, None] & (r < rank)[None, :])


@triton.jit
def lora_expand(
    low: tl.tensor,
    b: tl.tensor,
    rows: tl.tensor,
    tile_adapters: tl.tensor,
    rank: tl.tensor,
    num_out: tl.tensor,
    delta: tl.tensor,
    BLOCK_T: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_R: tl.constexpr,
) -> None:
    """Write float32 [T, num_out]: delta_t = B[adapter of t] · low_t; 0 without an adapter.

    Grid: (tiles, num_out / BLOCK_O rounded up).

    Args:
        low: float32 [T, rank] of `lora_shrink`.
        b: [n, num_out, rank], C-order, alpha / r included.
        rows: int32 [tiles, BLOCK_T], numbers of tokens, -1 in unused rows.
        tile_adapters: int32 [tiles], -1 for none.
        rank: of all adapters; a multiple of 16 in compiled kernels.
        num_out: outputs of the layer; as rank.
        delta: float32 [T, num_out].
    """
    tile = tl.program_id(0)
    adapter = tl.load(tile_adapters + tile)
    row = tl.load(rows + tile * BLOCK_T + tl.arange(0, BLOCK_T))
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    low_start = row.to(tl.int64)[:, None] * rank
    b_start = (adapter.to(tl.int64) * num_out + o)[None, :] * rank
    num_terms = tl.where(adapter >= 0, rank, 0)
    total = tl.zeros((BLOCK_T, BLOCK_O), tl.float32)
    for first in range(0, num_terms, BLOCK_R):
        r = first + tl.arange(0, BLOCK_R)
        low_mask = (row >= 0)[:, None] & (r < rank)[None, :]
        low_tile = tl.load(low + low_start + r[None, :], mask=low_mask, other=0.0)
        b_mask = (r < rank)[:, None] & (o < num_out)[None, :]
        b_tile = tl.load(b + b_start + r[:, None], mask=b_mask, other=0.0)
        total = tl.dot(low_tile, b_tile.to(tl.float32), total, input_precision="tf32x3")
    place = row.to(tl.int64)[:, None] * num_out + o[None, :]
    tl.store(delta + place, total, mask=(row >= 0)[:, None] & (o < num_out)[None, :])
