"""Measures how far an engine's vectors, and the rankings they make, are from float32's.

With q the queries, r_q(d) the rank (from 1) of document d by the float32 scores, s_q and t_q the
scores of all documents by float32 and by the engine, e_q,i the document the engine ranks i-th, and
k = min(10, number of documents), each measure of a ranking is the mean over the queries of:

nDCG@10     Σ_{i≤k} g(e_q,i) / log2(i + 1)  over  Σ_{i≤k} (k + 1 - i) / log2(i + 1),
            where g(d) = k + 1 - r_q(d) if r_q(d) ≤ k, else 0: 1 if and only if the first ten are
            the same in the same order
overlap@10  share of float32's first k that are among the engine's first k, in any order
Kendall     τ_b of s_q and t_q: agreeing less disagreeing pairs of documents, ties accounted for
            (https://doi.org/10.1093/biomet/33.3.239)
Pearson     correlation of s_q and t_q

Scores are cosines of single vectors and MaxSim of multi-vectors. Equal scores rank in the order of
the documents. Where one side's scores are all equal, both correlations are 1 if the other's are
too, else 0. A vector that is not finite has the cosine -1, and a score that is not finite ranks
last, so that broken vectors never look well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from trine.kernels.maxsim import maxsim_scores
from trine.runtime.bundle.golden import Modality
from trine.runtime.hardware.processors import num_processors
from trine.runtime.scoring.rank_metrics import rank_metrics

__all__ = [
    "Agreement",
    "CorpusVectors",
    "Head",
    "RankAgreement",
    "VectorAgreement",
    "Vectors",
    "measure_agreement",
    "rank_agreement",
    "vector_agreement",
]

Head = Literal["single", "multi"]
Array = NDArray[np.float32]

#: Ranks that nDCG and overlap look at.
DEPTH = 10
#: The quantile called p1.
P1 = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """What an engine made of some items, normalised.

    Attributes:
        single: float32 [N, D].
        multi: float32 [T_i, P] for each of the N.
    """

    single: Array
    multi: Sequence[Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusVectors:
    """What an engine made of a corpus (`trine.export.calibration.corpus`) for one task."""

    queries: Vectors
    passages: Vectors
    images: Vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorAgreement:
    """Cosines of an engine's vectors with float32's.

    Attributes:
        task: of the adapter.
        modality: of the items.
        head: which vectors; of multi-vectors each row is one.
        num_vectors: that were compared.
        mean: of the cosines.
        p1: the cosine that one in a hundred does not exceed, one of them and not between two.
        worst: the smallest.
    """

    task: str
    modality: Modality
    head: Head
    num_vectors: int
    mean: float
    p1: float
    worst: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RankAgreement:
    """How much an engine's rankings are like float32's; the module says how it is defined.

    Attributes:
        task: of the adapter.
        modality: of the documents; the queries are texts.
        head: which vectors.
        num_queries: at least one.
        num_documents: at least two.
        ndcg_at_10, overlap_at_10: from 0 to 1.
        kendall, pearson: from -1 to 1.
        worst_pearson: of a query.
    """

    task: str
    modality: Modality
    head: Head
    num_queries: int
    num_documents: int
    ndcg_at_10: float
    overlap_at_10: float
    kendall: float
    pearson: float
    worst_pearson: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """One engine and task against float32: text and image, each with both heads."""

    vectors: tuple[VectorAgreement, ...]
    rankings: tuple[RankAgreement, ...]


def measure_agreement(task: str, reference: CorpusVectors, found: CorpusVectors) -> Agreement:
    """Return how an engine's vectors of a corpus agree with float32's of the same.

    Args:
        task: for the results.
        reference: of float32.
        found: of the engine; the same items.
    """
    vectors: list[VectorAgreement] = []
    rankings: list[RankAgreement] = []
    for modality in get_args(Modality):
        wanted, measured = (_items(side, modality) for side in (reference, found))
        for head in get_args(Head):
            vectors.append(
                vector_agreement(
                    _rows(wanted, head),
                    _rows(measured, head),
                    task=task,
                    modality=modality,
                    head=head,
                )
            )
            scores, engine_scores = (_scores(side, modality, head) for side in (reference, found))
            rankings.append(
                rank_agreement(scores, engine_scores, task=task, modality=modality, head=head)
            )
    return Agreement(vectors=tuple(vectors), rankings=tuple(rankings))


def vector_agreement(
    reference: Array, found: Array, *, task: str, modality: Modality, head: Head
) -> VectorAgreement:
    """Return the cosines of rows with the rows of the same number.

    Args:
        reference: float32 [N, D] of float32, at least one row.
        found: float32 [N, D] of the engine.
        task: for the result, as are the other two.
        modality: of the items.
        head: of the vectors.

    Raises:
        ValueError: the shapes differ or there is no row.
    """
    if reference.shape != found.shape or reference.ndim != 2 or not len(reference):
        raise ValueError(
            f"vectors are {list(reference.shape)} and {list(found.shape)}; give the same [N, D] "
            "with at least one row"
        )
    cosines = _cosines(reference, found)
    return VectorAgreement(
        task=task,
        modality=modality,
        head=head,
        num_vectors=len(cosines),
        mean=float(cosines.mean()),
        p1=float(np.quantile(cosines, P1, method="lower")),
        worst=float(cosines.min()),
    )


def rank_agreement(
    reference: Array, found: Array, *, task: str, modality: Modality, head: Head
) -> RankAgreement:
    """Return how like the rankings are that scores make; equal scores rank in column order.

    Args:
        reference: float32 [Q, C] scores of float32, higher is better; at least [1, 2], finite.
        found: float32 [Q, C] of the engine.
        task: for the result, as are the other two.
        modality: of the documents.
        head: of the vectors.

    Raises:
        ValueError: the shapes differ or are too small, or a score of float32 is not finite.
    """
    if reference.shape != found.shape or reference.ndim != 2 or min(reference.shape) < 1:
        raise ValueError(
            f"scores are {list(reference.shape)} and {list(found.shape)}; give the same "
            "[queries, documents]"
        )
    if reference.shape[1] < 2 or not np.isfinite(reference).all():
        raise ValueError("give finite float32 scores of at least two documents")
    found = np.where(np.isfinite(found), found, np.finfo(np.float32).min)
    wanted = _ranking(reference)
    depth = min(DEPTH, reference.shape[1])
    overlap = rank_metrics(found, [frozenset(row[:depth].tolist()) for row in wanted]).recall_at_10
    pearson = [_pearson(s, t) for s, t in zip(reference, found, strict=True)]
    return RankAgreement(
        task=task,
        modality=modality,
        head=head,
        num_queries=len(reference),
        num_documents=reference.shape[1],
        ndcg_at_10=_graded_ndcg(wanted, _ranking(found), depth),
        overlap_at_10=overlap,
        kendall=float(np.mean([_kendall(s, t) for s, t in zip(reference, found, strict=True)])),
        # Exact until it is rounded once, so that it is no less than the least of them.
        pearson=mean(pearson),
        worst_pearson=min(pearson),
    )


def _items(side: CorpusVectors, modality: Modality) -> Vectors:
    """Return the vectors of all items of a modality."""
    if modality == "image":
        return side.images
    return Vectors(
        single=np.concatenate([side.queries.single, side.passages.single]),
        multi=[*side.queries.multi, *side.passages.multi],
    )


def _rows(vectors: Vectors, head: Head) -> Array:
    return vectors.single if head == "single" else np.concatenate(list(vectors.multi))


def _scores(side: CorpusVectors, modality: Modality, head: Head) -> Array:
    """Return float32 [queries, documents of the modality]."""
    documents = side.images if modality == "image" else side.passages
    if head == "single":
        return side.queries.single @ documents.single.T
    return maxsim_scores(side.queries.multi, documents.multi, num_processors())


def _cosines(first: Array, second: Array) -> NDArray[np.float64]:
    """Return float64 [N], -1 where a value is not finite and 0 where a vector is all zero."""
    finite: NDArray[np.bool_] = np.logical_and(
        np.isfinite(first).all(axis=1), np.isfinite(second).all(axis=1)
    )
    a, b = (np.where(finite[:, None], side, 0).astype(np.float64) for side in (first, second))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    products = np.einsum("nd,nd->n", a, b)
    cosines = np.divide(products, lengths, out=np.zeros(len(a)), where=lengths > 0)
    return np.where(finite, np.clip(cosines, -1, 1), -1.0)


def _ranking(scores: Array) -> NDArray[np.intp]:
    """Return the columns of [Q, C] best first, row by row."""
    return np.argsort(-scores, axis=1, kind="stable")


def _graded_ndcg(wanted: NDArray[np.intp], found: NDArray[np.intp], depth: int) -> float:
    """Return the mean nDCG of rankings `found` with the gains that `wanted` gives."""
    gains = np.zeros(wanted.shape)
    grades = np.arange(depth, 0, -1.0)
    np.put_along_axis(gains, wanted[:, :depth], np.broadcast_to(grades, (len(wanted), depth)), 1)
    discounts = 1 / np.log2(np.arange(2, depth + 2))
    # One expression for both, so that equal rankings give exactly 1.
    reached, ideal = (
        (np.take_along_axis(gains, order[:, :depth], axis=1) * discounts).sum(axis=1)
        for order in (found, wanted)
    )
    return float(np.mean(reached / ideal))


def _kendall(first: Array, second: Array) -> float:
    """Return τ_b of two score vectors."""
    signs = [np.sign(side[:, None].astype(np.float64) - side) for side in (first, second)]
    counts = [float(np.abs(sign).sum()) for sign in signs]
    if 0 in counts:
        return float(counts[0] == counts[1])
    return float((signs[0] * signs[1]).sum()) / (counts[0] * counts[1]) ** 0.5


def _pearson(first: Array, second: Array) -> float:
    a, b = (side.astype(np.float64) for side in (first, second))
    a, b = a - a.mean(), b - b.mean()
    # Constant scores leave rounding behind, which must not correlate with anything.
    flat = [len(np.unique(side)) == 1 for side in (first, second)]
    if any(flat):
        return float(all(flat))
    return float(np.clip(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)), -1, 1))
