"""Embeds a section's queries and candidates and ranks the candidates, by both kinds of vector."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trine.export.demo.corpus import Candidate, Query, Section, Task
from trine.runtime.embedder import Embedder
from trine.runtime.scoring.similarity import cosine_similarity, maxsim

__all__ = ["Answer", "Found", "Hit", "Speed", "measure_speed", "search"]

FloatVector = NDArray[np.float32]
FloatMatrix = NDArray[np.float32]

#: Places of a ranking that are kept.
TOP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One place of a ranking.

    Attributes:
        candidate: what was found.
        score: cosine for single vectors, MaxSim sum over the query's tokens for multi-vectors.
        right: whether it is the expected one.
    """

    candidate: Candidate
    score: float
    right: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A query with its two rankings, best first, `TOP` places each."""

    query: Query
    single: tuple[Hit, ...]
    multi: tuple[Hit, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A section with the answers to its queries, in their order."""

    section: Section
    answers: tuple[Answer, ...]

    @property
    def single_first(self) -> int:
        """Queries whose expected candidate comes first by single vectors."""
        return sum(answer.single[0].right for answer in self.answers)

    @property
    def multi_first(self) -> int:
        """Queries whose expected candidate comes first by multi-vectors."""
        return sum(answer.multi[0].right for answer in self.answers)

    @property
    def enough(self) -> bool:
        """Whether both kinds of vector reach the section's least number of right hits."""
        return (
            self.single_first >= self.section.min_single
            and self.multi_first >= self.section.min_multi
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Items embedded a second as single vectors, on this machine, with everything warm."""

    texts_per_s: float
    images_per_s: float


def search(embedder: Embedder, section: Section) -> Found:
    """Return the rankings of every query of `section`."""
    queries = [query.text for query in section.queries]
    contents = [candidate.content for candidate in section.candidates]
    single = cosine_similarity(
        _single(embedder, queries, section.task, "query"),
        _single(embedder, contents, section.task, "passage"),
    )
    multi = maxsim(
        _multi(embedder, queries, section.task, "query"),
        _multi(embedder, contents, section.task, "passage"),
    )
    return Found(
        section=section,
        answers=tuple(
            Answer(
                query=query,
                single=_ranking(section, query, single[row]),
                multi=_ranking(section, query, multi[row]),
            )
            for row, query in enumerate(section.queries)
        ),
    )


def measure_speed(embedder: Embedder, sections: Sequence[Section]) -> Speed:
    """Return how fast the different candidates of `sections` are embedded.

    Call it after `search`, so that nothing is done for the first time.
    """
    contents = dict.fromkeys(item.content for part in sections for item in part.candidates)
    texts = [content for content in contents if isinstance(content, str)]
    images = [content for content in contents if isinstance(content, Path)]
    start = time.perf_counter()
    _single(embedder, texts, "retrieval", "passage")
    middle = time.perf_counter()
    _single(embedder, images, "retrieval", "passage")
    end = time.perf_counter()
    return Speed(
        texts_per_s=len(texts) / (middle - start),
        images_per_s=len(images) / (end - middle),
    )


def _single(
    embedder: Embedder, contents: Sequence[str | Path], task: Task, prompt_name: str
) -> FloatMatrix:
    """Return float32 [len(contents), D], rows of length 1, of only texts or only paths."""
    texts, paths = _texts_and_paths(contents)
    if texts:
        return np.asarray(embedder.encode_text(texts, task=task, prompt_name=prompt_name))
    return np.asarray(embedder.encode_image(paths, task=task))


def _multi(
    embedder: Embedder, contents: Sequence[str | Path], task: Task, prompt_name: str
) -> list[FloatMatrix]:
    """Return one float32 [T_i, d] per item, each row of length 1. Contents as for `_single`."""
    texts, paths = _texts_and_paths(contents)
    if texts:
        vectors = embedder.encode_text(
            texts, task=task, prompt_name=prompt_name, return_multivector=True
        )
    else:
        vectors = embedder.encode_image(paths, task=task, return_multivector=True)
    return list(vectors)


def _texts_and_paths(contents: Sequence[str | Path]) -> tuple[list[str], list[Path]]:
    texts = [content for content in contents if isinstance(content, str)]
    paths = [content for content in contents if isinstance(content, Path)]
    return texts, paths


def _ranking(section: Section, query: Query, scores: FloatVector) -> tuple[Hit, ...]:
    """Return the `TOP` best candidates; of equal scores the earlier candidate comes first.

    Args:
        section: what `scores` are about.
        query: the query.
        scores: float32 [number of candidates].
    """
    best = np.argsort(-scores, kind="stable")[:TOP]
    return tuple(
        Hit(
            candidate=section.candidates[place],
            score=float(scores[place]),
            right=section.candidates[place].key == query.expected,
        )
        for place in best
    )
