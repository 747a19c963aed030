"""Mean of each sequence's pooled tokens, truncated and normalised; reference: `kernels.pooling`.

One program a sequence, which holds the whole vector. Sums run in float32 over tiles of tokens in
their order, so the result does not depend on how the batch was put together; rounding is made good
as it happens, so 32,768 tokens are as exact as three.
"""

import triton
import triton.language as tl

__all__ = ["pool_segments"]


@triton.jit
def pool_segments(
    hidden: tl.tensor,
    cu_seqlens: tl.tensor,
    pooled: tl.tensor,
    hidden_size: tl.tensor,
    dim: tl.tensor,
    out: tl.tensor,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    """Write float32 [B, dim]: out_b = v / max(|v|, 1e-12), v the mean's first `dim` values.

    A sequence without a pooled token gives zeros. Grid: (B,).

    Args:
        hidden: [T, hidden_size], C-order, sequences behind one another.
        cu_seqlens: int32 [B + 1], where each sequence starts, and the end.
        pooled: uint8 [T], not 0 where a token counts.
        hidden_size: a multiple of 16 in compiled kernels.
        dim: at most hidden_size and BLOCK_D.
        out: float32 [B, dim].
    """
    segment = tl.program_id(0)
    start = tl.load(cu_seqlens + segment)
    end = tl.load(cu_seqlens + segment + 1)
    column = tl.arange(0, BLOCK_D)
    inside = column < dim
    # Whole groups of 16 columns are read, which takes one instruction for 16 bytes.
    read = column < tl.minimum((dim + 15) // 16 * 16, hidden_size)
    # Summed over the tile's rows once, behind the loop: threads need not meet in it.
    total = tl.zeros((BLOCK_T, BLOCK_D), tl.float32)
    excess = tl.zeros((BLOCK_T, BLOCK_D), tl.float32)
    count = tl.zeros((BLOCK_T,), tl.float32)
    for first in range(start, end, BLOCK_T):
        token = first + tl.arange(0, BLOCK_T)
        kept = tl.load(pooled + token, mask=token < end, other=0) != 0
        place = token.to(tl.int64)[:, None] * hidden_size + column[None, :]
        rows = tl.load(hidden + place, mask=kept[:, None] & read[None, :], other=0.0)
        # Kahan's sum: what the last addition rounded off is taken into the next.
        term = rows.to(tl.float32) - excess
        larger = total + term
        excess = (larger - total) - term
        total = larger
        count += kept.to(tl.float32)
    mean = tl.sum(total, axis=0) / tl.maximum(tl.sum(count, axis=0), 1.0)
    mean = tl.where(inside, mean, 0.0)
    length = tl.sqrt(tl.sum(mean * mean, axis=0))
    place = segment.to(tl.int64) * dim + column
    tl.store(out + place, mean / tl.maximum(length, 1e-12), mask=inside)
