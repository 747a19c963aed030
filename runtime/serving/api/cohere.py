"""Cohere's paths: `/v2/embed` and `/v1/embed`.

`input_type` says the role or the task: `search_query`, `search_document`, `classification`,
`clustering`. `/v1/embed` without `embedding_types` answers a bare list of vectors.
"""

import uuid
from typing import Annotated, Any

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trine.runtime.serving.api.endpoint import ApiContext, embed_items, endpoint, json_response
from trine.runtime.serving.api.requests.bodies import Body, read_body
from trine.runtime.serving.api.requests.embeddings import (
    kept_dimensions,
    text_length,
    truncation,
)
from trine.runtime.serving.api.requests.items import Images, ParsedItem
from trine.runtime.serving.api.requests.messages import parse_content
from trine.runtime.serving.api.requests.tasks import choose_task
from trine.runtime.serving.api.responses.embeddings import single_vectors_of
from trine.runtime.serving.api.responses.output_types import choose_output, encode_rows
from trine.runtime.serving.service.calls import EmbedCall, ServiceError
from trine.runtime.serving.service.item_fields import ItemField

__all__ = ["CohereBody", "routes"]

#: Fields that hold the items, of which a request gives one.
SOURCES = ("texts", "images", "inputs")
VERSIONS = {"/v1/embed": "1", "/v2/embed": "2"}


class CohereInput(Body, frozen=True, kw_only=True):
    """One item of texts and images."""

    content: Annotated[Any, Meta(extra_json_schema={"type": "array", "items": {"type": "object"}})]


class CohereBody(Body, frozen=True, kw_only=True):
    """Texts and images to embed, in Cohere's fields."""

    texts: list[str] | None = None
    images: Annotated[
        list[str] | None, Meta(description="data URIs, base64 or, where the server fetches, URLs")
    ] = None
    inputs: Annotated[
        list[CohereInput] | None, Meta(description="items of texts and images in one")
    ] = None
    model: str | None = None
    input_type: Annotated[
        str | None,
        Meta(description="search_query, search_document, classification, clustering or image"),
    ] = None
    embedding_types: Annotated[
        list[str] | None, Meta(description="float (default), base64, binary, ubinary")
    ] = None
    output_dimension: Annotated[
        Annotated[int, Meta(ge=0)] | None, Meta(description="leading dimensions to keep")
    ] = None
    max_tokens: Annotated[int | None, Meta(description="tokens kept of a text")] = None
    truncate: Annotated[str | None, Meta(description="END (default), START or NONE")] = None


def routes(api: ApiContext) -> list[Route]:
    """Return the routes of this dialect."""
    return [endpoint(api, path, create_vectors) for path in VERSIONS]


async def create_vectors(api: ApiContext, request: Request) -> Response:
    """Answer with one vector an item, keyed by type."""
    body = await read_body(request, CohereBody, api.max_body_bytes)
    info = api.service.info()
    field, items = _items(body)
    dimensions = kept_dimensions(body.output_dimension, info.dimensions, "output_dimension")
    form = choose_output(
        {"embedding_types": body.embedding_types or ["float"]},
        dimensions or info.default_dimensions,
    )
    role = "passage" if body.input_type == "image" else body.input_type
    choice = choose_task(info, model=body.model, role=role)
    options = EmbedCall(
        items=(),
        dimensions=dimensions,
        max_length=text_length(body.max_tokens, info, "max_tokens"),
        truncate=truncation(body.truncate),
    )
    embedded = await embed_items(
        api, request, items, [choice] * len(items), options, (ItemField(field),)
    )
    rows = await encode_rows(single_vectors_of(embedded.result), form)
    by_type = {name: [row[name] for row in rows if isinstance(row, dict)] for name in form.types}
    version = VERSIONS[request.url.path]
    plain = version == "1" and body.embedding_types is None
    return json_response(
        {
            "id": str(uuid.uuid4()),
            "embeddings": by_type["float"] if plain else by_type,
            "response_type": "embeddings_floats" if plain else "embeddings_by_type",
            "texts": body.texts or [],
            "meta": {
                "api_version": {"version": version},
                "billed_units": {"input_tokens": embedded.usage["total_tokens"]},
            },
        },
        embedded.headers,
    )


def _items(body: CohereBody) -> tuple[str, list[ParsedItem]]:
    """Return the field that holds a request's items, and them."""
    given = [name for name in SOURCES if getattr(body, name)]
    if len(given) != 1:
        raise ServiceError(
            422,
            "invalid_input",
            f"the request has items in {given or 'none'} of {list(SOURCES)}; give one of them",
            param=given[-1] if given else SOURCES[0],
        )
    if body.texts:
        return "texts", list(body.texts)
    if body.images:
        return "images", [Images((source,)) for source in body.images]
    contents = [entry.content for entry in body.inputs or ()]
    return "inputs", [parse_content(content, i, "inputs") for i, content in enumerate(contents)]
