"""Images cut into normalised patches in window order; reference: `kernels.patchify`.

Values are looked up, not computed, so they are the reference's to the last bit.
"""

import triton
import triton.language as tl

__all__ = ["patchify"]


@triton.jit
def patchify(
    pixels: tl.tensor,
    levels: tl.tensor,
    order: tl.tensor,
    width: tl.tensor,
    out: tl.tensor,
    PATCH: tl.constexpr,
    MERGE: tl.constexpr,
    FRAMES: tl.constexpr,
    BLOCK_F: tl.constexpr,
) -> None:
    """Write [P, 3 × FRAMES × PATCH²]: one image's patches, MERGE² for each number in `order`.

    Features are ordered channel, frame, row, column. Grid: (P,).

    Args:
        pixels: uint8 [h, width, 3], sides multiples of PATCH × MERGE.
        levels: float32 [3, 256], the normalised value of each level.
        order: int32 [P / MERGE²], numbers of image tokens in raster order.
        width: of the image in pixels.
        out: float32, float16 or bfloat16; values are rounded to nearest.
    """
    patch = tl.program_id(0)
    token = tl.load(order + patch // (MERGE * MERGE))
    slot = patch % (MERGE * MERGE)
    token_columns = width // (PATCH * MERGE)
    top = (token // token_columns * MERGE + slot // MERGE) * PATCH
    left = (token % token_columns * MERGE + slot % MERGE) * PATCH
    feature = tl.arange(0, BLOCK_F)
    inside = feature < 3 * FRAMES * PATCH * PATCH
    channel = feature // (FRAMES * PATCH * PATCH)
    y = top + feature // PATCH % PATCH
    x = left + feature % PATCH
    level = tl.load(pixels + (y * width + x) * 3 + channel, mask=inside, other=0)
    value = tl.load(levels + channel * 256 + level.to(tl.int32), mask=inside, other=0.0)
    place = patch.to(tl.int64) * (3 * FRAMES * PATCH * PATCH) + feature
    tl.store(out + place, value.to(out.dtype.element_ty), mask=inside)
