"""Measures how well an engine's vectors find what pairs say they should."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trine.kernels.maxsim import maxsim_scores
from trine.kernels.pooling import truncate
from trine.kernels.quantise import unpack_signs
from trine.runtime.bulk.row_embedding import error_at
from trine.runtime.bundle.model_config import ModelConfig
from trine.runtime.commands.eval.pair_files import PairItem, PairSet
from trine.runtime.embedder import Embedder
from trine.runtime.errors import InputError
from trine.runtime.hardware.processors import num_processors
from trine.runtime.inputs import Prompt
from trine.runtime.outputs import OutputDtype
from trine.runtime.request import check_request
from trine.runtime.scoring.quantisation import (
    Int8Ranges,
    check_output,
    quantise_multi,
    quantise_single,
)
from trine.runtime.scoring.rank_metrics import RankMetrics, mean_metrics, rank_metrics

__all__ = [
    "EngineResult",
    "EvaluationOptions",
    "VectorResult",
    "check_evaluation",
    "evaluate_pairs",
    "num_steps",
]

#: Scores held at a time: of a block of queries with all candidates, or of the tokens of a block
#: with those of one candidate. 16 MiB, of which two or three copies are alive.
BLOCK_SCORES = 1 << 22
#: Items embedded between two steps of the progress bar.
NUM_ITEMS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOptions:
    """What to measure.

    Attributes:
        task: adapter of both sides.
        dims: sizes of single vectors, of the checkpoint's Matryoshka dimensions; empty for the
            one size that the checkpoint prescribes.
        single: whether to measure single vectors, by their dot product, which is the cosine.
        multi: whether to measure multi-vectors, by MaxSim.
        output_dtypes: types that the vectors are measured in, all from the same float32 ones. As
            databases do, int8 is ranked by the dot product of its codes, and bits by the number of
            equal ones.
    """

    task: str
    dims: tuple[int, ...]
    single: bool
    multi: bool
    output_dtypes: tuple[OutputDtype, ...] = ("float32",)


@dataclass(frozen=True, slots=True)
class VectorResult:
    """What one kind of vectors came to.

    Attributes:
        dim: size of single vectors; None for multi-vectors.
        metrics: of all queries.
        output_dtype: of both sides' vectors.
    """

    dim: int | None
    metrics: RankMetrics
    output_dtype: OutputDtype = "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineResult:
    """One engine's results, in the order: single vectors as asked for, multi-vectors.

    Attributes:
        results: at least one.
        num_truncated: texts whose end was cut.
        encode_s, score_s: seconds of embedding and of ranking.
    """

    results: tuple[VectorResult, ...]
    num_truncated: int
    encode_s: float
    score_s: float


@dataclass(frozen=True, slots=True)
class _Vectors:
    """One side's vectors; the fields are as in `Embeddings`."""

    single: NDArray[np.float32] | None
    multi: list[NDArray[np.float32]] | None
    num_truncated: int


def num_steps(pairs: PairSet, options: EvaluationOptions) -> int:
    """Return how many items are embedded and rankings made in a run."""
    kinds = (max(1, len(options.dims)) if options.single else 0) + options.multi
    num_rankings = kinds * len(options.output_dtypes)
    return len(pairs.candidates) + len(pairs.queries) * (1 + num_rankings)


def check_evaluation(
    options: EvaluationOptions, known_tasks: Sequence[str], model: ModelConfig, ranges: Int8Ranges
) -> None:
    """Check that what is to be measured can be, before it costs anything.

    Args:
        options: what to measure.
        known_tasks: of the engine.
        model: of the bundle.
        ranges: for int8.

    Raises:
        InputError: the task or a size is unknown, int8 ranges are missing, or int8 multi-vectors
            are wanted.
    """
    for dtype in options.output_dtypes:
        for dim in options.dims or (None,):
            request = check_request(
                known_tasks,
                model,
                num_items=1,
                task=options.task,
                truncate_dim=dim,
                single=options.single,
                multi=options.multi,
                output_dtype=dtype,
            )
            check_output(request, ranges)
            if request.tasks[0] != options.task:
                raise InputError(
                    f"task {options.task!r} names one side, and both are evaluated; "
                    f"give {request.tasks[0]!r}"
                )


def evaluate_pairs(
    embedder: Embedder,
    pairs: PairSet,
    options: EvaluationOptions,
    done: Callable[[int], None] = lambda count: None,
) -> EngineResult:
    """Return how well an embedder finds the candidates of pairs. Each item is embedded once.

    Queries get the prompt "query" and candidates "passage". All vectors are held, the scores of
    one block of queries at a time.

    Args:
        embedder: with the task loaded.
        pairs: what to search, and what should be found.
        options: what to measure.
        done: called with the number of steps since the last call, `num_steps` in all.

    Raises:
        InputError: an option is not usable, or an image cannot be read; the message has the line.
    """
    check_evaluation(
        options, embedder.tasks, embedder.bundle.manifest.model, embedder.output_ranges
    )
    started = time.perf_counter()
    queries = _embed(embedder, pairs.queries, "query", options, done)
    candidates = _embed(embedder, pairs.candidates, "passage", options, done)
    encoded = time.perf_counter()
    results = []
    if queries.single is not None and candidates.single is not None:
        for dim in options.dims or (queries.single.shape[1],):
            left, right = _cut(queries.single, dim), _cut(candidates.single, dim)
            for dtype in options.output_dtypes:
                metrics = _dot_metrics(
                    _single_codes(left, options.task, dtype, embedder.output_ranges),
                    _single_codes(right, options.task, dtype, embedder.output_ranges),
                    pairs.relevant,
                    done,
                )
                results.append(VectorResult(dim, metrics, dtype))
    if queries.multi is not None and candidates.multi is not None:
        for dtype in options.output_dtypes:
            metrics = _maxsim_metrics(
                _multi_codes(queries.multi, dtype),
                _multi_codes(candidates.multi, dtype),
                pairs.relevant,
                done,
            )
            results.append(VectorResult(None, metrics, dtype))
    return EngineResult(
        results=tuple(results),
        num_truncated=queries.num_truncated + candidates.num_truncated,
        encode_s=encoded - started,
        score_s=time.perf_counter() - encoded,
    )


def _embed(
    embedder: Embedder,
    items: Sequence[PairItem],
    prompt: Prompt,
    options: EvaluationOptions,
    done: Callable[[int], None],
) -> _Vectors:
    single: list[NDArray[np.float32]] = []
    multi: list[NDArray[np.float32]] = []
    num_truncated = 0
    for start in range(0, len(items), NUM_ITEMS):
        members = items[start : start + NUM_ITEMS]
        try:
            found = embedder.encode(
                [member.item() for member in members],
                options.task,
                prompt_name=prompt,
                # The smaller sizes are the beginnings of the largest.
                truncate_dim=max(options.dims, default=None),
                return_single=options.single,
                return_multivector=options.multi,
            )
        except InputError as error:
            raise error_at(error, [member.where for member in members]) from error
        single += [] if found.single is None else [found.single]
        multi += found.multi or []
        num_truncated += int(found.truncated.sum())
        done(len(members))
    return _Vectors(
        np.concatenate(single) if options.single else None,
        multi if options.multi else None,
        num_truncated,
    )


def _cut(vectors: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    return vectors if vectors.shape[1] == dim else truncate(vectors, dim)


def _single_codes(
    vectors: NDArray[np.float32], task: str, dtype: OutputDtype, ranges: Int8Ranges
) -> NDArray[np.float32]:
    """Return float32 [B, D] whose dot products rank as databases rank normalised [B, D]."""
    stored = quantise_single(vectors, [task] * len(vectors), dtype, ranges)
    return _widen(stored, dtype, vectors.shape[1])


def _multi_codes(
    vectors: Sequence[NDArray[np.float32]], dtype: OutputDtype
) -> list[NDArray[np.float32]]:
    """Return the same for multi-vectors, [T_i, D] each."""
    dim = vectors[0].shape[1]
    return [_widen(stored, dtype, dim) for stored in quantise_multi(vectors, dtype)]


def _widen(stored: NDArray[Any], dtype: OutputDtype, dim: int) -> NDArray[np.float32]:
    """Return the numbers stored, in float32: of bits ±1, whose products sum to D - 2 · distance."""
    if dtype in ("binary", "ubinary"):
        return unpack_signs(stored, dim)
    return stored.astype(np.float32, copy=False)


def _dot_metrics(
    queries: NDArray[np.float32],
    candidates: NDArray[np.float32],
    relevant: Sequence[frozenset[int]],
    done: Callable[[int], None],
) -> RankMetrics:
    """Return the measures of float32 [Q, D] with [C, D], ranked by their dot products."""
    parts = []
    for block in _blocks([len(candidates)] * len(queries)):
        parts.append(rank_metrics(queries[block] @ candidates.T, relevant[block]))
        done(parts[-1].num_queries)
    return mean_metrics(parts)


def _maxsim_metrics(
    queries: Sequence[NDArray[np.float32]],
    candidates: Sequence[NDArray[np.float32]],
    relevant: Sequence[frozenset[int]],
    done: Callable[[int], None],
) -> RankMetrics:
    """Return the measures of float32 [T_i, D] with [T_j, D]."""
    longest = max(len(candidate) for candidate in candidates)
    parts = []
    for block in _blocks([max(len(candidates), len(query) * longest) for query in queries]):
        parts.append(
            rank_metrics(
                maxsim_scores(queries[block], candidates, num_processors()), relevant[block]
            )
        )
        done(parts[-1].num_queries)
    return mean_metrics(parts)


def _blocks(costs: Sequence[int]) -> Iterator[slice]:
    """Yield consecutive slices of at least one element whose costs sum to at most BLOCK_SCORES."""
    start, total = 0, 0
    for index, cost in enumerate(costs):
        if index > start and total + cost > BLOCK_SCORES:
            yield slice(start, index)
            start, total = index, 0
        total += cost
    yield slice(start, len(costs))
