"""Patches in window order, against the patches and the order that the runtime makes."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trine.export.sample.config import sample_model
from trine.export.sample.spec import SampleSpec
from trine.kernels.patchify import patchify, patchify_levels
from trine.runtime.preprocessing.image_processor import patch_image
from trine.runtime.preprocessing.vision_inputs import lay_out_images, window_order

#: The published vision tower and image processor, which takes images of any size here.
PUBLISHED = sample_model(SampleSpec.full())
VISION = PUBLISHED.vision
IMAGE = dataclasses.replace(PUBLISHED.image, min_pixels=1)


@pytest.mark.parametrize("size", [(28, 28), (56, 196), (308, 280)])
def test_patches_are_those_of_the_runtime(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    patches = patch_image(pixels, IMAGE, VISION, IMAGE.max_pixels)
    assert patches.grid == (size[0] // VISION.patch_size, size[1] // VISION.patch_size)
    mean, std = (
        np.array(values, np.float32) * np.float32(255) for values in (IMAGE.mean, IMAGE.std)
    )
    levels = (np.arange(256, dtype=np.float32) - mean[:, None]) / std[:, None]
    found = patchify_levels(
        pixels,
        levels,
        window_order(patches.grid, VISION)[0],
        patch_size=VISION.patch_size,
        merge_size=VISION.spatial_merge_size,
        num_frames=VISION.temporal_patch_size,
    )
    want = lay_out_images([patches], VISION).patches
    assert (found.shape, found.dtype) == (want.shape, np.float32)
    np.testing.assert_array_equal(found, want)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 40), st.integers(1, 3), st.integers(1, 2), st.integers(1, 4), st.integers(1, 4)
)
def test_compiled_kernel_and_numpy_agree_to_the_last_bit(
    patch: int, merge: int, frames: int, rows: int, columns: int
) -> None:
    source = np.random.default_rng(patch * 100 + merge)
    side = patch * merge
    pixels = source.integers(0, 256, (rows * side, columns * side, 3), np.uint8)
    mean = source.uniform(90, 140, 3).astype(np.float32)
    deviation = source.uniform(50, 80, 3).astype(np.float32)
    order = source.permutation(rows * columns)[: max(1, rows * columns - 1)]
    sizes = {"patch_size": patch, "merge_size": merge, "num_frames": frames}
    levels = (np.arange(256, dtype=np.float32) - mean[:, None]) / deviation[:, None]
    want = patchify_levels(pixels, levels, order, **sizes)
    out = np.full_like(want, np.nan)
    found = patchify(pixels, mean, deviation, order, out=out, threads=2, **sizes)
    assert found is out
    np.testing.assert_array_equal(found, want)


def test_one_patch_is_the_image_in_every_frame() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    levels = np.arange(256, dtype=np.float32) + np.array([[0], [1000], [2000]], np.float32)
    found = patchify_levels(pixels, levels, np.array([0]), patch_size=2, merge_size=1, num_frames=2)
    red, green, blue = [0, 3, 6, 9], [1001, 1004, 1007, 1010], [2002, 2005, 2008, 2011]
    assert found.tolist() == [red * 2 + green * 2 + blue * 2]
