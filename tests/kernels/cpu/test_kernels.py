"""Each compiled kernel against numpy, over awkward shapes."""

from itertools import pairwise
from math import erf

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trine.kernels.cpu.kernels import CpuKernels, Quantised, Side
from trine.kernels.cpu.library import NativeLibrary
from trine.kernels.cpu.packed import packed_bfloat16_layer, packed_layer
from trine.kernels.rotation import rotate_rows, rotated_width

RELAXED = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
Floats = NDArray[np.float32]


def random_floats(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def silu(x: Floats) -> Floats:
    return (x / (1 + np.exp(-x.astype(np.float64)))).astype(np.float32)


def quantise(x: Floats, inliers: Floats | None = None) -> tuple[NDArray[np.int32], Floats]:
    """The plain path: signed integers and scales."""
    seen = x if inliers is None else x * inliers
    scales = np.maximum(np.abs(seen).max(axis=1), 127e-30) * np.float32(1 / 127)
    inverse = np.float32(1) / scales
    return np.clip(np.rint(x * inverse[:, None]), -127, 127).astype(np.int32), scales


def random_quantised(kernels: CpuKernels, x: Floats) -> Quantised:
    rows = Quantised.empty(*x.shape)
    kernels.prepare_rows(x, rows)
    return rows


@RELAXED
@given(
    rows=st.integers(1, 40),
    width=st.integers(1, 150),
    seed=st.integers(0, 99),
    masked=st.booleans(),
)
def test_rows_are_normed_and_quantised_as_by_numpy(
    kernels: CpuKernels, rows: int, width: int, seed: int, masked: bool
) -> None:
    x = random_floats(seed, rows, width) * 10
    weight = random_floats(seed + 1, width)
    inliers = (np.arange(width) % 3 > 0).astype(np.float32) if masked else None
    out, normed = Quantised.empty(rows, width), np.empty_like(x)
    kernels.prepare_rows(x, out, norm_weight=weight, epsilon=1e-6, normed=normed, inliers=inliers)
    expected = (
        x / np.sqrt(np.mean(x.astype(np.float64) ** 2, axis=1, keepdims=True) + 1e-6) * weight
    )
    np.testing.assert_allclose(normed, expected, rtol=2e-6, atol=1e-6)
    values, scales = quantise(normed, inliers)
    np.testing.assert_allclose(out.scales, scales, rtol=1e-6)
    # A number may lie on the edge between two integers, as its scale is rounded.
    assert np.abs(out.values[:, :width].astype(np.int32) - 128 - values).max() <= 1
    assert np.mean(out.values[:, :width].astype(np.int32) - 128 != values) < 0.01


@RELAXED
@given(
    rows=st.integers(1, 9),
    width=st.integers(1, 300),
    seed=st.integers(0, 99),
    masked=st.booleans(),
    is_normed=st.booleans(),
)
def test_rows_are_rotated_and_quantised_as_by_numpy(
    kernels: CpuKernels, rows: int, width: int, seed: int, masked: bool, is_normed: bool
) -> None:
    x = random_floats(seed, rows, width) ** 3
    weight = np.ones(width, np.float32) if is_normed else None
    inliers = (np.arange(width) % 3 > 0).astype(np.float32) if masked else None
    out = Quantised.empty(rows, rotated_width(width))
    kernels.prepare_rows(x, out, norm_weight=weight, inliers=inliers, rotated=True)
    read = x / np.sqrt(np.mean(x**2, axis=1, keepdims=True)) if is_normed else x
    values, scales = quantise(rotate_rows(read if inliers is None else read * inliers))
    np.testing.assert_allclose(out.scales, scales, rtol=1e-5)
    differences = np.abs(out.values.astype(np.int32) - 128 - values)
    assert differences.max() <= 1
    assert np.mean(differences != 0) < 0.01


def test_a_row_of_zeros_stays_zero(kernels: CpuKernels) -> None:
    out = random_quantised(kernels, np.zeros((3, 20), np.float32))
    assert (out.values == 128).all()
    assert (out.scales > 0).all()


@RELAXED
@given(
    # Few rows go through a long depth in stretches.
    rows=st.one_of(st.integers(1, 30), st.integers(95, 98)),
    depth=st.one_of(st.integers(1, 130), st.sampled_from([2048, 2051, 4300])),
    columns=st.integers(1, 150),
    seed=st.integers(0, 99),
    add=st.booleans(),
)
def test_int8_products_are_exact(
    kernels: CpuKernels, rows: int, depth: int, columns: int, seed: int, add: bool
) -> None:
    generator = np.random.default_rng(seed)
    weight = generator.integers(-127, 128, (depth, columns), np.int8)
    scales = generator.random(columns, np.float32) + np.float32(0.1)
    bias = random_floats(seed, columns)
    x = random_quantised(kernels, random_floats(seed + 1, rows, depth))
    packed = packed_layer(kernels.pack(weight), weight.shape, [scales], [bias])
    out = random_floats(seed + 2, rows, columns)
    before = out.copy() if add else np.zeros_like(out)
    kernels.linear_int8(x, packed, out, add=add)
    sums = (x.values[:, :depth].astype(np.int64) - 128) @ weight.astype(np.int64)
    expected = sums * scales.astype(np.float64) * x.scales[:, None] + bias + before
    np.testing.assert_allclose(out, expected, rtol=3e-6, atol=1e-5)


@RELAXED
@given(
    rows=st.integers(1, 20),
    depth=st.one_of(st.integers(1, 70), st.just(2100)),
    columns=st.integers(1, 110),
    seed=st.integers(0, 99),
)
def test_gated_pairs_are_silu_of_one_times_the_other(
    kernels: CpuKernels, rows: int, depth: int, columns: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    weights = [generator.integers(-127, 128, (depth, columns), np.int8) for _ in range(2)]
    # Halves of about one size whatever the depth: float32 rounds large ones in larger steps.
    size = np.float32(0.15 * depth**-0.5)
    scales = [generator.random(columns, np.float32) * size for _ in range(2)]
    biases = [random_floats(seed, columns), None]
    x = random_quantised(kernels, random_floats(seed + 1, rows, depth))
    ranks = 3
    sides = [
        Side(random_floats(i, rows, ranks), random_floats(i + 9, ranks, columns), None, ranks)
        for i in range(2)
    ]
    out = np.empty((rows, columns), np.float32)
    packed = packed_layer(kernels.pack(*weights), (depth, columns), scales, biases)
    kernels.linear_int8(x, packed, out, (sides[0], None, sides[1]))
    halves = []
    for weight, scale, bias, side in zip(weights, scales, biases, sides, strict=True):
        sums = (x.values[:, :depth].astype(np.int64) - 128) @ weight.astype(np.int64)
        half = sums * scale.astype(np.float64) * x.scales[:, None] + side.factors @ side.matrix
        halves.append(half if bias is None else half + bias)
    expected = silu(halves[0].astype(np.float32)) * halves[1]
    np.testing.assert_allclose(out, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("number", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("mixed", [False, True], ids=["one-adapter", "mixed-adapters"])
def test_low_ranks_are_added_in_float32(kernels: CpuKernels, number: str, mixed: bool) -> None:
    rows, depth, columns, ranks = 23, 50, 90, 5
    x = random_floats(1, rows, depth)
    a, b = random_floats(2, 3 * ranks, depth), random_floats(3, 3 * ranks, columns)
    stored_a, stored_b = (_stored(matrix, number) for matrix in (a, b))
    read_a, read_b = (_read(matrix, number) for matrix in (stored_a, stored_b))
    slots = np.random.default_rng(4).integers(0, 3, rows) if mixed else np.full(rows, 1)
    first = (slots * ranks).astype(np.int32)
    factors = np.full((rows, 3 * ranks), np.nan, np.float32)
    kernels.project(x, stored_a, factors, first, ranks)
    quantised = random_quantised(kernels, x)
    weight = np.zeros((depth, columns), np.int8)
    ones = np.ones(columns, np.float32)
    packed = packed_layer(kernels.pack(weight), weight.shape, [ones], [None])
    out = np.empty((rows, columns), np.float32)
    kernels.linear_int8(quantised, packed, out, (Side(factors, stored_b, first, ranks),))
    for row, start in enumerate(first):
        own = slice(start, start + ranks)
        expected = (read_a[own] @ x[row]) @ read_b[own]
        np.testing.assert_allclose(out[row], expected, rtol=1e-4, atol=1e-4)


def _stored(matrix: Floats, number: str) -> NDArray[np.generic]:
    if number == "bfloat16":
        return (matrix.view(np.uint32) >> 16).astype(np.uint16)
    return matrix.astype(number)


def _read(matrix: NDArray[np.generic], number: str) -> Floats:
    if number == "bfloat16":
        return (matrix.astype(np.uint32) << 16).view(np.float32)
    return matrix.astype(np.float32)


def _rounded(x: Floats) -> Floats:
    """Return float32 at the nearest bfloat16, half to even."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)


@RELAXED
@given(
    rows=st.integers(1, 40),
    depth=st.one_of(st.integers(1, 90), st.just(1100)),
    columns=st.integers(1, 150),
    add=st.booleans(),
    biased=st.booleans(),
)
def test_products_in_bfloat16_are_those_of_rounded_numbers(
    kernels: CpuKernels, rows: int, depth: int, columns: int, add: bool, biased: bool
) -> None:
    x = random_floats(1, rows, depth + 3)[:, :depth]
    weight = _stored(random_floats(2, depth, columns), "bfloat16")
    bias = random_floats(3, columns) if biased else None
    out = random_floats(4, rows, columns)
    expected = _rounded(x.copy()).astype(np.float64) @ _read(weight, "bfloat16")
    expected += (out if add else 0) + (0 if bias is None else bias)
    packed = packed_bfloat16_layer(kernels.pack_bfloat16(weight), (depth, columns), [bias])
    kernels.linear_bfloat16(x, packed, out, add=add)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-4)


def test_a_row_in_bfloat16_alone_is_the_row_among_others(kernels: CpuKernels) -> None:
    depth, columns = 300, 100
    x = random_floats(1, 70, depth)
    weight = _stored(random_floats(2, depth, columns), "bfloat16")
    packed = packed_bfloat16_layer(kernels.pack_bfloat16(weight), (depth, columns), [None])
    together = np.empty((len(x), columns), np.float32)
    kernels.linear_bfloat16(x, packed, together)
    for count in (1, 2, 5, 17, 33):
        alone = np.empty((count, columns), np.float32)
        kernels.linear_bfloat16(x[-count:], packed, alone)
        np.testing.assert_array_equal(alone, together[-count:])


def test_a_gated_pair_in_bfloat16_is_silu_of_one_times_the_other(kernels: CpuKernels) -> None:
    rows, depth, columns, ranks = 19, 70, 77, 3
    x = random_floats(1, rows, depth)
    weights = [_stored(random_floats(seed, depth, columns), "bfloat16") for seed in (2, 3)]
    biases = [random_floats(4, columns), None]
    factors, matrices = random_floats(5, rows, ranks), random_floats(6, 2, ranks, columns)
    sides = [Side(factors, matrix, None, ranks) for matrix in matrices]
    packed = packed_bfloat16_layer(kernels.pack_bfloat16(*weights), (depth, columns), biases)
    out = np.empty((rows, columns), np.float32)
    kernels.linear_bfloat16(x, packed, out, (sides[0], None, sides[1]))
    halves = []
    for weight, bias, matrix in zip(weights, biases, matrices, strict=True):
        half = _rounded(x).astype(np.float64) @ _read(weight, "bfloat16") + factors @ matrix
        halves.append(half if bias is None else half + bias)
    expected = silu(halves[0].astype(np.float32)) * halves[1]
    np.testing.assert_allclose(out, expected, rtol=2e-4, atol=2e-4)


def test_numbers_that_are_none_and_too_large_stay_so_in_bfloat16(kernels: CpuKernels) -> None:
    x = np.array([[np.nan], [np.inf], [-np.inf], [3.4e38], [1.00390625], [1.01171875]], np.float32)
    x[0] = np.array([0x7FFFFFFF], np.uint32).view(np.float32)
    weight = _stored(np.ones((1, 1), np.float32), "bfloat16")
    packed = packed_bfloat16_layer(kernels.pack_bfloat16(weight), (1, 1), [None])
    out = np.empty((len(x), 1), np.float32)
    kernels.linear_bfloat16(x, packed, out)
    # Halves go to the even neighbour: 1 + 1/256 down to 1, 1 + 3/256 up to 1 + 4/256.
    expected = [np.nan, np.inf, -np.inf, np.inf, 1.0, 1.015625]
    np.testing.assert_array_equal(out[:, 0], np.array(expected, np.float32))


@RELAXED
@given(
    rows=st.integers(1, 30),
    depth=st.one_of(st.integers(1, 90), st.just(1100)),
    columns=st.integers(1, 150),
    add=st.booleans(),
)
def test_float_products_are_those_of_numpy(
    kernels: CpuKernels, rows: int, depth: int, columns: int, add: bool
) -> None:
    x, weight, bias = (
        random_floats(1, rows, depth),
        random_floats(2, depth, columns),
        random_floats(3, columns),
    )
    out = random_floats(4, rows, columns)
    expected = x.astype(np.float64) @ weight + bias + (out if add else 0)
    kernels.linear_float(x, weight, out, bias, add)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-4)


def plain_attention(
    q: Floats, k: Floats, v: Floats, starts: list[int], heads: tuple[int, int], causal: bool
) -> Floats:
    head_dim = q.shape[1] // heads[0]
    out = np.empty(q.shape, np.float64)
    for first, last in pairwise(starts):
        for head in range(heads[0]):
            own = slice(head * head_dim, (head + 1) * head_dim)
            kv_head = head // (heads[0] // heads[1])
            shared = slice(kv_head * head_dim, (kv_head + 1) * head_dim)
            scores = q[first:last, own].astype(np.float64) @ k[first:last, shared].T
            scores /= head_dim**0.5
            if causal:
                scores[np.triu_indices(last - first, 1)] = -np.inf
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            weights /= weights.sum(axis=1, keepdims=True)
            out[first:last, own] = weights @ v[first:last, shared]
    return out.astype(np.float32)


@RELAXED
@given(
    lengths=st.lists(st.one_of(st.integers(1, 20), st.integers(45, 300)), min_size=1, max_size=4),
    head_dim=st.sampled_from([2, 8, 16, 20, 44, 64, 80, 128, 130]),
    heads=st.sampled_from([(1, 1), (4, 2), (6, 1), (3, 3)]),
    causal=st.booleans(),
    size=st.sampled_from([(1.0, 0.0), (30.0, 0.0), (1.0, 1000.0), (30.0, 1000.0)]),
    bfloat16=st.booleans(),
    exact=st.booleans(),
)
def test_attention_is_that_of_numpy(  # noqa: PLR0913 - what attention depends on
    library: NativeLibrary,
    lengths: list[int],
    head_dim: int,
    heads: tuple[int, int],
    causal: bool,
    size: tuple[float, float],
    bfloat16: bool,
    exact: bool,
) -> None:
    kernels = CpuKernels(2, bfloat16=bfloat16, library=library)
    starts = np.cumsum([0, *lengths])
    sizes = [heads[0] * head_dim, heads[1] * head_dim, heads[1] * head_dim]
    packed = random_floats(sum(lengths), int(starts[-1]), sum(sizes))
    q, k, v = np.split(packed, np.cumsum(sizes)[:2], axis=1)
    spread, bias = size
    q *= np.float32(spread)
    k += np.float32(bias)
    out = np.empty((len(q), sizes[0]), np.float32)
    kernels.attention(q, k, v, out, starts, heads, causal, exact=exact)
    expected = plain_attention(q, k, v, starts.tolist(), heads, causal)
    # A score's rounding is that of its size, 2^-24 of which is left in its exponential.
    atol = 2e-5 * spread * (1 + bias / 4) + (0.03 if kernels.bfloat16 and not exact else 0)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=atol)
    # In the queries' own place, among keys and values that stay.
    kept = packed[:, sizes[0] :].copy()
    kernels.attention(q, k, v, q, starts, heads, causal, exact=exact)
    np.testing.assert_array_equal(q, out)
    np.testing.assert_array_equal(packed[:, sizes[0] :], kept)


@RELAXED
@given(
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 599), max_size=4),
    bfloat16=st.booleans(),
)
def test_attention_in_strips_of_queries_is_that_of_all(
    library: NativeLibrary, lengths: list[int], cuts: list[int], bfloat16: bool
) -> None:
    kernels = CpuKernels(2, bfloat16=bfloat16, library=library)
    heads, head_dim, starts = (4, 2), 32, np.cumsum([0, *lengths])
    tokens = int(starts[-1])
    q, k, v = (random_floats(i, tokens, n * head_dim) for i, n in enumerate((4, 2, 2)))
    whole, parts = np.empty_like(q), np.empty_like(q)
    kernels.attention(q, k, v, whole, starts, heads, True)
    for first, last in pairwise(sorted({0, tokens, *(cut for cut in cuts if cut < tokens)})):
        # Keys after the last query need not be there yet.
        keys, values = k.copy(), v.copy()
        keys[last:], values[last:] = np.nan, np.nan
        part = slice(first, last)
        kernels.attention(q[part], keys, values, parts[part], starts, heads, True, first)
    np.testing.assert_array_equal(parts, whole)


def test_attention_alone_and_among_others_is_the_same(kernels: CpuKernels) -> None:
    heads, head_dim, lengths = (4, 2), 32, [70, 5, 131]
    starts = np.cumsum([0, *lengths])
    q, k, v = (random_floats(i, int(starts[-1]), n * head_dim) for i, n in enumerate((4, 2, 2)))
    together = np.empty_like(q)
    kernels.attention(q, k, v, together, starts, heads, True)
    for first, last in pairwise(starts):
        alone = np.empty_like(q[first:last])
        part = slice(first, last)
        kernels.attention(
            q[part], k[part], v[part], alone, np.array([0, last - first]), heads, True
        )
        np.testing.assert_array_equal(alone, together[part])


def test_rotation_turns_the_halves_of_a_head(kernels: CpuKernels) -> None:
    rows, heads, half = 9, 3, 20
    x = random_floats(1, rows, heads * 2 * half + 7)
    angles = random_floats(2, rows, half)
    cosines, sines = np.cos(angles), np.sin(angles)
    expected = x.copy()
    for head in range(heads):
        a = x[:, head * 2 * half :][:, :half]
        b = x[:, head * 2 * half + half :][:, :half]
        expected[:, head * 2 * half :][:, :half] = a * cosines - b * sines
        expected[:, head * 2 * half + half :][:, :half] = b * cosines + a * sines
    kernels.rotate(x, heads, cosines, sines)
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)


def test_activations(kernels: CpuKernels) -> None:
    x = np.concatenate([np.linspace(-100, 100, 999, dtype=np.float32), random_floats(1, 1000)])
    gelu = x.copy()
    kernels.gelu(gelu)
    phi = np.array([0.5 * (1 + erf(value / 2**0.5)) for value in x.tolist()])
    np.testing.assert_allclose(gelu, x * phi, rtol=1e-5, atol=4e-7)
    gate, up = x.copy(), random_floats(2, len(x))
    kernels.swiglu(gate, up)
    np.testing.assert_allclose(gate, silu(x) * up, rtol=1e-5, atol=1e-6)
