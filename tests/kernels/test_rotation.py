"""Rotation: products stay what they were, and spikes are shared out."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trine.kernels.rotation import (
    ROTATION,
    hadamard,
    rotate_rows,
    rotate_weight,
    rotated_width,
)


def test_the_matrix_is_symmetric_and_its_own_inverse() -> None:
    matrix = hadamard()
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_array_equal(matrix @ matrix, np.eye(ROTATION, dtype=np.float32))


@given(
    rows=st.integers(1, 5),
    num_in=st.integers(1, 200),
    num_out=st.integers(1, 9),
    seed=st.integers(0, 9),
)
def test_products_of_rotated_rows_and_weights_are_the_same(
    rows: int, num_in: int, num_out: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    # Small whole numbers: rotated they are eighths, which float32 multiplies and adds exactly.
    x = generator.integers(-3, 4, (rows, num_in)).astype(np.float32)
    weight = generator.integers(-3, 4, (num_in, num_out)).astype(np.float32)
    turned = rotate_rows(x)
    assert turned.shape == (rows, rotated_width(num_in))
    np.testing.assert_array_equal(turned @ rotate_weight(weight), x @ weight)


def test_a_spike_is_shared_out_among_its_block() -> None:
    x = np.zeros((1, 3 * ROTATION), np.float32)
    x[0, ROTATION + 5] = 8
    np.testing.assert_array_equal(np.abs(rotate_rows(x)[0]), np.repeat([0, 1, 0], ROTATION))
