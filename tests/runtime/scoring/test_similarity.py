"""The best documents of a query, against a full sort of all scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trine.runtime import InputError, maxsim, maxsim_top_k


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=40),
    tokens=st.integers(1, 40),
    k=st.integers(1, 50),
    seed=st.integers(0, 99),
)
def test_top_k_is_the_head_of_all_documents_sorted(
    lengths: list[int], tokens: int, k: int, seed: int
) -> None:
    source = np.random.default_rng(seed)
    query = source.standard_normal((tokens, 16), np.float32)
    documents = [source.standard_normal((length, 16), np.float32) for length in lengths]
    documents += documents[:2]  # equal scores
    scores = [sum(max(float(q @ d) for d in document) for q in query) for document in documents]
    found = maxsim_top_k(query, documents, k)
    assert len(found.indices) == min(k, len(documents))
    np.testing.assert_allclose(found.scores, sorted(scores, reverse=True)[:k], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found.scores, maxsim([query], documents)[0][found.indices])
    assert len(set(found.indices.tolist())) == len(found.indices)


def test_equal_documents_come_in_their_order() -> None:
    query, document = np.ones((2, 4), np.float32), np.ones((3, 4), np.float32)
    found = maxsim_top_k(query, [document] * 5, 3)
    assert found.indices.tolist() == [0, 1, 2]
    assert found.scores.tolist() == [8.0, 8.0, 8.0]


@pytest.mark.parametrize("k", [0, -1, True, 1.5])
def test_a_k_that_is_no_count_is_refused(k: object) -> None:
    rows = np.ones((2, 4), np.float32)
    with pytest.raises(InputError, match="whole number of at least 1"):
        maxsim_top_k(rows, [rows], k)  # type: ignore[arg-type]
