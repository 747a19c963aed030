"""Turns pixels into the vision tower's patches: resize, normalise, cut, order by window.

The arithmetic is that of the published image processor (`Qwen2VLImageProcessorFast`): sizes rounded
to whole merged patches, 8-bit bicubic resize, `(x - mean·255) / (std·255)` in float32, one picture
doubled into two frames.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.kernels.resize import resize_bicubic
from trine.runtime.errors import InputError
from trine.runtime.model_config import ImageConfig, VisionConfig

__all__ = ["ImagePatches", "cut_patches", "patch_image", "smart_resize"]

#: The published processor refuses pictures longer than this times their short side.
MAX_ASPECT = 200


@dataclass(frozen=True, slots=True)
class ImagePatches:
    """One picture, ready for the vision tower.

    Attributes:
        patches: float32 [P, features], C-order, in merge order: the merge² patches of an image
            token lie behind one another, image tokens in raster order; features ordered channel,
            frame, row, column.
        grid: (rows, columns) of patches; P is their product.
    """

    patches: NDArray[np.float32]
    grid: tuple[int, int]


def smart_resize(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Return (height, width) in pixels: multiples of `factor` near the given size, within limits.

    Rounding is half to even, as in the published processor.

    Raises:
        InputError: one side is more than 200 times the other.
    """
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise InputError(
            f"a picture of {width}×{height} pixels is longer than {MAX_ASPECT} times its short "
            "side; crop or pad it"
        )
    new_height = round(height / factor) * factor
    new_width = round(width / factor) * factor
    if new_height * new_width > max_pixels:
        beta = math.sqrt((height * width) / max_pixels)
        new_height = max(factor, math.floor(height / beta / factor) * factor)
        new_width = max(factor, math.floor(width / beta / factor) * factor)
    elif new_height * new_width < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        new_height = math.ceil(height * beta / factor) * factor
        new_width = math.ceil(width * beta / factor) * factor
    return new_height, new_width


def patch_image(
    pixels: NDArray[np.uint8], image: ImageConfig, vision: VisionConfig, max_pixels: int
) -> ImagePatches:
    """Return the patches of one picture.

    Args:
        pixels: uint8 [h, w, 3] RGB.
        image: limits and normalisation.
        vision: patch and merge sizes.
        max_pixels: in place of the checkpoint's limit.

    Raises:
        InputError: the picture is too long for its width.
    """
    factor = vision.patch_size * vision.spatial_merge_size
    height, width = smart_resize(
        pixels.shape[0], pixels.shape[1], factor, image.min_pixels, max_pixels
    )
    resized = resize_bicubic(pixels, height, width)
    grid = (height // vision.patch_size, width // vision.patch_size)
    return ImagePatches(cut_patches(resized, _levels(image), vision), grid)


def _levels(image: ImageConfig) -> NDArray[np.float32]:
    """Return float32 [3, 256]: the normalised value of each 8-bit level, per channel.

    The published processor fuses rescaling into mean and std, in float32; so does this table.
    """
    unscale = np.float32(1.0 / image.rescale_factor)
    mean = np.array(image.mean, np.float32) * unscale
    std = np.array(image.std, np.float32) * unscale
    return (np.arange(256, dtype=np.float32)[None] - mean[:, None]) / std[:, None]


def cut_patches(
    pixels: NDArray[np.uint8], levels: NDArray[np.float32], vision: VisionConfig
) -> NDArray[np.float32]:
    """Return float32 [P, features] in merge order; the sides must be whole merged patches.

    Args:
        pixels: uint8 [h, w, 3].
        levels: float32 [3, 256], the value of each level.
        vision: patch, merge and frame sizes.
    """
    size, merge, frames = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    rows, columns = pixels.shape[0] // (size * merge), pixels.shape[1] // (size * merge)
    blocks = pixels.reshape(rows, merge, size, columns, merge, size, 3)
    # -> merged row, merged column, row in merge, column in merge, channel, row, column
    blocks = blocks.transpose(0, 3, 1, 4, 6, 2, 5)
    patches = np.empty((rows, columns, merge, merge, 3, frames, size, size), np.float32)
    for channel in range(3):
        values = levels[channel][blocks[:, :, :, :, channel]]
        patches[:, :, :, :, channel] = values[:, :, :, :, None]
    return patches.reshape(rows * columns * merge * merge, -1)
