"""Packed and quantised vectors, against the formulas of sentence-transformers written out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from trine.kernels.quantise import (
    dequantise_int8,
    hamming_distances,
    pack_binary,
    pack_ubinary,
    quantise_int8,
    to_float16,
    unpack_signs,
)

values = st.floats(-1, 1, width=32)
shapes = st.tuples(st.integers(1, 12), st.integers(1, 40))
matrices = shapes.flatmap(lambda shape: arrays(np.float32, shape, elements=values))
modest = settings(max_examples=80, deadline=None, derandomize=True)


def _ranges(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack([vectors.min(axis=0), vectors.max(axis=0)])


@modest
@given(matrices)
def test_bits_are_signs_with_the_first_dimension_on_top(vectors: NDArray[np.float32]) -> None:
    packed = pack_ubinary(vectors)
    assert (packed.dtype, packed.shape) == (np.uint8, (len(vectors), -(-vectors.shape[1] // 8)))
    for row, bits in zip(vectors, packed, strict=True):
        text = "".join(f"{byte:08b}" for byte in bits.tolist())
        assert text == "".join("1" if value > 0 else "0" for value in row).ljust(len(text), "0")


def test_bits_of_a_known_vector() -> None:
    vector = np.array([[0.1, -0.1, 0.0, -0.0, 1e-30, -1, -1, 1, 0.5]], np.float32)
    np.testing.assert_array_equal(pack_ubinary(vector), [[0b10001001, 0b10000000]])
    np.testing.assert_array_equal(pack_binary(vector), [[0b10001001 - 128, 0]])


@modest
@given(matrices)
def test_binary_is_ubinary_less_128(vectors: NDArray[np.float32]) -> None:
    packed = pack_binary(vectors)
    assert packed.dtype == np.int8
    np.testing.assert_array_equal(packed.astype(int), pack_ubinary(vectors).astype(int) - 128)


@modest
@given(st.integers(1, 9), st.integers(1, 8), st.integers(0, 99))
def test_packing_is_that_of_sentence_transformers(rows: int, num_bytes: int, seed: int) -> None:
    """`packbits(x > 0).reshape(B, -1)`, and that less 128 cast to int8."""
    vectors = np.random.default_rng(seed).standard_normal((rows, num_bytes * 8), np.float32)
    theirs = np.packbits(vectors > 0).reshape(rows, -1)
    np.testing.assert_array_equal(pack_ubinary(vectors), theirs)
    np.testing.assert_array_equal(pack_binary(vectors), (theirs - 128).astype(np.int8))


@modest
@given(st.integers(2, 40), st.integers(1, 40), st.integers(0, 99))
def test_int8_is_that_of_sentence_transformers(rows: int, dim: int, seed: int) -> None:
    """`((x - starts) / steps - 128).astype(int8)` for values inside their ranges, to the bit."""
    vectors = np.random.default_rng(seed).standard_normal((rows, dim), np.float32)
    ranges = _ranges(vectors)
    theirs = (vectors - ranges[0, :]) / ((ranges[1, :] - ranges[0, :]) / 255) - 128
    inside = (theirs >= -128) & (theirs < 128)
    assert inside.mean() > 0.5
    found = quantise_int8(vectors, ranges)
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found[inside], theirs[inside].astype(np.int8))


def test_int8_reaches_both_ends_and_clips_beyond_them() -> None:
    ranges = np.array([[-64.0], [191.0]], np.float32)  # a step of 1
    found = quantise_int8(np.array([[-64], [191], [-999], [999], [64.5]], np.float32), ranges)
    np.testing.assert_array_equal(found[:, 0], [-128, 127, -128, 127, 0])


def test_int8_of_an_empty_range_is_0_and_comes_back_as_its_value() -> None:
    ranges = np.array([[0.25, 0], [0.25, 255]], np.float32)
    codes = quantise_int8(np.array([[0.25, 255], [7, 0]], np.float32), ranges)
    np.testing.assert_array_equal(codes, [[0, 127], [0, -128]])
    np.testing.assert_array_equal(dequantise_int8(codes, ranges)[:, 0], [0.25, 0.25])


@modest
@given(matrices)
def test_int8_comes_back_within_its_step(vectors: NDArray[np.float32]) -> None:
    ranges = _ranges(vectors)
    codes = quantise_int8(vectors, ranges)
    step = (ranges[1] - ranges[0]) / np.float32(255)
    error = np.abs(dequantise_int8(codes, ranges) - vectors)
    # Float32 rounds (x - low) / step by up to 2^-23 of 255 steps, and x itself by 2^-24.
    assert (error <= np.where(codes == 0, 1.001, 0.501) * step + 3e-7).all()


@modest
@given(matrices)
def test_int8_keeps_the_order_of_values(vectors: NDArray[np.float32]) -> None:
    ranges = _ranges(vectors)
    ordered = np.sort(vectors, axis=0)
    assert (np.diff(quantise_int8(ordered, ranges).astype(int), axis=0) >= 0).all()


@modest
@given(matrices)
def test_signs_come_back_from_both_packings(vectors: NDArray[np.float32]) -> None:
    want = np.where(vectors > 0, 1, -1).astype(np.float32)
    for packed in (pack_ubinary(vectors), pack_binary(vectors)):
        found = unpack_signs(packed, vectors.shape[1])
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, want)


@modest
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 70), st.integers(0, 99))
def test_distances_count_differing_bits(queries: int, rows: int, dim: int, seed: int) -> None:
    source = np.random.default_rng(seed)
    left, right = (source.standard_normal((n, dim), np.float32) for n in (queries, rows))
    want = ((left[:, None] > 0) != (right[None] > 0)).sum(axis=2)
    for pack in (pack_ubinary, pack_binary):
        found = hamming_distances(pack(left), pack(right))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, want)


@modest
@given(matrices)
def test_float16_is_the_nearest(vectors: NDArray[np.float32]) -> None:
    found = to_float16(vectors)
    assert found.dtype == np.float16
    # Below 2^-14 float16 has a fixed step of 2^-24.
    np.testing.assert_allclose(found.astype(np.float32), vectors, rtol=2**-11, atol=2**-25)


@pytest.mark.parametrize("shape", [(0, 16), (16,), (2, 3, 16)])
def test_any_number_of_leading_axes(shape: tuple[int, ...]) -> None:
    vectors = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    ranges = np.array([[-3.0] * 16, [3.0] * 16], np.float32)
    assert pack_ubinary(vectors).shape == pack_binary(vectors).shape == (*shape[:-1], 2)
    assert dequantise_int8(quantise_int8(vectors, ranges), ranges).shape == shape


def test_inputs_are_left_alone() -> None:
    vectors = np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 16)
    ranges = _ranges(vectors)
    before = vectors.copy(), ranges.copy()
    hamming_distances(pack_binary(vectors), pack_binary(vectors))
    dequantise_int8(quantise_int8(vectors, ranges), ranges)
    np.testing.assert_array_equal(vectors, before[0])
    np.testing.assert_array_equal(ranges, before[1])
