"""Calls the service for all dialects, and writes their answers and errors."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trine.runtime.serving.api.requests.images import ImageReader, read_images
from trine.runtime.serving.api.requests.items import ParsedItem
from trine.runtime.serving.api.requests.tasks import TaskChoice
from trine.runtime.serving.api.requests.token_ids import TokenIdPolicy
from trine.runtime.serving.api.responses.errors import answer_error
from trine.runtime.serving.http.request_context import call_context
from trine.runtime.serving.http.response_headers import embedding_headers
from trine.runtime.serving.service.calls import (
    EmbedCall,
    Embedding,
    EmbedItem,
    EmbedResult,
    ServiceError,
)
from trine.runtime.serving.service.item_fields import INPUT, ItemFields

__all__ = ["ApiContext", "Embedded", "Handler", "embed_items", "endpoint", "json_response"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiContext:
    """What handlers work with.

    Attributes:
        service: that embeds.
        read_image: reads one image of a request.
        max_body_bytes: of a request's body, before and after decompression.
        token_ids: decides whether a request may give token ids.
    """

    service: Embedding
    read_image: ImageReader
    max_body_bytes: int
    token_ids: TokenIdPolicy


@dataclass(frozen=True, slots=True)
class Embedded:
    """A call's result and the headers that say what computed it."""

    result: EmbedResult
    headers: Mapping[str, str]

    @property
    def usage(self) -> dict[str, int]:
        """Token counts as OpenAI's and Jina's clients read them."""
        tokens = int(self.result.num_tokens.sum())
        return {"prompt_tokens": tokens, "total_tokens": tokens}


Handler: TypeAlias = Callable[[ApiContext, Request], Awaitable[Response]]


def endpoint(
    api: ApiContext, path: str, handler: Handler, methods: Sequence[str] = ("POST",)
) -> Route:
    """Return the route of a handler, whose `ServiceError`s become the path's error bodies."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(api, request)
        except ServiceError as error:
            return answer_error(request, error)

    return Route(path, answer, methods=list(methods), name=f"{handler.__name__}:{path}")


def json_response(content: object, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response of JSON; numpy arrays and `orjson.Fragment` may be in it."""
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, 200, headers, "application/json")


async def embed_items(
    api: ApiContext,
    request: Request,
    items: Sequence[ParsedItem],
    choices: Sequence[TaskChoice],
    options: EmbedCall,
    fields: ItemFields = INPUT,
) -> Embedded:
    """Read the images of a request's items and embed them.

    Args:
        api: where to.
        request: that they came in.
        items: as parsed.
        choices: task and prompt of each.
        options: of the call; its items and fields are replaced.
        fields: of the request that held the items, for errors.

    Raises:
        ServiceError: an image or item cannot be used, or the service refuses the call.
    """
    info = api.service.info()
    resolved = api.token_ids.resolve(items, fields)
    context = call_context(request)
    contents = await read_images(
        resolved, api.read_image, max_items=info.max_items, hold=context.hold, fields=fields
    )
    call = options.with_items(
        tuple(
            EmbedItem(content, choice.task, choice.prompt)
            for content, choice in zip(contents, choices, strict=True)
        ),
        fields,
    )
    result = await api.service.embed(call, context)
    return Embedded(result, embedding_headers(info, call, result))
