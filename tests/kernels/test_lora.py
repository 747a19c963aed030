"""Deltas of several adapters, and their tokens in tiles, against the definition token by token."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trine.kernels.lora import NO_ADAPTER, adapter_tiles, lora_delta

ids = st.lists(st.integers(NO_ADAPTER, 3), max_size=40)
modest = settings(max_examples=80, deadline=None, derandomize=True)


@modest
@given(ids, st.integers(1, 9), st.integers(1, 5), st.integers(1, 9), st.integers(0, 99))
def test_delta_is_that_of_each_token(
    adapters: list[int], num_in: int, rank: int, num_out: int, seed: int
) -> None:
    source = np.random.default_rng(seed)
    x, a, b = (
        source.standard_normal(shape, np.float32)
        for shape in ((len(adapters), num_in), (4, rank, num_in), (4, num_out, rank))
    )
    found = lora_delta(x, np.array(adapters, np.int64), a, b)
    assert (found.shape, found.dtype) == ((len(adapters), num_out), np.float32)
    for token, adapter in enumerate(adapters):
        want = b[adapter] @ (a[adapter] @ x[token]) if adapter != NO_ADAPTER else 0
        np.testing.assert_allclose(found[token], want, rtol=1e-4, atol=1e-4)


@modest
@given(ids, st.integers(1, 8))
def test_tiles_hold_every_token_once_with_its_adapter(adapters: list[int], tile_size: int) -> None:
    tiles = adapter_tiles(np.array(adapters, np.int64), tile_size)
    assert (tiles.rows.dtype, tiles.adapters.dtype) == (np.int32, np.int32)
    assert tiles.rows.shape == (len(tiles.adapters), tile_size)
    used = tiles.rows[tiles.rows >= 0]
    assert sorted(used.tolist()) == list(range(len(adapters)))
    for rows, adapter in zip(tiles.rows, tiles.adapters, strict=True):
        kept = rows[rows >= 0].tolist()
        assert kept == sorted(kept)
        assert {adapters[row] for row in kept} == {adapter}


@modest
@given(ids, st.integers(1, 8))
def test_tiles_are_as_few_as_can_be(adapters: list[int], tile_size: int) -> None:
    tiles = adapter_tiles(np.array(adapters, np.int64), tile_size)
    want = sum(-(-adapters.count(adapter) // tile_size) for adapter in set(adapters))
    assert len(tiles.adapters) == want
