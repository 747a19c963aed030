"""Cuts an image into normalised patches, in any order of image tokens.

An image token is a square of merge × merge patches. Values are (level - mean) / deviation in
float32, to the last bit those of the published image processor, compiled kernels or not.
"""

import numpy as np
from numpy.typing import NDArray

from trine.kernels.cpu import images
from trine.kernels.cpu.library import native_library

__all__ = ["patchify", "patchify_levels"]


def patchify(  # noqa: PLR0913 - an image, its normalisation, an order and three sizes
    pixels: NDArray[np.uint8],
    mean: NDArray[np.float32],
    deviation: NDArray[np.float32],
    order: NDArray[np.int64],
    *,
    patch_size: int,
    merge_size: int,
    num_frames: int,
    out: NDArray[np.float32] | None = None,
    threads: int = 1,
) -> NDArray[np.float32]:
    """Return float32 [P, channels × frames × patch²], patches of an image token side by side.

    Args:
        pixels: uint8 [h, w, 3]; h and w are multiples of patch_size × merge_size.
        mean, deviation: float32 [3], in levels of 0 to 255.
        order: int64 [N], numbers of image tokens in raster order, e.g. sorted by attention
            window; P is N · merge².
        patch_size: side of a patch in pixels.
        merge_size: side of an image token in patches.
        num_frames: how often the image is repeated along time.
        out: of the result's shape, C-order, which is filled and returned; None for a new array.
        threads: that share the image tokens, where the compiled kernels do it.

    Returns:
        C-order; features are ordered channel, frame, row, column.
    """
    features = pixels.shape[2] * num_frames * patch_size**2
    if out is None:
        out = np.empty((len(order) * merge_size**2, features), np.float32)
    library = native_library()
    if library is None:
        # From a table of the 256 levels of each channel, so that each value is computed once.
        levels = (np.arange(256, dtype=np.float32) - mean[:, None]) / deviation[:, None]
        out[...] = patchify_levels(
            pixels,
            levels,
            order,
            patch_size=patch_size,
            merge_size=merge_size,
            num_frames=num_frames,
        )
        return out
    images.patchify(
        library,
        np.ascontiguousarray(pixels),
        mean,
        deviation,
        np.ascontiguousarray(order, np.int64),
        out,
        patch_size=patch_size,
        merge_size=merge_size,
        num_frames=num_frames,
        threads=threads,
    )
    return out


def patchify_levels(
    pixels: NDArray[np.uint8],
    levels: NDArray[np.float32],
    order: NDArray[np.integer],
    *,
    patch_size: int,
    merge_size: int,
    num_frames: int,
) -> NDArray[np.float32]:
    """Do the same as `patchify` in numpy, with any value for each level: float32 [c, 256]."""
    height, width, channels = pixels.shape
    side = patch_size * merge_size
    blocks = pixels.reshape(
        height // side, merge_size, patch_size, width // side, merge_size, patch_size, channels
    ).transpose(0, 3, 1, 4, 6, 2, 5)
    tokens = blocks.reshape(-1, merge_size**2, channels, patch_size, patch_size)[order]
    values = levels[np.arange(channels)[:, None, None], tokens]
    frames = np.repeat(values[:, :, :, None], num_frames, axis=3)
    return frames.reshape(len(order) * merge_size**2, -1)
