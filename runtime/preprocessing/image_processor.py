"""Makes an image ready for the vision tower: resized at once, cut into patches when it is run.

Patches are eight times as large as the pixels they are made of, so images wait as pixels. The
arithmetic is that of the published image processor (`Qwen2VLImageProcessorFast`): sizes rounded
to whole merged patches, 8-bit bicubic resize, `(x - mean·255) / (std·255)` in float32, one image
doubled into two frames.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.kernels.patchify import patchify
from trine.kernels.resize import resize_bicubic
from trine.runtime.bundle.model_config import ImageConfig, VisionConfig
from trine.runtime.errors import InputError

__all__ = ["ImagePatches", "PatchFormat", "patch_format", "patch_image", "smart_resize"]

#: The published processor refuses images longer than this times their short side.
MAX_ASPECT = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchFormat:
    """How pixels become patches.

    Attributes:
        mean, deviation: float32 [3]: a value is (level - mean) / deviation.
        patch_size: side of a patch in pixels.
        merge_size: side of an image token in patches.
        num_frames: how often the image is repeated along time.
    """

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    patch_size: int
    merge_size: int
    num_frames: int


@dataclass(frozen=True, slots=True)
class ImagePatches:
    """One image, ready for the vision tower.

    Attributes:
        pixels: uint8 [h, w, 3] RGB, C-order, both sides whole image tokens.
        format: how they are cut and normalised.
    """

    pixels: NDArray[np.uint8]
    format: PatchFormat

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        height, width, _ = self.pixels.shape
        return height // self.format.patch_size, width // self.format.patch_size

    @property
    def num_patches(self) -> int:
        rows, columns = self.grid
        return rows * columns

    @property
    def patches(self) -> NDArray[np.float32]:
        """Float32 [P, features], a new array: `cut` with image tokens in raster order."""
        return self.cut(np.arange(self.num_patches // self.format.merge_size**2))

    def cut(
        self, order: NDArray[np.int64], out: NDArray[np.float32] | None = None, threads: int = 1
    ) -> NDArray[np.float32]:
        """Return float32 [P, features], C-order: the patches of an image token side by side.

        Args:
            order: int64 [N], the image tokens' numbers in raster order.
            out: float32 [P, features], C-order, which is filled and returned; None for a new array.
            threads: that share the work.

        Returns:
            Features are ordered channel, frame, row, column.
        """
        return patchify(
            self.pixels,
            self.format.mean,
            self.format.deviation,
            order,
            patch_size=self.format.patch_size,
            merge_size=self.format.merge_size,
            num_frames=self.format.num_frames,
            out=out,
            threads=threads,
        )


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
            f"an image of {width}×{height} pixels is longer than {MAX_ASPECT} times its short "
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
    pixels: NDArray[np.uint8],
    image: ImageConfig,
    vision: VisionConfig,
    max_pixels: int,
    threads: int = 1,
) -> ImagePatches:
    """Return one image, resized.

    Args:
        pixels: uint8 [h, w, 3] RGB; kept, not copied, if it has the right size.
        image: limits and normalisation.
        vision: patch and merge sizes.
        max_pixels: in place of the checkpoint's limit.
        threads: that share the work.

    Raises:
        InputError: the image is too long for its width.
    """
    factor = vision.patch_size * vision.spatial_merge_size
    height, width = smart_resize(
        pixels.shape[0], pixels.shape[1], factor, image.min_pixels, max_pixels
    )
    resized = resize_bicubic(pixels, height, width, threads=threads)
    return ImagePatches(resized, patch_format(image, vision))


def patch_format(image: ImageConfig, vision: VisionConfig) -> PatchFormat:
    """Return how a checkpoint's images are cut and normalised.

    The published processor fuses rescaling into mean and deviation, in float32; so does this.
    """
    unscale = np.float32(1.0 / image.rescale_factor)
    return PatchFormat(
        mean=np.array(image.mean, np.float32) * unscale,
        deviation=np.array(image.std, np.float32) * unscale,
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        num_frames=vision.temporal_patch_size,
    )
