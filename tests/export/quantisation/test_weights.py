"""8- and 4-bit weights: errors within their steps, and packing that unpacks."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trine.export.quantisation.weights import (
    quantise_blocks,
    quantise_channels,
    quantise_symmetric_blocks,
    round_channels,
    unpack_blocks,
)

SHAPES = st.tuples(st.integers(1, 70), st.integers(1, 9))


@given(SHAPES, st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_channels_are_within_half_a_step(shape: tuple[int, int], seed: int) -> None:
    weight = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    found = quantise_channels(weight)
    assert found.values.dtype == np.int8
    assert np.abs(found.values.astype(int)).max() == 127
    error = np.abs(found.values * found.scales - weight)
    assert (error <= found.scales * 0.5001).all()


@given(st.tuples(st.integers(1, 40), st.integers(1, 150)), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_rounded_channels_are_what_their_integers_stand_for(
    shape: tuple[int, int], seed: int
) -> None:
    weight = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    found = quantise_channels(weight)
    wanted = found.values * found.scales
    np.testing.assert_array_equal(round_channels(np.ascontiguousarray(weight.T)).T, wanted)


def test_a_channel_of_zeros_stays_zero() -> None:
    found = quantise_channels(np.zeros((4, 2), np.float32))
    assert not (found.values * found.scales).any()


@given(SHAPES, st.sampled_from([16, 32]), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_blocks_unpack_to_within_a_step(shape: tuple[int, int], block: int, seed: int) -> None:
    weight = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    blocks = -(-shape[0] // block)
    found = quantise_blocks(weight, block)
    assert found.values.shape == (shape[1], blocks, block // 2)
    assert found.zeros.shape == (shape[1], -(-blocks // 2))
    padded = np.zeros((blocks * block, shape[1]), np.float32)
    padded[: shape[0]] = weight
    spread = padded.reshape(blocks, block, -1)
    span = np.maximum(spread.max(axis=1), 0) - np.minimum(spread.min(axis=1), 0)
    error = np.abs(unpack_blocks(found, shape[0]).T - weight)
    steps = np.repeat(span / 15, block, axis=0)[: shape[0]]
    # Shrunk ranges clip a few values by up to 30 % of the span.
    assert (error <= 0.31 * 15 * steps + 1e-6).all()
    # Of a step's square: a twelfth on average over many values, a quarter at most for a single one.
    share = 1 / 6 if weight.size >= 64 else 1 / 4
    assert np.square(error).mean() <= np.square(steps).mean() * share


def test_important_channels_are_met_more_closely() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 32)).astype(np.float32)
    importance = np.ones(64, np.float32)
    importance[::8] = 1000
    plain, weighed = (
        np.square(unpack_blocks(quantise_blocks(weight, 32, given), 64).T - weight)[::8].mean()
        for given in (None, importance)
    )
    assert weighed < plain


@pytest.mark.parametrize("scale_dtype", [np.float16, ml_dtypes.bfloat16])
@given(st.integers(1, 3), st.sampled_from([64, 128]), st.integers(1, 9), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_symmetric_blocks_have_stored_scales_and_small_errors(
    scale_dtype: type, blocks: int, block: int, num_out: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((blocks * block, num_out)).astype(np.float32)
    weight[:, 0] = 0
    found = quantise_symmetric_blocks(weight, block, scale_dtype)
    assert found.values.dtype == np.int8
    assert found.values.min() >= -8
    assert found.values.max() <= 7
    assert found.scales.shape == (blocks, num_out)
    assert (found.scales > 0).all()
    np.testing.assert_array_equal(found.scales.astype(scale_dtype).astype(np.float32), found.scales)
    stands_for = found.values * found.scales.repeat(block, axis=0)
    assert not stands_for[:, 0].any()
    steps = np.abs(weight).reshape(blocks, block, -1).max(axis=1) / 7
    error = np.square(stands_for - weight).reshape(blocks, block, -1).mean(axis=1)
    # No worse than rounding with the scale that the largest value has: 1/12 of a square step.
    assert error[:, 1:].sum() <= 1.2 * np.square(steps[:, 1:]).sum() / 12 + 1e-9


def test_important_channels_of_symmetric_blocks_are_met_more_closely() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    importance = np.ones(64, np.float32)
    importance[::8] = 1000

    def error(given: np.ndarray | None) -> float:
        found = quantise_symmetric_blocks(weight, 64, np.float16, given)
        lost = found.values * found.scales.repeat(64, axis=0) - weight
        return float(np.square(lost)[::8].mean())

    assert error(importance) < error(None)
