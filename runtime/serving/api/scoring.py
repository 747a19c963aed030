"""`POST /v1/score`, `/v1/rerank` and `/rerank`: documents scored against a query.

Queries get the prefix of a query and documents that of a passage, whatever role the task names.
On `/rerank` a body with `texts` is one of text-embeddings-inference, and is answered as there.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trine.runtime.serving.api.endpoint import ApiContext, Embedded, endpoint, json_response
from trine.runtime.serving.api.requests.bodies import Body, read_body
from trine.runtime.serving.api.requests.embeddings import (
    ITEM_SCHEMA,
    text_length,
    truncation,
)
from trine.runtime.serving.api.requests.items import ParsedItem, is_image_uri
from trine.runtime.serving.api.responses.scores import (
    Scoring,
    choose_scoring,
    embed_pairs,
    parse_side,
    relevance,
    score_pairs,
    side_choices,
)
from trine.runtime.serving.service.calls import EmbedCall, ModelInfo, ServiceError

__all__ = ["RerankBody", "ScoreBody", "routes"]

_SIDE_SCHEMA: dict[str, Any] = {
    "anyOf": [
        *ITEM_SCHEMA["anyOf"],
        {"type": "array", "items": ITEM_SCHEMA, "minItems": 1},
    ]
}
_DOCUMENTS_SCHEMA: dict[str, Any] = {"type": "array", "items": ITEM_SCHEMA, "minItems": 1}


class _ScoringBody(Body, frozen=True, kw_only=True):
    """What both bodies have."""

    model: str | None = None
    task: Annotated[str | None, Meta(description="retrieval, text-matching or code")] = None
    scoring: Annotated[str | None, Meta(description="maxsim (default) or cosine")] = None
    truncate: bool | str | None = None
    truncate_prompt_tokens: int | None = None


class ScoreBody(_ScoringBody, frozen=True, kw_only=True):
    """Pairs to score: one query and many documents, or as many of both."""

    text_1: Annotated[Any, Meta(extra_json_schema=_SIDE_SCHEMA)] = None
    text_2: Annotated[Any, Meta(extra_json_schema=_SIDE_SCHEMA)] = None
    queries: Annotated[Any, Meta(description="as text_1", extra_json_schema=_SIDE_SCHEMA)] = None
    documents: Annotated[Any, Meta(description="as text_2", extra_json_schema=_SIDE_SCHEMA)] = None


class RerankBody(_ScoringBody, frozen=True, kw_only=True):
    """A query and the documents to rank by it."""

    query: Annotated[Any, Meta(extra_json_schema=ITEM_SCHEMA)]
    documents: Annotated[Any, Meta(extra_json_schema=_DOCUMENTS_SCHEMA)] = None
    texts: Annotated[
        Any, Meta(description="documents, answered as text-embeddings-inference does")
    ] = None
    top_n: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="best documents to answer with")
    ] = None
    return_documents: Annotated[
        bool | None, Meta(description="repeat the documents; texts are unless this is false")
    ] = None
    return_text: bool | None = None
    raw_scores: Annotated[
        bool | None, Meta(description="true for plain MaxSim or cosine instead of 0 to 1")
    ] = None


def routes(api: ApiContext) -> list[Route]:
    """Return the routes of this dialect."""
    return [
        endpoint(api, "/v1/score", create_scores),
        endpoint(api, "/v1/rerank", create_ranking),
        endpoint(api, "/rerank", create_ranking),
    ]


async def create_scores(api: ApiContext, request: Request) -> Response:
    """Answer with one score a pair, in the order of the documents."""
    body = await read_body(request, ScoreBody, api.max_body_bytes)
    old = body.text_1 is not None or body.text_2 is not None
    fields = ("text_1", "text_2") if old else ("queries", "documents")
    sides = (
        parse_side(body.text_1 if old else body.queries, fields[0]),
        parse_side(body.text_2 if old else body.documents, fields[1]),
    )
    pairs = pair_up(len(sides[0]), len(sides[1]), fields[0])
    embedded, scores = await _score(api, request, body, sides, fields, pairs)
    data = [{"index": i, "object": "score", "score": float(s)} for i, s in enumerate(scores)]
    answer = {
        "object": "list",
        "data": data,
        "model": api.service.info().name,
        "usage": embedded.usage,
    }
    return json_response(answer, embedded.headers)


async def create_ranking(api: ApiContext, request: Request) -> Response:
    """Answer with the documents' places and scores, the best first."""
    body = await read_body(request, RerankBody, api.max_body_bytes)
    field = "documents" if body.texts is None else "texts"
    given = body.documents if body.texts is None else body.texts
    if not isinstance(given, list):
        raise ServiceError(
            422, "invalid_field", f"{field} is missing or no list; give one", param=field
        )
    sides = (_one_query(body.query), parse_side(given, field))
    pairs = pair_up(1, len(sides[1]))
    embedded, scores = await _score(api, request, body, sides, ("query", field), pairs)
    # Stable: of equal scores the earlier document comes first.
    order = [int(i) for i in np.argsort(-scores, kind="stable")[: body.top_n]]
    if not body.raw_scores:
        scores = relevance(scores, embedded.result, choose_scoring(body.scoring))
    if body.texts is not None:
        ranked = [
            {"index": i, "score": float(scores[i])}
            | ({"text": given[i]} if body.return_text else {})
            for i in order
        ]
        return json_response(ranked, embedded.headers)
    results = [
        {"index": i, "relevance_score": float(scores[i])}
        | _repeated(given[i], body.return_documents)
        for i in order
    ]
    answer = {
        "object": "list",
        "results": results,
        "model": api.service.info().name,
        "usage": embedded.usage,
    }
    return json_response(answer, embedded.headers)


def pair_up(num_queries: int, num_documents: int, field: str = "query") -> list[tuple[int, int]]:
    """Return which items are compared, documents counted behind the queries.

    Args:
        num_queries: of the request.
        num_documents: likewise.
        field: that held the queries, for errors.

    Raises:
        ServiceError: 422 there is neither one query nor one for each document.
    """
    if num_queries not in (1, num_documents):
        raise ServiceError(
            422,
            "invalid_input",
            f"{num_queries} queries cannot be paired with {num_documents} documents; give one "
            "query, or as many as documents",
            param=field,
        )
    return [(i if num_queries > 1 else 0, num_queries + i) for i in range(num_documents)]


async def _score(
    api: ApiContext,
    request: Request,
    body: _ScoringBody,
    sides: tuple[tuple[ParsedItem, ...], tuple[ParsedItem, ...]],
    fields: tuple[str, str],
    pairs: Sequence[tuple[int, int]],
) -> tuple[Embedded, NDArray[np.float32]]:
    """Return the vectors of both sides, and float32 [pairs]."""
    info = api.service.info()
    scoring = choose_scoring(body.scoring)
    choices = side_choices(info, body.model, body.task)
    options = _options(body, scoring, info)
    embedded = await embed_pairs(api, request, sides, fields, choices, options)
    return embedded, await score_pairs(embedded.result, pairs, scoring)


def _options(body: _ScoringBody, scoring: Scoring, info: ModelInfo) -> EmbedCall:
    multi = scoring == "maxsim"
    return EmbedCall(
        items=(),
        single=not multi,
        multi=multi,
        max_length=text_length(body.truncate_prompt_tokens, info),
        truncate=truncation(body.truncate),
    )


def _one_query(value: object) -> tuple[ParsedItem, ...]:
    items = parse_side(value, "query")
    if isinstance(value, list):
        raise ServiceError(
            422, "invalid_field", "query is a list; give one text or image", param="query"
        )
    return items


def _repeated(document: object, asked: bool | None) -> dict[str, object]:
    """Return the part of a result that repeats its document.

    Texts are repeated unless a request says otherwise, as Jina's API does and its clients rely on;
    images, which may be megabytes, only where it asks for them.
    """
    is_text = isinstance(document, str) and not is_image_uri(document)
    if asked is False or (asked is None and not is_text):
        return {}
    return {"document": {"text": document} if isinstance(document, str) else document}
