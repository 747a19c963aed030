"""Every kernel against its numpy reference, on awkward shapes and in every type.

Inputs are rounded to the type first, so that what is compared is the arithmetic alone.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trine.kernels.lora import adapter_tiles, lora_delta
from trine.kernels.patchify import patchify_levels
from trine.kernels.pooling import l2_normalise, mean_rows, project
from trine.kernels.quantise import pack_binary, pack_ubinary, quantise_int8
from trine.kernels.triton.launches import (
    launch_lora_expand,
    launch_lora_shrink,
    launch_pack_binary,
    launch_pack_ubinary,
    launch_patchify,
    launch_pool_segments,
    launch_project_rows,
    launch_quantise_int8,
)
from trine.kernels.triton.specs import FLOAT_TYPES, find_spec

every_type = pytest.mark.parametrize("dtype", FLOAT_TYPES)
#: Largest difference from the reference, as a part of the largest value or of 1.
TOLERANCE = 1e-5
#: Tokens of the longest text the product takes.
LONGEST = 32768


def normal(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def starts(lengths: tuple[int, ...]) -> NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def assert_close(found: NDArray[np.float32], want: NDArray[np.float32], note: object) -> None:
    assert found.shape == want.shape
    difference = np.abs(found - want)
    scale = max(1.0, float(np.abs(want).max(initial=0)))
    worst = float(difference.max(initial=0)) / scale
    print(f"{note}: {worst:.1e} at most, mean {difference.sum() / max(1, found.size):.1e}")
    assert worst <= TOLERANCE


@every_type
@pytest.mark.parametrize(
    ("lengths", "hidden_size", "dim"),
    [
        ((1,), 16, 16),
        ((1, 2, 3, 300), 128, 128),
        ((37, 1, 64), 256, 64),
        ((9, 8, 7), 2048, 2048),
        ((5, 11), 2048, 1000),
        ((0, 3), 32, 32),
    ],
)
def test_pooling(
    device: Any, dtype: str, lengths: tuple[int, ...], hidden_size: int, dim: int
) -> None:
    total = sum(lengths)
    values = normal(1, total, hidden_size) * 3 + 1
    pooled = (np.random.default_rng(2).random(total) < 0.7).astype(np.uint8)
    pooled[starts(lengths)[:-1].clip(max=total - 1)] = 1
    hidden = device.upload(values, dtype)
    out = device.empty(len(lengths), dim)
    device.run(
        launch_pool_segments(
            hidden, device.upload(starts(lengths), "i32"), device.upload(pooled, "u8"), out
        )
    )
    exact = device.download(hidden).astype(np.float32)
    want = np.zeros((len(lengths), dim), np.float32)
    for row, (first, last) in enumerate(pairwise(starts(lengths))):
        if last > first:
            kept = exact[first:last][pooled[first:last] > 0]
            want[row] = l2_normalise(mean_rows(kept)[:dim])
    assert_close(device.download(out), want, (dtype, lengths, hidden_size, dim))


def test_pooling_leaves_out_what_is_not_a_number(device: Any) -> None:
    values = normal(3, 6, 16)
    values[[1, 4]] = np.nan
    pooled = np.array([1, 0, 1, 1, 0, 1], np.uint8)
    out = device.empty(2, 16)
    device.run(
        launch_pool_segments(
            device.upload(values, "fp32"),
            device.upload(np.array([0, 3, 6]), "i32"),
            device.upload(pooled, "u8"),
            out,
        )
    )
    want = [mean_rows(values[[0, 2]]), mean_rows(values[[3, 5]])]
    assert_close(device.download(out), l2_normalise(np.stack(want)), "NaN beside")


def test_pooling_without_a_pooled_token_gives_zeros(device: Any) -> None:
    out = device.empty(2, 16)
    device.run(
        launch_pool_segments(
            device.upload(normal(4, 3, 16), "fp32"),
            device.upload(np.array([0, 2, 3]), "i32"),
            device.upload(np.array([0, 0, 1]), "u8"),
            out,
        )
    )
    found = device.download(out)
    assert not found[0].any()
    np.testing.assert_allclose(np.linalg.norm(found[1]), 1, atol=1e-6)


def test_pooling_of_the_longest_text_keeps_its_digits(device: Any) -> None:
    """A constant that binary cannot hold, again and again: what plain float32 sums lose shows."""
    values = np.full((LONGEST, 16), 0.1, np.float32) * np.arange(1, 17, dtype=np.float32)
    out = device.empty(1, 16)
    device.run(
        launch_pool_segments(
            device.upload(values, "fp32"),
            device.upload(np.array([0, LONGEST]), "i32"),
            device.upload(np.ones(LONGEST), "u8"),
            out,
        )
    )
    want = l2_normalise(mean_rows(values))[None]
    np.testing.assert_allclose(device.download(out), want, rtol=0, atol=2e-7)


@every_type
@pytest.mark.parametrize(
    ("tokens", "hidden_size", "dim"),
    [(1, 16, 1), (33, 48, 128), (70, 128, 32), (32, 2048, 128), (5, 272, 100), (0, 16, 8)],
)
def test_projection(device: Any, dtype: str, tokens: int, hidden_size: int, dim: int) -> None:
    hidden = device.upload(normal(5, tokens, hidden_size), dtype)
    weight, bias = normal(6, dim, hidden_size) / hidden_size**0.5, normal(7, dim)
    out = device.empty(tokens, dim)
    device.run(
        launch_project_rows(hidden, device.upload(weight, "fp32"), device.upload(bias, "fp32"), out)
    )
    want = project(device.download(hidden).astype(np.float32), weight, bias)
    assert_close(device.download(out), want, (dtype, tokens, hidden_size, dim))


@every_type
@pytest.mark.parametrize(
    ("adapters", "num_in", "rank", "num_out"),
    [
        ([0], 16, 16, 16),
        ([2, 0, 1, -1, 0, 2, 2], 48, 32, 80),
        ([1] * 40 + [0] * 33 + [1] * 5, 256, 32, 128),
        ([-1, -1, -1], 16, 16, 16),
        ([0, 2] * 20, 128, 96, 2560),
        ([], 16, 16, 16),
    ],
)
def test_lora_delta(
    device: Any, dtype: str, adapters: list[int], num_in: int, rank: int, num_out: int
) -> None:
    ids = np.array(adapters, np.int32)
    x = device.upload(normal(8, len(ids), num_in), dtype)
    a = device.upload(normal(9, 3, rank, num_in) / num_in**0.5, dtype)
    b = device.upload(normal(10, 3, num_out, rank) / rank**0.5, dtype)
    tiles = adapter_tiles(ids, find_spec(f"lora_shrink.{dtype}").constant("BLOCK_T"))
    rows, tile_adapters = device.upload(tiles.rows, "i32"), device.upload(tiles.adapters, "i32")
    low, delta = device.empty(len(ids), rank), device.empty(len(ids), num_out)
    device.run(launch_lora_shrink(x, a, rows, tile_adapters, low))
    device.run(launch_lora_expand(low, b, rows, tile_adapters, delta))
    exact_x, exact_a, exact_b = _float32(device, x, a, b)
    want = lora_delta(exact_x, ids, exact_a, exact_b)
    assert_close(device.download(delta), want, (dtype, len(ids), num_in, rank, num_out))


def _float32(device: Any, *arrays: Any) -> list[NDArray[np.float32]]:
    return [device.download(array).astype(np.float32) for array in arrays]


@every_type
@pytest.mark.parametrize("size", [(28, 28), (28, 140), (112, 84)])
def test_patches(device: Any, dtype: str, size: tuple[int, int]) -> None:
    source = np.random.default_rng(11)
    pixels = source.integers(0, 256, (*size, 3), np.uint8)
    levels = normal(12, 3, 256)
    order = source.permutation(size[0] * size[1] // 28**2).astype(np.int32)
    out = device.empty(len(order) * 4, 3 * 2 * 14**2, dtype=dtype)
    device.run(
        launch_patchify(
            device.upload(pixels, "u8"),
            device.upload(levels, "fp32"),
            device.upload(order, "i32"),
            out,
        )
    )
    want = patchify_levels(pixels, levels, order, patch_size=14, merge_size=2, num_frames=2)
    # Rounded as the device rounds uploads: to nearest, halves to even.
    want_rounded = device.download(device.upload(want, dtype))
    np.testing.assert_array_equal(device.download(out), want_rounded)


@every_type
@pytest.mark.parametrize(("batch", "dim"), [(1, 1), (3, 100), (2, 2048), (5, 513), (0, 8)])
def test_int8_to_the_last_bit(device: Any, dtype: str, batch: int, dim: int) -> None:
    vectors = device.upload(normal(15, batch, dim) / 8, dtype)
    ranges = np.stack([-np.abs(normal(16, dim)) / 6, np.abs(normal(17, dim)) / 6])
    ranges[:, ::7] = 0.125  # empty
    out = device.empty(batch, dim, dtype="i8")
    device.run(launch_quantise_int8(vectors, device.upload(ranges, "fp32"), out))
    want = quantise_int8(device.download(vectors).astype(np.float32), ranges)
    np.testing.assert_array_equal(device.download(out), want)


@every_type
@pytest.mark.parametrize(("batch", "dim"), [(1, 1), (3, 100), (2, 2048), (5, 2049), (0, 8)])
def test_signs_to_the_last_bit(device: Any, dtype: str, batch: int, dim: int) -> None:
    values = normal(18, batch, dim)
    values[:, ::5] = 0
    values[:, ::11] = -0.0
    vectors = device.upload(values, dtype)
    exact = device.download(vectors).astype(np.float32)
    num_bytes = -(-dim // 8)
    unsigned, signed = (device.empty(batch, num_bytes, dtype=kind) for kind in ("u8", "i8"))
    device.run(launch_pack_ubinary(vectors, unsigned))
    device.run(launch_pack_binary(vectors, signed))
    np.testing.assert_array_equal(device.download(unsigned), pack_ubinary(exact))
    np.testing.assert_array_equal(device.download(signed), pack_binary(exact))
