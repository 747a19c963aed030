"""Routes of the web page: its three files, what it shows of the model, and the vectors it compares.

The page keeps the vectors and compares them itself, so that the server holds nothing between
requests and an image is embedded once, however often it is searched.
"""

import base64
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trine.runtime.bundle.model_config import PROMPTS
from trine.runtime.inputs import ImageText
from trine.runtime.serving.api.endpoint import json_response
from trine.runtime.serving.api.requests.bodies import Body, read_body
from trine.runtime.serving.api.requests.tasks import TaskChoice, choose_task
from trine.runtime.serving.api.responses.errors import answer_error
from trine.runtime.serving.http.request_context import call_context
from trine.runtime.serving.http.response_headers import embedding_headers
from trine.runtime.serving.media.image_source import is_url
from trine.runtime.serving.service.calls import (
    CallContext,
    EmbedCall,
    Embedding,
    EmbedItem,
    EmbedResult,
    ServiceError,
    TokenizedText,
)
from trine.runtime.serving.service.item_fields import ItemField, ItemPlace, place_of
from trine.runtime.serving.service.refusals import at_item, item_error

__all__ = ["page_routes"]

#: Path, file and type of what the page consists of.
PARTS = (
    ("/", "index.html", "text/html; charset=utf-8"),
    ("/page/page.css", "page.css", "text/css; charset=utf-8"),
    ("/page/page.js", "page.js", "text/javascript; charset=utf-8"),
)
#: The page may load its own parts and show images that were dropped on it, and nothing else.
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
#: Of one request of the page, which sends a few at a time.
MAX_ITEMS = 64
#: Where that request has its items.
FIELDS = (ItemField("items"),)


class PageItem(msgspec.Struct, frozen=True, kw_only=True):
    """A text or an image (data URI or base64)."""

    text: str | None = None
    image: str | None = None


class PageBody(Body, frozen=True, kw_only=True):
    """Body of POST /page/embed."""

    items: list[PageItem]
    role: Literal["query", "passage"]
    task: str | None = None


def page_routes(
    service: Embedding, read_image: Callable[[str], Awaitable[bytes]], *, max_body_bytes: int
) -> list[Route]:
    """Return the page's routes.

    Args:
        service: that embeds.
        read_image: from a data URI, base64 or a URL to an image file within the limits.
        max_body_bytes: of a request's body.
    """

    async def embed(request: Request) -> Response:
        try:
            body = await read_body(request, PageBody, max_body_bytes)
            return await _embed(request, body, service, read_image)
        except ServiceError as error:
            return answer_error(request, error)

    async def model(_: Request) -> Response:
        info = service.info()
        return json_response(
            {
                "name": info.name,
                "tasks": info.tasks,
                "default_task": info.default_task,
                "engine": info.engine,
                "precision": info.precision,
            }
        )

    return [
        *(_file_route(path, name, kind) for path, name, kind in PARTS),
        Route("/page/model", model, methods=["GET"]),
        Route("/page/embed", embed, methods=["POST"]),
    ]


def _file_route(path: str, name: str, kind: str) -> Route:
    content = (files("trine.runtime.serving.page") / name).read_bytes()

    async def answer(_: Request) -> Response:
        return Response(content, 200, HEADERS, kind)

    return Route(path, answer, methods=["GET"], name=f"page:{path}")


async def _embed(
    request: Request,
    body: PageBody,
    service: Embedding,
    read_image: Callable[[str], Awaitable[bytes]],
) -> Response:
    """Answer with both kinds of vectors of each item, its tokens and its images' grids."""
    if not 1 <= len(body.items) <= MAX_ITEMS:
        message = f"items has {len(body.items)} entries; send 1 to {MAX_ITEMS}"
        raise ServiceError(422, "invalid_items", message, param="items")
    info = service.info()
    choice = choose_task(info, task=body.task, role=body.role, role_field="role")
    context = call_context(request)
    items = [
        await _item(item, place_of(FIELDS, index), choice, read_image, context)
        for index, item in enumerate(body.items)
    ]
    call = EmbedCall(items=tuple(items), single=True, multi=True, fields=FIELDS)
    result = await service.embed(call, context)
    texts = [str(item.content) for item in items if isinstance(item.content, str)]
    # As the service does: both roles of a symmetric task have one prefix.
    prompt = "query" if choice.task == "text-matching" else choice.prompt
    shown = iter(await service.tokenize(texts, prompt) if texts else ())
    content = {
        "items": [
            _vectors(result, index)
            | {
                "tokens": _spellings(next(shown), PROMPTS[prompt] + str(item.content))
                if isinstance(item.content, str)
                else None
            }
            for index, item in enumerate(items)
        ],
        "timings": {
            "prepare": result.timings.prepare_s * 1000,
            "queue": result.timings.queue_s * 1000,
            "engine": result.timings.engine_s * 1000,
            "total": result.timings.total_s * 1000,
        },
    }
    return json_response(content, embedding_headers(info, call, result))


async def _item(
    item: PageItem,
    place: ItemPlace,
    choice: TaskChoice,
    read_image: Callable[[str], Awaitable[bytes]],
    context: CallContext,
) -> EmbedItem:
    if (item.text is None) == (item.image is None):
        message = f"{place} must have a text or an image, and not both"
        raise item_error(place, message, code="invalid_items")
    if item.image is None:
        return EmbedItem(item.text or "", choice.task, choice.prompt)
    try:
        image = await read_image(item.image)
        if is_url(item.image):
            context.hold(len(image))
    except ServiceError as error:
        raise at_item(place, error) from error
    return EmbedItem(ImageText((image,)), choice.task, choice.prompt)


def _vectors(result: EmbedResult, index: int) -> dict[str, object]:
    """Return one item's vectors, little-endian float32 in base64, and where its images lie."""
    if result.single is None or result.multi is None:
        raise TypeError(result)
    multi = result.multi[index]
    return {
        "single": _base64(result.single[index]),
        "multi": _base64(multi),
        "rows": multi.shape[0],
        "width": multi.shape[1],
        "images": [
            {"start": span.start, "rows": span.rows, "columns": span.columns}
            for span in result.image_spans[index]
        ],
        "truncated": bool(result.truncated[index]),
    }


def _base64(values: NDArray[np.float32]) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode("ascii")


def _spellings(tokens: TokenizedText, text: str) -> list[str]:
    """Return the characters that each token of `text` stands for."""
    return [text[start:end] for start, end in tokens.offsets]
