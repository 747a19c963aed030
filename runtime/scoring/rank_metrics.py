"""Measures of rankings: recall, reciprocal rank and discounted cumulative gain.

Candidates of equal score are ranked in the order they are given in, so that a ranking is never a
matter of chance. With R the set of relevant candidates of a query, c_i the candidate at rank i
(from 1) and [·] 1 if true, else 0, each measure is the mean over the queries of:

recall@k  Σ_{i≤k} [c_i ∈ R] / |R|, the share of the relevant ones among the first k
MRR@10    1 / min{i ≤ 10 : c_i ∈ R}, or 0 if there is no such i
nDCG@10   DCG / ideal, where DCG = Σ_{i≤10} [c_i ∈ R] / log2(i + 1)
          and ideal = Σ_{i≤min(10,|R|)} 1 / log2(i + 1)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trine.runtime.errors import InputError

__all__ = ["RankMetrics", "mean_metrics", "rank_metrics"]

#: Ranks that are looked at.
DEPTH = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMetrics:
    """Means over `num_queries` queries, each from 0 to 1; the module says how they are defined."""

    num_queries: int
    recall_at_1: float
    recall_at_5: float
    recall_at_10: float
    mrr_at_10: float
    ndcg_at_10: float


def rank_metrics(scores: NDArray[np.float32], relevant: Sequence[frozenset[int]]) -> RankMetrics:
    """Return the measures of the rankings that scores make; equal scores rank in column order.

    Args:
        scores: float32 [Q, C], higher is better; at least one of each.
        relevant: for each query the columns that should be found, at least one.

    Raises:
        InputError: the shapes do not fit, a score is not finite, a query has nothing to be found
            or a column that is not there.
    """
    if scores.ndim != 2 or 0 in scores.shape or len(scores) != len(relevant):
        raise InputError(
            f"scores are {list(scores.shape)} for {len(relevant)} queries; give [queries, "
            "candidates], at least one of each"
        )
    if not np.isfinite(scores).all():
        raise InputError("scores hold NaN or infinity, which have no rank; check the vectors")
    num_candidates = scores.shape[1]
    rows = np.empty((len(scores), 5))
    for query, wanted in enumerate(relevant):
        if not wanted or min(wanted) < 0 or max(wanted) >= num_candidates:
            raise InputError(
                f"query {query} should find {sorted(wanted)}; give at least one of the "
                f"{num_candidates} candidates, counted from 0"
            )
    for query, (first, wanted) in enumerate(zip(_first_columns(scores), relevant, strict=True)):
        rows[query] = _one_query([column in wanted for column in first], len(wanted))
    return _from_means(len(rows), rows.mean(axis=0))


def mean_metrics(parts: Sequence[RankMetrics]) -> RankMetrics:
    """Return the measures of all queries from those of blocks of them, at least one block."""
    weights = [part.num_queries for part in parts]
    rows = [
        (p.recall_at_1, p.recall_at_5, p.recall_at_10, p.mrr_at_10, p.ndcg_at_10) for p in parts
    ]
    return _from_means(sum(weights), np.average(np.array(rows), axis=0, weights=weights))


def _first_columns(scores: NDArray[np.float32]) -> Iterator[list[int]]:
    """Yield for each row of float32 [Q, C] its best columns, at most DEPTH, best first."""
    depth = min(DEPTH, scores.shape[1])
    least = np.partition(scores, -depth, axis=1)[:, -depth]
    for row, threshold in zip(scores, least, strict=True):
        # Partitioning picks any of equal scores. So all that reach the threshold are sorted: they
        # stand in column order, which a stable sort keeps.
        columns = np.flatnonzero(row >= threshold)
        yield columns[np.argsort(-row[columns], kind="stable")][:depth].tolist()


def _one_query(hits: Sequence[bool], num_relevant: int) -> tuple[float, ...]:
    """Return recall@1, @5, @10, MRR and nDCG of one ranking, best first."""
    gains = [1 / np.log2(rank + 1) for rank in range(1, DEPTH + 1)]
    dcg = sum(gain for gain, hit in zip(gains, hits, strict=False) if hit)
    recalls = [sum(hits[:k]) / num_relevant for k in (1, 5, 10)]
    reciprocal = 1 / (hits.index(True) + 1) if any(hits) else 0.0
    return (*recalls, reciprocal, dcg / sum(gains[:num_relevant]))


def _from_means(num_queries: int, means: NDArray[np.float64]) -> RankMetrics:
    recall_1, recall_5, recall_10, mrr, ndcg = means.tolist()
    return RankMetrics(
        num_queries=num_queries,
        recall_at_1=recall_1,
        recall_at_5=recall_5,
        recall_at_10=recall_10,
        mrr_at_10=mrr,
        ndcg_at_10=ndcg,
    )
