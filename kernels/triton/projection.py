"""Multi-vector head: hidden states projected and normalised; reference: `kernels.pooling.project`.

The head is float32 whatever the hidden states are. Products run on tensor cores as three passes of
tf32, which keeps float32's digits.
"""

import triton
import triton.language as tl

__all__ = ["project_rows"]


@triton.jit
def project_rows(
    hidden: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    num_rows: tl.tensor,
    hidden_size: tl.tensor,
    dim: tl.tensor,
    out: tl.tensor,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """Write float32 [T, dim]: out_t = y / max(|y|, 1e-12) with y = weight · hidden_t + bias.

    Grid: (T / BLOCK_T rounded up,).

    Args:
        hidden: [T, hidden_size], C-order.
        weight: float32 [dim, hidden_size], C-order.
        bias: float32 [dim].
        num_rows: T.
        hidden_size: a multiple of 16 in compiled kernels.
        dim: at most BLOCK_D.
        out: float32 [T, dim].
    """
    row = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    column = tl.arange(0, BLOCK_D)
    row_start = row.to(tl.int64)[:, None] * hidden_size
    total = tl.zeros((BLOCK_T, BLOCK_D), tl.float32)
    for first in range(0, hidden_size, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        x_mask = (row < num_rows)[:, None] & (k < hidden_size)[None, :]
        x = tl.load(hidden + row_start + k[None, :], mask=x_mask, other=0.0)
        w_mask = (k < hidden_size)[:, None] & (column < dim)[None, :]
        w = tl.load(weight + column[None, :] * hidden_size + k[:, None], mask=w_mask, other=0.0)
        total = tl.dot(x.to(tl.float32), w, total, input_precision="tf32x3")
    total += tl.load(bias + column, mask=column < dim, other=0.0)[None, :]
    length = tl.sqrt(tl.sum(total * total, axis=1))
    unit = total / tl.maximum(length, 1e-12)[:, None]
    place = row.to(tl.int64)[:, None] * dim + column[None, :]
    tl.store(out + place, unit, mask=(row < num_rows)[:, None] & (column < dim)[None, :])
