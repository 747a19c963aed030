"""Scores of queries against documents, the way both scoring paths compute them.

maxsim   for each token of the query its best match among the document's tokens, summed: at most
         the number of the query's tokens, and comparable for one query only
cosine   of single vectors, at most 1
"""

import asyncio
from collections.abc import Sequence
from typing import Literal, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from trine.runtime.scoring.similarity import maxsim
from trine.runtime.serving.api.endpoint import ApiContext, Embedded, embed_items
from trine.runtime.serving.api.requests.items import ParsedItem, parse_item
from trine.runtime.serving.api.requests.messages import parse_content
from trine.runtime.serving.api.requests.tasks import TaskChoice, choose_task
from trine.runtime.serving.api.responses.embeddings import multi_vectors_of, single_vectors_of
from trine.runtime.serving.service.calls import EmbedCall, EmbedResult, ModelInfo, ServiceError
from trine.runtime.serving.service.item_fields import ItemField

__all__ = [
    "Scoring",
    "choose_scoring",
    "embed_pairs",
    "parse_side",
    "relevance",
    "score_pairs",
    "side_choices",
]

Scoring: TypeAlias = Literal["maxsim", "cosine"]


def choose_scoring(name: str | None) -> Scoring:
    """Return how to score: "maxsim" unless a request says otherwise.

    Raises:
        ServiceError: 422 the name is unknown.
    """
    known = get_args(Scoring)
    if name is not None and name not in known:
        raise ServiceError(
            422,
            "unknown_scoring",
            f"scoring is {name!r}; known are {list(known)}",
            param="scoring",
        )
    return cast(Scoring, name or "maxsim")


def parse_side(value: object, field: str) -> tuple[ParsedItem, ...]:
    """Return the items of one side: an item or a list of them; one may be `{"content": […]}`.

    Args:
        value: from JSON.
        field: that holds it, for messages.

    Raises:
        ServiceError: 422 there is no item, or one is of no known shape.
    """
    if value is None or value == []:
        raise ServiceError(
            422, "missing_input", f"{field} is missing or empty; give a text or a list", param=field
        )
    listed = value if isinstance(value, list) else [value]
    return tuple(_item(element, i, field) for i, element in enumerate(listed))


def side_choices(
    info: ModelInfo, model: str | None, task: str | None
) -> tuple[TaskChoice, TaskChoice]:
    """Return task and prompt of queries, and of documents.

    Args:
        info: of the model.
        model: of the request, which may carry a task.
        task: of the request. Its role, if it has one, counts for neither side.

    Raises:
        ServiceError: 404 the model is unknown; 422 the task is.
    """
    chosen = choose_task(info, model=model, task=task).task
    return TaskChoice(chosen, "query"), TaskChoice(chosen, "passage")


async def embed_pairs(
    api: ApiContext,
    request: Request,
    sides: tuple[Sequence[ParsedItem], Sequence[ParsedItem]],
    fields: tuple[str, str],
    choices: tuple[TaskChoice, TaskChoice],
    options: EmbedCall,
) -> Embedded:
    """Return the vectors of queries, then of documents, in one call.

    Args:
        api: where to.
        request: that they came in.
        sides: queries and documents.
        fields: of the request, that held them.
        choices: task and prompt of each side.
        options: of the call, without items.

    Raises:
        ServiceError: as `embed_items`.
    """
    queries, documents = sides
    per_item = [choices[0]] * len(queries) + [choices[1]] * len(documents)
    held = (ItemField(fields[0]), ItemField(fields[1], len(queries)))
    return await embed_items(api, request, [*queries, *documents], per_item, options, held)


async def score_pairs(
    result: EmbedResult, pairs: Sequence[tuple[int, int]], scoring: Scoring
) -> NDArray[np.float32]:
    """Return float32 [pairs], computed beside the event loop.

    Args:
        result: multi-vectors for "maxsim", single vectors for "cosine".
        pairs: of items of the result: query, document.
        scoring: how.
    """
    if scoring == "maxsim":
        return await asyncio.to_thread(_maxsim_of, multi_vectors_of(result), pairs)
    single = single_vectors_of(result)
    left, right = single[[q for q, _ in pairs]], single[[d for _, d in pairs]]
    return np.einsum("pd,pd->p", left, right)


def relevance(
    scores: NDArray[np.float32], result: EmbedResult, scoring: Scoring
) -> NDArray[np.float32]:
    """Return float32 [pairs] in 0 to 1: the mean cosine c of the query's tokens as (1 + c) / 2.

    The mapping keeps the order of one query's documents. Rerankers' clients set thresholds
    between 0 and 1, where a sum over tokens would let every document pass.

    Args:
        scores: of `score_pairs`, all of the result's first item.
        result: that was scored.
        scoring: how.
    """
    num_terms = len(multi_vectors_of(result)[0]) if scoring == "maxsim" else 1
    # Rounding may put the cosine of a vector with itself a little above 1.
    return np.clip((1 + scores / np.float32(num_terms)) / 2, 0, 1, dtype=np.float32)


def _maxsim_of(
    multi: Sequence[NDArray[np.float32]], pairs: Sequence[tuple[int, int]]
) -> NDArray[np.float32]:
    scores = np.empty(len(pairs), np.float32)
    by_query: dict[int, list[int]] = {}
    for place, (query, _) in enumerate(pairs):
        by_query.setdefault(query, []).append(place)
    for query, places in by_query.items():
        scores[places] = maxsim([multi[query]], [multi[pairs[place][1]] for place in places])[0]
    return scores


def _item(value: object, index: int, field: str) -> ParsedItem:
    if isinstance(value, dict) and value.get("content") is not None:
        return parse_content(value["content"], index, field)
    return parse_item(value, index, field)
