"""Lays out images for the vision tower: window order, rotary tables, patches.

All of it is a function of the grid alone. Source: Qwen2.5-VL's `get_window_index` and `rot_pos_emb`
in closed form.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.runtime.bundle.model_config import VISION_ROPE_THETA, VisionConfig
from trine.runtime.preprocessing.image_processor import ImagePatches

__all__ = ["VisionInputs", "lay_out_images", "window_order"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionInputs:
    """The vision graph's inputs for a batch of images of equally many patches.

    Attributes:
        patches: float32 [P, features], in window order, images behind one another.
        rope_cos, rope_sin: float32 [P, head_dim / 2].
        window_gather: int64 [W, L], the patch in each slot of a window; 0 in unused slots.
        window_scatter: int64 [P], the slot of each patch in the flattened windows.
        window_lengths: int32 [W], used slots of each window.
        num_images: int64 [1].
    """

    patches: NDArray[np.float32]
    rope_cos: NDArray[np.float32]
    rope_sin: NDArray[np.float32]
    window_gather: NDArray[np.int64]
    window_scatter: NDArray[np.int64]
    window_lengths: NDArray[np.int32]
    num_images: NDArray[np.int64]


def window_order(
    grid: tuple[int, int], vision: VisionConfig
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the image tokens of an image sorted by attention window, and the windows' sizes.

    Args:
        grid: (rows, columns) of patches.
        vision: merge and window sizes.

    Returns:
        int64 [N]: for each place in window order the token's number in raster order; and int64 [W]:
        tokens in each window, none empty.
    """
    rows, columns = (side // vision.spatial_merge_size for side in grid)
    side = vision.window_side
    row, column = np.divmod(np.arange(rows * columns), columns)
    window = (row // side) * -(-columns // side) + column // side
    return np.argsort(window, kind="stable"), np.bincount(window)


def lay_out_images(
    images: Sequence[ImagePatches],
    vision: VisionConfig,
    out: NDArray[np.float32] | None = None,
    threads: int = 1,
) -> VisionInputs:
    """Return the graph's inputs for `images`, which must have equally many patches each.

    Args:
        images: whose patches are written straight into their places.
        vision: merge and window sizes.
        out: float32 [P, features], C-order, which becomes `patches`; None for a new array.
        threads: that share the work.
    """
    unit = vision.spatial_merge_size**2
    total = sum(image.num_patches for image in images)
    patches = np.empty((total, vision.patch_features), np.float32) if out is None else out
    angles = np.empty((total, vision.head_dim // 2), np.float32)
    lengths = []
    start = 0
    for image in images:
        order, window_sizes = window_order(image.grid, vision)
        end = start + image.num_patches
        image.cut(order, patches[start:end], threads)
        rows = (order[:, None] * unit + np.arange(unit)).ravel()
        angles[start:end] = _angles(image.grid, vision)[rows]
        lengths.append(window_sizes * unit)
        start = end
    window_lengths = np.concatenate(lengths)
    gather, scatter = pad_layout(window_lengths)
    return VisionInputs(
        patches=patches,
        rope_cos=np.cos(angles),
        rope_sin=np.sin(angles),
        window_gather=gather,
        window_scatter=scatter,
        window_lengths=window_lengths.astype(np.int32),
        num_images=np.array([len(images)], np.int64),
    )


def pad_layout(lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how packed rows go into a padded view and back.

    Args:
        lengths: int64 [B], rows of each group; groups lie behind one another.

    Returns:
        int64 [B, max length], the packed row in each slot, 0 in unused ones; and int64 [sum of
        lengths], the slot of each row in the flattened view.
    """
    slots = np.arange(int(lengths.max()))
    starts = np.cumsum(lengths) - lengths
    used = slots[None] < lengths[:, None]
    gather = np.where(used, starts[:, None] + slots[None], 0)
    return gather, np.flatnonzero(used)


def _angles(grid: tuple[int, int], vision: VisionConfig) -> NDArray[np.float32]:
    """Return float32 [P, head_dim / 2] rotary angles in merge order: of rows, then columns."""
    merge, dim = vision.spatial_merge_size, vision.head_dim // 2
    row, column = (
        axis.reshape(grid[0] // merge, merge, grid[1] // merge, merge).swapaxes(1, 2).ravel()
        for axis in np.indices(grid)
    )
    exponent = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    power = (VISION_ROPE_THETA ** exponent.astype(np.float64)).astype(np.float32)
    frequency = np.float32(1.0) / power
    return np.concatenate(
        [axis[:, None].astype(np.float32) * frequency for axis in (row, column)], axis=1
    )
