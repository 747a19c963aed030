"""Late-interaction scores against their definition."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trine.kernels.maxsim import largest, maxsim_scores, maxsim_with_numpy

lengths = st.lists(st.integers(1, 9), max_size=5)


def vectors(lengths: list[int], dim: int, seed: int) -> list[NDArray[np.float32]]:
    source = np.random.default_rng(seed)
    return [source.standard_normal((length, dim), np.float32) for length in lengths]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(lengths, lengths, st.integers(1, 8), st.integers(0, 99))
def test_scores_are_sums_of_best_matches(
    query_lengths: list[int], document_lengths: list[int], dim: int, seed: int
) -> None:
    queries, documents = vectors(query_lengths, dim, seed), vectors(document_lengths, dim, seed + 1)
    found = maxsim_scores(queries, documents)
    assert found.shape == (len(queries), len(documents))
    assert found.dtype == np.float32
    for row, query in enumerate(queries):
        for column, document in enumerate(documents):
            want = sum(max(float(q @ d) for d in document) for q in query)
            np.testing.assert_allclose(found[row, column], want, atol=1e-4)


def test_query_without_tokens_scores_nothing() -> None:
    queries = [np.empty((0, 4), np.float32), np.ones((2, 4), np.float32)]
    scores = maxsim_scores(queries, [np.ones((3, 4), np.float32)])
    assert scores.tolist() == [[0.0], [8.0]]


def test_negative_matches_count() -> None:
    scores = maxsim_scores([np.ones((1, 2), np.float32)], [-np.ones((3, 2), np.float32)])
    assert scores.tolist() == [[-2.0]]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(0, 70), min_size=1, max_size=4),
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.integers(1, 140),
    st.sampled_from((np.float32, np.float16, np.int8)),
)
def test_compiled_kernel_and_numpy_agree(
    query_lengths: list[int], document_lengths: list[int], dim: int, dtype: type[np.generic]
) -> None:
    queries = vectors(query_lengths, dim, 1)
    documents = [(document * 20).astype(dtype) for document in vectors(document_lengths, dim, 2)]
    found = maxsim_scores(queries, documents)
    want = maxsim_with_numpy(queries, documents)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-3 * dim)


def test_documents_of_any_layout_and_of_mixed_types_are_scored() -> None:
    query, document = vectors([3], 8, 0)[0], vectors([6], 8, 1)[0]
    turned, half = np.asfortranarray(document), document.astype(np.float16)
    scores = maxsim_scores([query], [document, turned, document[::2], half])
    want = maxsim_with_numpy([query], [document, document, document[::2].copy(), half])
    np.testing.assert_allclose(scores, want, rtol=1e-5)


def test_more_query_tokens_than_are_scored_at_once() -> None:
    queries, documents = vectors([700, 1500, 0, 3], 4, 0), vectors([5, 2], 4, 1)
    found = maxsim_scores(queries, documents)
    np.testing.assert_allclose(found, maxsim_with_numpy(queries, documents), rtol=1e-4)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(1, 40))
def test_the_largest_come_first_and_ties_in_order(values: list[int], k: int) -> None:
    found = largest(np.array(values, np.float32), k).tolist()
    assert found == sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
