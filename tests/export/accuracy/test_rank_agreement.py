"""Agreement of vectors and rankings: by hand, by brute force, and of broken vectors."""

import dataclasses
import json
import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trine.export.accuracy.rank_agreement import (
    CorpusVectors,
    RankAgreement,
    VectorAgreement,
    Vectors,
    measure_agreement,
    rank_agreement,
    vector_agreement,
)
from trine.export.calibration.corpus import RankingCorpus, built_in_corpus

Array = NDArray[np.float32]


def _ranks(reference: Array, found: Array) -> RankAgreement:
    return rank_agreement(reference, found, task="a", modality="text", head="single")


def _cosines(reference: Array, found: Array) -> VectorAgreement:
    return vector_agreement(reference, found, task="a", modality="text", head="multi")


def _normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@st.composite
def _scores(draw: st.DrawFn) -> tuple[Array, Array]:
    shape = draw(st.integers(1, 3)), draw(st.integers(2, 14))
    values = st.lists(st.integers(-3, 3), min_size=shape[1], max_size=shape[1])
    first, second = ([draw(values) for _ in range(shape[0])] for _ in range(2))
    return np.array(first, np.float32), np.array(second, np.float32)


def _literal_ndcg(reference: list[float], found: list[float]) -> float:
    size = len(reference)
    depth = min(10, size)
    order, engine = (
        sorted(range(size), key=lambda column: (-row[column], column)) for row in (reference, found)
    )
    gains = {column: max(0, depth - place) for place, column in enumerate(order)}
    dcg, ideal = (
        sum(gains[column] / math.log2(place + 2) for place, column in enumerate(ranking[:depth]))
        for ranking in (engine, order)
    )
    return dcg / ideal


def _literal_kendall(first: list[float], second: list[float]) -> float:
    pairs = list(combinations(range(len(first)), 2))
    signs = [(np.sign(first[i] - first[j]), np.sign(second[i] - second[j])) for i, j in pairs]
    untied = [sum(1 for pair in signs if pair[side]) for side in (0, 1)]
    if 0 in untied:
        return float(untied[0] == untied[1])
    return float(sum(a * b for a, b in signs)) / math.sqrt(untied[0] * untied[1])


#: Their correlations are alike, and the mean of those must be neither more nor less.
THREE_ALIKE = np.array([[0, 1]] * 3, np.float32)


@given(_scores())
@example((THREE_ALIKE, THREE_ALIKE))
def test_measures_are_what_their_definitions_say(scores: tuple[Array, Array]) -> None:
    reference, found = scores
    result = _ranks(reference, found)
    rows = list(zip(reference.tolist(), found.tolist(), strict=True))
    assert result.ndcg_at_10 == pytest.approx(np.mean([_literal_ndcg(*row) for row in rows]))
    assert result.kendall == pytest.approx(np.mean([_literal_kendall(*row) for row in rows]))
    assert 0 <= result.overlap_at_10 <= 1
    assert -1 <= result.worst_pearson <= result.pearson <= 1
    for measured, wanted in zip(found, reference, strict=True):
        if measured.std() and wanted.std():
            expected = np.corrcoef(measured, wanted)[0, 1]
            assert _ranks(wanted[None], measured[None]).pearson == pytest.approx(expected, abs=1e-6)


@given(_scores())
def test_the_same_scores_agree_fully(scores: tuple[Array, Array]) -> None:
    result = _ranks(scores[0], scores[0])
    assert (result.ndcg_at_10, result.overlap_at_10) == (1.0, 1.0)
    assert result.kendall == pytest.approx(1.0)
    assert result.worst_pearson == pytest.approx(1.0)


@given(st.permutations(range(12)), st.integers(0, 10))
def test_a_swap_of_neighbours_costs_little_and_never_nothing_at_the_top(
    order: list[int], place: int
) -> None:
    reference = np.array([order], np.float32)
    ranking = np.argsort(-reference[0])
    found = reference.copy()
    first, second = ranking[place], ranking[place + 1]
    found[0, [first, second]] = found[0, [second, first]]
    result = _ranks(reference, found)
    assert result.ndcg_at_10 > 0.98
    assert (result.ndcg_at_10 == 1) == (place == 10)
    assert result.overlap_at_10 == (0.9 if place == 9 else 1.0)
    assert result.kendall == pytest.approx(1 - 2 * 2 / (12 * 11))


def test_opposite_scores_disagree_fully() -> None:
    reference = np.arange(30, dtype=np.float32)[None]
    result = _ranks(reference, -reference)
    assert (result.ndcg_at_10, result.overlap_at_10) == (0.0, 0.0)
    assert (result.kendall, result.pearson) == pytest.approx((-1.0, -1.0))


def test_scores_that_are_all_equal_correlate_only_with_such() -> None:
    flat, rising = np.full((1, 5), 0.1, np.float32), np.arange(5, dtype=np.float32)[None]
    assert (_ranks(flat, flat).pearson, _ranks(flat, flat).kendall) == (1.0, 1.0)
    assert (_ranks(rising, flat).pearson, _ranks(rising, flat).kendall) == (0.0, 0.0)


def test_scores_that_are_not_finite_rank_last() -> None:
    reference = np.arange(20, 0, -1, dtype=np.float32)[None]
    found = reference.copy()
    found[0, :3] = np.nan, np.inf, -np.inf
    result = _ranks(reference, found)
    assert result.overlap_at_10 == pytest.approx(0.7)
    assert result.ndcg_at_10 < 0.7
    assert np.isfinite(dataclasses.astuple(result)[5:]).all()


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4))),
        (np.zeros((2, 1)), np.zeros((2, 1))),
        (np.zeros((0, 3)), np.zeros((0, 3))),
        (np.full((2, 3), np.nan), np.zeros((2, 3))),
    ],
)
def test_scores_that_make_no_ranking_are_refused(reference: Array, found: Array) -> None:
    with pytest.raises(ValueError, match="give"):
        _ranks(reference, found)


def test_cosines_are_summed_up() -> None:
    angles = np.linspace(0, 0.5, 201)
    reference = np.tile(np.array([1, 0], np.float32), (201, 1))
    found = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32) * 3
    result = _cosines(reference, found)
    assert result.num_vectors == 201
    assert result.worst == pytest.approx(np.cos(0.5))
    assert result.mean == pytest.approx(np.cos(angles).mean())
    assert result.p1 == pytest.approx(np.cos(angles[198]))


@given(st.integers(1, 40), st.integers(1, 9))
def test_a_vector_agrees_with_itself_at_any_length(count: int, size: int) -> None:
    rows = _normal(count, size, seed=count) + np.float32(1e-3)
    result = _cosines(rows, rows * np.float32(0.3))
    assert result.worst == pytest.approx(1)
    assert result.worst <= result.p1 <= 1


def test_broken_vectors_are_the_worst() -> None:
    reference = _normal(4, 3)
    found = reference.copy()
    found[1], found[2] = np.nan, 0
    result = _cosines(reference, found)
    assert result.worst == -1
    assert result.mean == pytest.approx((1 - 1 + 0 + 1) / 4)


def test_vectors_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="give the same"):
        _cosines(_normal(3, 4), _normal(3, 5))


def _encoded(corpus: RankingCorpus, noise: float) -> CorpusVectors:
    def vectors(count: int, seed: int) -> Vectors:
        def normalised(shape: tuple[int, int], part: int) -> Array:
            rows = _normal(*shape, seed=part) + noise * _normal(*shape, seed=part + 1000)
            return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

        multi = [normalised((2 + item % 5, 8), seed + item) for item in range(count)]
        return Vectors(single=normalised((count, 64), seed + 500), multi=multi)

    return CorpusVectors(
        queries=vectors(len(corpus.queries), 1),
        passages=vectors(len(corpus.passages), 2),
        images=vectors(len(corpus.images), 3),
    )


def test_a_corpus_is_measured_by_modality_and_head() -> None:
    corpus = built_in_corpus("full")
    exact = _encoded(corpus, 0)
    same, near, far = (
        measure_agreement("code", exact, _encoded(corpus, noise)) for noise in (0, 0.02, 1)
    )
    groups = [(row.modality, row.head) for row in same.vectors]
    assert groups == [
        ("text", "single"),
        ("text", "multi"),
        ("image", "single"),
        ("image", "multi"),
    ]
    assert [(row.modality, row.head) for row in same.rankings] == groups
    assert [row.num_documents for row in same.rankings] == [139, 139, 24, 24]
    assert same.vectors[0].num_vectors == 60 + 139
    assert all(row.ndcg_at_10 == 1 for row in same.rankings)
    assert all(row.worst == pytest.approx(1) for row in same.vectors)
    for closer, further in zip(near.rankings, far.rankings, strict=True):
        assert 0.9 < closer.ndcg_at_10 <= 1
        assert further.ndcg_at_10 < closer.ndcg_at_10
        assert further.pearson < 0.99 < closer.pearson
        assert further.kendall < closer.kendall
    content = json.loads(json.dumps(dataclasses.asdict(near)))
    assert content["rankings"][3]["task"] == "code"
