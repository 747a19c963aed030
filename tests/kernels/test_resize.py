"""The image resize: bit for bit PyTorch's, and sane by itself."""

from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trine.kernels.resize import resize_bicubic, resize_with_numpy

Pixels = NDArray[np.uint8]

sides = st.integers(1, 12) | st.integers(1, 400)
modest = settings(max_examples=60, deadline=None, derandomize=True)
thorough = settings(max_examples=300, deadline=None, derandomize=True)


def image(height: int, width: int, kind: str = "noise") -> Pixels:
    if kind == "noise":
        source = np.random.default_rng(height * 7919 + width)
        return source.integers(0, 256, (height, width, 3), np.uint8)
    row, column = np.indices((height, width))
    if kind == "edges":  # the filter overshoots at them, and must be clamped
        return np.repeat((((row // 3 + column // 2) % 2) * 255)[..., None], 3, 2).astype(np.uint8)
    return np.stack([row % 256, column % 256, (row + column) % 256], 2).astype(np.uint8)


@pytest.mark.reference
@pytest.mark.skipif(find_spec("torch") is None, reason="needs the `reference` extra")
@thorough
@given(sides, sides, sides, sides, st.sampled_from(("noise", "edges", "ramp")))
@example(1, 1, 56, 56, "noise")
@example(300, 200, 28, 28, "noise")
@example(1, 400, 28, 1120, "noise")
@example(2000, 1500, 56, 28, "edges")
@example(1754, 1240, 896, 644, "noise")
@example(56, 56, 1008, 1008, "ramp")
@example(1234, 1111, 308, 280, "edges")  # the last shrinking that float32 carries, and beyond it
@example(1234, 1111, 280, 252, "noise")
def test_pixels_are_those_of_pytorch(
    height: int, width: int, new_height: int, new_width: int, kind: str
) -> None:
    import torch

    assume(new_height * new_width > 1)  # PyTorch fails an internal check of its own there
    pixels = image(height, width, kind)
    want = torch.nn.functional.interpolate(
        torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous(),
        (new_height, new_width),
        mode="bicubic",
        antialias=True,
    )
    found = resize_bicubic(pixels, new_height, new_width)
    np.testing.assert_array_equal(found, want[0].permute(1, 2, 0).numpy())


@thorough
@given(
    st.tuples(sides, sides, st.integers(1, 4)),
    sides,
    sides,
    st.sampled_from(("noise", "edges", "ramp")),
    st.integers(1, 3),
)
@example((2000, 1500, 3), 56, 28, "edges", 2)
@example((40, 3000, 3), 28, 56, "noise", 1)  # inputs of neighbouring outputs lie far apart
@example((7, 300, 3), 7, 140, "noise", 2)  # one axis only
@example((300, 7, 3), 140, 7, "noise", 2)
def test_compiled_kernel_and_numpy_agree_to_the_last_bit(
    shape: tuple[int, int, int], new_height: int, new_width: int, kind: str, threads: int
) -> None:
    height, width, channels = shape
    whole = np.repeat(image(height, width, kind), 2, axis=2)
    for pixels in (np.ascontiguousarray(whole[:, :, :channels]), whole[::-1, :, :channels]):
        found = resize_bicubic(pixels, new_height, new_width, threads=threads)
        want = resize_with_numpy(pixels, new_height, new_width)
        np.testing.assert_array_equal(found, want)


@modest
@given(sides, sides, sides, sides, st.integers(0, 255))
def test_one_colour_stays_that_colour(
    height: int, width: int, new_height: int, new_width: int, level: int
) -> None:
    found = resize_bicubic(np.full((height, width, 3), level, np.uint8), new_height, new_width)
    assert found.shape == (new_height, new_width, 3)
    assert found.dtype == np.uint8
    assert found.flags["C_CONTIGUOUS"]
    assert (found == level).all()


@modest
@given(sides, sides, st.sampled_from(("noise", "edges")))
def test_same_size_is_the_same_image(height: int, width: int, kind: str) -> None:
    pixels = image(height, width, kind)
    found = resize_bicubic(pixels, height, width)
    assert found is pixels
    np.testing.assert_array_equal(found, image(height, width, kind))


@modest
@given(sides, sides, sides, sides)
def test_rows_and_columns_are_treated_alike_when_one_is_resized(
    height: int, width: int, new_height: int, channels_seed: int
) -> None:
    pixels = image(height, width)
    found = resize_bicubic(pixels, new_height, width)
    turned = resize_bicubic(pixels.transpose(1, 0, 2), width, new_height)
    np.testing.assert_array_equal(found, turned.transpose(1, 0, 2))


@modest
@given(sides, sides, sides, sides)
def test_mirrored_images_are_resized_to_mirrored_ones(
    height: int, width: int, new_height: int, new_width: int
) -> None:
    """To the last level but one: a half is rounded up on either side."""
    pixels = image(height, width)
    found = resize_bicubic(pixels, new_height, new_width).astype(int)
    mirrored = resize_bicubic(pixels[::-1, ::-1], new_height, new_width)[::-1, ::-1].astype(int)
    assert np.abs(found - mirrored).max() <= 1


@modest
@given(st.integers(1, 4), sides, sides, sides, sides)
def test_channels_do_not_mix(
    channels: int, height: int, width: int, new_height: int, new_width: int
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, channels), np.uint8)
    whole = resize_bicubic(pixels, new_height, new_width)
    for channel in range(channels):
        alone = resize_bicubic(pixels[:, :, channel : channel + 1], new_height, new_width)
        np.testing.assert_array_equal(whole[:, :, channel], alone[:, :, 0])


def test_input_is_left_alone() -> None:
    pixels = image(40, 30)
    pixels.flags.writeable = False
    resize_bicubic(pixels, 28, 28)
    np.testing.assert_array_equal(pixels, image(40, 30))


def test_overshoot_is_clamped() -> None:
    found = resize_bicubic(image(30, 30, "edges"), 61, 61)
    assert found.min() == 0
    assert found.max() == 255
    hard = np.zeros((8, 8, 1), np.uint8)
    hard[:, 4:] = 255
    row = resize_bicubic(hard, 8, 32)[0, :, 0].astype(int)
    assert (np.diff(row)[10:22] >= 0).all()  # wrapped around, it would jump from 255 to 0
