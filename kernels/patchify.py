"""Cuts a picture into the vision tower's patches and normalises them, in any order of image tokens.

An image token is a square of merge × merge patches. Values come from a table of the 256 levels of
each channel, so that (x / 255 - mean) / std is computed once, in one way, wherever it is used.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["patchify"]


def patchify(
    pixels: NDArray[np.uint8],
    levels: NDArray[np.float32],
    order: NDArray[np.integer],
    *,
    patch_size: int,
    merge_size: int,
    num_frames: int,
) -> NDArray[np.float32]:
    """Return float32 [P, channels × frames × patch²], patches of an image token side by side.

    Args:
        pixels: uint8 [h, w, c]; h and w are multiples of patch_size × merge_size.
        levels: float32 [c, 256], the normalised value of each level.
        order: integers [N], numbers of image tokens in raster order, e.g. sorted by attention
            window; P is N · merge².
        patch_size: side of a patch in pixels.
        merge_size: side of an image token in patches.
        num_frames: how often the picture is repeated along time.

    Returns:
        C-order; features are ordered channel, frame, row, column.
    """
    height, width, channels = pixels.shape
    side = patch_size * merge_size
    blocks = pixels.reshape(
        height // side, merge_size, patch_size, width // side, merge_size, patch_size, channels
    ).transpose(0, 3, 1, 4, 6, 2, 5)
    tokens = blocks.reshape(-1, merge_size**2, channels, patch_size, patch_size)[order]
    values = levels[np.arange(channels)[:, None, None], tokens]
    frames = np.repeat(values[:, :, :, None], num_frames, axis=3)
    return frames.reshape(len(order) * merge_size**2, -1)
