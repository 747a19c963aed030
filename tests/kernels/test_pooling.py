"""Mean, projection and normalisation, against the same in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from trine.kernels.pooling import l2_normalise, mean_rows, project, truncate

shapes = st.tuples(st.integers(1, 40), st.integers(1, 24))
values = st.floats(-1e4, 1e4, width=32)
matrices = shapes.flatmap(lambda shape: arrays(np.float32, shape, elements=values))
modest = settings(max_examples=80, deadline=None, derandomize=True)


@modest
@given(matrices)
def test_mean_is_that_of_float64(rows: NDArray[np.float32]) -> None:
    found = mean_rows(rows)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, rows.astype(np.float64).mean(axis=0).astype(np.float32))


def test_mean_of_many_rows_keeps_its_digits() -> None:
    """Summed in float32, a million rows would lose three digits."""
    rows = np.full((1_000_000, 1), 0.1, np.float32)
    assert mean_rows(rows)[0] == np.float32(0.1)


@modest
@given(matrices)
def test_vectors_have_length_one_and_keep_their_direction(rows: NDArray[np.float32]) -> None:
    found = l2_normalise(rows)
    assert found.dtype == np.float32
    length = np.linalg.norm(rows.astype(np.float64), axis=1)
    kept = length > 1e-10
    np.testing.assert_allclose(np.linalg.norm(found[kept], axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(found[kept] * length[kept, None], rows[kept], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7), (0, 7)])
def test_zero_vectors_stay_zero(shape: tuple[int, ...]) -> None:
    found = l2_normalise(np.zeros(shape, np.float32))
    assert found.shape == shape
    assert not found.any()


def test_large_values_do_not_overflow() -> None:
    found = l2_normalise(np.array([[3e38, 3e38]], np.float32))
    np.testing.assert_allclose(found, [[0.5**0.5] * 2], rtol=1e-6)


@modest
@given(st.integers(1, 20), st.integers(1, 30), st.integers(1, 10), st.integers(0, 99))
def test_projection_is_normalised_affine(tokens: int, hidden: int, dim: int, seed: int) -> None:
    source = np.random.default_rng(seed)
    rows, weight, bias = (
        source.standard_normal(shape, np.float32)
        for shape in ((tokens, hidden), (dim, hidden), (dim,))
    )
    want = rows.astype(np.float64) @ weight.T.astype(np.float64) + bias
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    found = project(rows, weight, bias)
    assert (found.shape, found.dtype) == ((tokens, dim), np.float32)
    np.testing.assert_allclose(found, want, atol=2e-5)


@modest
@given(matrices, st.integers(1, 24))
def test_truncation_normalises_again(rows: NDArray[np.float32], dim: int) -> None:
    vectors = l2_normalise(rows)
    found = truncate(vectors, dim)
    assert found.shape == (len(rows), min(dim, rows.shape[1]))
    np.testing.assert_array_equal(found, l2_normalise(vectors[:, :dim]))


def test_truncation_leaves_its_input_alone() -> None:
    vectors = l2_normalise(np.arange(1, 13, dtype=np.float32).reshape(3, 4))
    before = vectors.copy()
    truncate(vectors, 2)[:] = 0
    np.testing.assert_array_equal(vectors, before)
