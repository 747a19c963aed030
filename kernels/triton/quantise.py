"""Vectors in fewer bytes; reference: `kernels.quantise`, the same to the last bit."""

import triton
import triton.language as tl

__all__ = ["pack_signs", "quantise_int8"]


@triton.jit
def quantise_int8(
    vectors: tl.tensor,
    ranges: tl.tensor,
    dim: tl.tensor,
    out: tl.tensor,
    BLOCK_D: tl.constexpr,
) -> None:
    """Write int8 [B, dim]: trunc((x - low) / step - 128) clipped, step = (high - low) / 255.

    A dimension with an empty range gives 0. Divisions round as IEEE 754 has it, because a code
    changes where the last bit does. Grid: (B, dim / BLOCK_D rounded up).

    Args:
        vectors: [B, dim], C-order.
        ranges: float32 [2, dim], lowest and highest values.
        out: int8 [B, dim].
    """
    column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = column < dim
    low = tl.load(ranges + column, mask=inside, other=0.0)
    high = tl.load(ranges + dim + column, mask=inside, other=0.0)
    place = tl.program_id(0).to(tl.int64) * dim + column
    x = tl.load(vectors + place, mask=inside, other=0.0).to(tl.float32)
    span = high - low
    step = tl.div_rn(span, tl.full((BLOCK_D,), 255.0, tl.float32))
    code = tl.div_rn(x - low, tl.where(step > 0, step, 1.0)) - 128.0
    code = tl.minimum(tl.maximum(code, -128.0), 127.0)
    tl.store(out + place, tl.where(step > 0, code, 0.0).to(tl.int8), mask=inside)


@triton.jit
def pack_signs(
    vectors: tl.tensor,
    dim: tl.tensor,
    out: tl.tensor,
    OFFSET: tl.constexpr,
    BLOCK_BYTES: tl.constexpr,
) -> None:
    """Write [B, dim / 8 rounded up] bytes less OFFSET: bit x > 0, first dimension on top.

    Grid: (B, bytes / BLOCK_BYTES rounded up).

    Args:
        vectors: [B, dim], C-order.
        out: uint8 with OFFSET 0, int8 with OFFSET 128.
    """
    row = tl.program_id(0).to(tl.int64)
    byte = tl.program_id(1) * BLOCK_BYTES + tl.arange(0, BLOCK_BYTES)
    bit = tl.arange(0, 8)
    column = byte[:, None] * 8 + bit[None, :]
    x = tl.load(vectors + row * dim + column, mask=column < dim, other=0.0)
    bits = (x.to(tl.float32) > 0).to(tl.int32) << (7 - bit)[None, :]
    packed = tl.sum(bits, axis=1) - OFFSET
    num_bytes = (dim + 7) // 8
    place = row * num_bytes + byte
    tl.store(out + place, packed.to(out.dtype.element_ty), mask=byte < num_bytes)
