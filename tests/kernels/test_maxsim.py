"""Late-interaction scores against their definition."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trine.kernels.maxsim import maxsim_scores

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
