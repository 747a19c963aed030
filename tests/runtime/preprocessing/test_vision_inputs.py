"""Windows, rotary angles and padded views of images, against their definitions as loops."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trine.runtime.bundle.model_config import VisionConfig
from trine.runtime.preprocessing.image_processor import ImagePatches, PatchFormat
from trine.runtime.preprocessing.vision_inputs import (
    VisionInputs,
    lay_out_images,
    pad_layout,
    window_order,
)

modest = settings(max_examples=80, deadline=None, derandomize=True)


def vision(merge: int = 2, patch: int = 3, side: int = 4, head_dim: int = 16) -> VisionConfig:
    return VisionConfig(
        hidden_size=2 * head_dim,
        depth=2,
        num_heads=2,
        intermediate_size=8,
        in_channels=3,
        patch_size=patch,
        temporal_patch_size=2,
        spatial_merge_size=merge,
        window_size=side * merge * patch,
        full_attention_blocks=(1,),
        out_hidden_size=8,
    )


def windows_by_definition(rows: int, columns: int, side: int) -> list[list[int]]:
    """Return the tokens of each window: squares of `side` tokens, cut off at the image's edge.

    Qwen2.5-VL fills the grid up to whole windows, takes the windows row by row with their tokens
    row by row, and leaves the filling and windows of nothing else out.
    """
    windows = []
    for top, left in itertools.product(range(0, rows + side, side), range(0, columns + side, side)):
        inside = [
            row * columns + column
            for row in range(top, top + side)
            for column in range(left, left + side)
            if row < rows and column < columns
        ]
        windows += [inside] if inside else []
    return windows


merges = st.integers(1, 3)
sides = st.integers(1, 5)
grids = st.tuples(st.integers(1, 20), st.integers(1, 20))


def image(grid: tuple[int, int], config: VisionConfig, first: int = 0) -> ImagePatches:
    """Return an image whose patches hold their numbers, in merge order, as their first value.

    A patch's number is its pixels' red level and, in 256s, their green one; `numbers` adds them.
    """
    size, merge = config.patch_size, config.spatial_merge_size
    row, column = np.indices(grid)
    token = (row // merge) * (grid[1] // merge) + column // merge
    number = first + token * merge**2 + (row % merge) * merge + column % merge
    levels = np.stack([number % 256, number // 256, number * 0], axis=-1).astype(np.uint8)
    pixels = np.ascontiguousarray(levels.repeat(size, axis=0).repeat(size, axis=1))
    ones = np.ones(3, np.float32)
    return ImagePatches(
        pixels,
        PatchFormat(mean=0 * ones, deviation=ones, patch_size=size, merge_size=merge, num_frames=2),
    )


def numbers(inputs: VisionInputs) -> NDArray[np.int64]:
    """Return int64 [P]: the numbers that `image` wrote into the patches."""
    channels = inputs.patches.reshape(len(inputs.patches), 3, -1)[:, :, 0].astype(np.int64)
    return channels[:, 0] + 256 * channels[:, 1]


@modest
@given(grids, merges, sides)
def test_tokens_are_sorted_by_window(tokens: tuple[int, int], merge: int, side: int) -> None:
    config = vision(merge=merge, side=side)
    order, sizes = window_order((tokens[0] * merge, tokens[1] * merge), config)
    windows = windows_by_definition(*tokens, side)
    assert order.tolist() == list(itertools.chain(*windows))
    assert sizes.tolist() == [len(window) for window in windows]


def test_windows_of_a_small_image() -> None:
    order, sizes = window_order((6, 10), vision(side=2))
    assert order.tolist() == [0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14]
    assert sizes.tolist() == [4, 4, 2, 2, 2, 1]


@modest
@given(grids)
def test_images_of_a_run_do_not_share_windows(tokens: tuple[int, int]) -> None:
    config = vision(side=2)
    grid = (tokens[0] * 2, tokens[1] * 2)
    count = grid[0] * grid[1]
    alone = lay_out_images([image(grid, config)], config)
    both = lay_out_images([image(grid, config), image(grid, config, count)], config)
    np.testing.assert_array_equal(both.window_lengths, np.tile(alone.window_lengths, 2))
    np.testing.assert_array_equal(numbers(both)[:count], numbers(alone))
    np.testing.assert_array_equal(numbers(both)[count:], numbers(alone) + count)
    np.testing.assert_array_equal(both.rope_cos, np.tile(alone.rope_cos, (2, 1)))
    assert both.num_images.tolist() == [2]


@modest
@given(grids, merges, sides)
def test_windows_gather_their_own_patches(tokens: tuple[int, int], merge: int, side: int) -> None:
    config = vision(merge=merge, side=side)
    grid = (tokens[0] * merge, tokens[1] * merge)
    inputs = lay_out_images([image(grid, config)], config)
    unit = merge**2
    want = [
        [token * unit + patch for token in window for patch in range(unit)]
        for window in windows_by_definition(*tokens, side)
    ]
    assert inputs.window_lengths.tolist() == [len(window) for window in want]
    padded = numbers(inputs)[inputs.window_gather]
    for row, window in zip(padded, want, strict=True):
        assert row[: len(window)].tolist() == window
    # The way back finds every patch in the flattened windows.
    back = padded.ravel()[inputs.window_scatter]
    np.testing.assert_array_equal(back, numbers(inputs))
    dtypes = {name: str(getattr(inputs, name).dtype) for name in inputs.__slots__}
    assert dtypes == {
        "patches": "float32",
        "rope_cos": "float32",
        "rope_sin": "float32",
        "window_gather": "int64",
        "window_scatter": "int64",
        "window_lengths": "int32",
        "num_images": "int64",
    }


@settings(max_examples=25, deadline=None, derandomize=True)
@given(grids, merges, sides, st.sampled_from((4, 8, 80)))
def test_angles_are_of_each_patchs_row_and_column(
    tokens: tuple[int, int], merge: int, side: int, head_dim: int
) -> None:
    config = vision(merge=merge, side=side, head_dim=head_dim)
    rows, columns = grid = (tokens[0] * merge, tokens[1] * merge)
    inputs = lay_out_images([image(grid, config)], config)
    # Patches lie in merge order: those of an image token behind one another.
    places = [
        (top + row, left + column)
        for top in range(0, rows, merge)
        for left in range(0, columns, merge)
        for row in range(merge)
        for column in range(merge)
    ]
    for slot, number in enumerate(numbers(inputs)):
        angles = [
            position * 10000.0 ** (-2 * i / (head_dim / 2))
            for position in places[number]
            for i in range(head_dim // 4)
        ]
        np.testing.assert_allclose(inputs.rope_cos[slot], np.cos(angles), atol=2e-5)
        np.testing.assert_allclose(inputs.rope_sin[slot], np.sin(angles), atol=2e-5)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_padded_view_and_back(lengths: list[int]) -> None:
    gather, scatter = pad_layout(np.array(lengths))
    total = sum(lengths)
    assert gather.shape == (len(lengths), max(lengths))
    rows = np.arange(total) + 100
    padded = rows[gather]
    start = 0
    for number, length in enumerate(lengths):
        assert padded[number, :length].tolist() == rows[start : start + length].tolist()
        assert not gather[number, length:].any()
        start += length
    np.testing.assert_array_equal(padded.ravel()[scatter], rows)


def test_images_of_other_sizes_keep_their_own_windows() -> None:
    """Equally many patches, another shape."""
    config = vision(side=2)
    inputs = lay_out_images([image((4, 12), config), image((8, 6), config, 48)], config)
    sizes = [
        len(window) * 4
        for tokens in ((2, 6), (4, 3))
        for window in windows_by_definition(*tokens, 2)
    ]
    assert inputs.window_lengths.tolist() == sizes


@pytest.mark.parametrize(("pixels", "side"), [(112, 4), (111, 3), (28, 1), (55, 1)])
def test_window_side_is_rounded_down_to_whole_tokens(pixels: int, side: int) -> None:
    assert dataclasses.replace(vision(patch=14), window_size=pixels).window_side == side
