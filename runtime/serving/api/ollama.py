"""Ollama's paths: POST `/api/embed` and `/api/embeddings`, GET `/api/tags` and `/api/version`."""

import time
from datetime import UTC, datetime
from typing import Annotated

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trine.runtime.serving.api.endpoint import (
    ApiContext,
    Embedded,
    embed_items,
    endpoint,
    json_response,
)
from trine.runtime.serving.api.requests.bodies import Body, read_body
from trine.runtime.serving.api.requests.embeddings import kept_dimensions
from trine.runtime.serving.api.requests.items import ParsedItem
from trine.runtime.serving.api.requests.tasks import choose_task, model_names
from trine.runtime.serving.api.responses.embeddings import single_vectors_of
from trine.runtime.serving.api.responses.output_types import OutputForm, encode_rows
from trine.runtime.serving.service.calls import EmbedCall, ServiceError
from trine.runtime.serving.service.item_fields import ItemField

__all__ = ["OllamaBody", "OllamaPrompt", "routes"]

#: What Ollama's clients put behind a model's name that has no tag.
TAG = ":latest"


class OllamaBody(Body, frozen=True, kw_only=True):
    """Texts to embed, in Ollama's fields."""

    input: str | list[str]
    model: Annotated[
        str | None, Meta(description="the model, which may carry a task: name:retrieval.query")
    ] = None
    truncate: Annotated[bool | None, Meta(description="false to refuse long texts")] = None
    dimensions: Annotated[
        Annotated[int, Meta(ge=0)] | None, Meta(description="leading dimensions to keep")
    ] = None


class OllamaPrompt(Body, frozen=True, kw_only=True):
    """One text to embed, as Ollama's older clients send it."""

    prompt: str
    model: str | None = None


def routes(api: ApiContext) -> list[Route]:
    """Return the routes of this dialect."""
    return [
        endpoint(api, "/api/embed", create_vectors),
        endpoint(api, "/api/embeddings", create_vector),
        endpoint(api, "/api/tags", list_models, ("GET",)),
        endpoint(api, "/api/version", show_version, ("GET",)),
    ]


async def create_vectors(api: ApiContext, request: Request) -> Response:
    """Answer with one vector a text."""
    started = time.perf_counter_ns()
    body = await read_body(request, OllamaBody, api.max_body_bytes)
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not texts:
        raise ServiceError(
            422, "empty_input", "input is an empty list; give at least one text", param="input"
        )
    options = EmbedCall(
        items=(),
        dimensions=kept_dimensions(body.dimensions, api.service.info().dimensions),
        truncate="none" if body.truncate is False else "end",
    )
    embedded, vectors = await _embed(api, request, body.model, texts, "input", options)
    return json_response(
        {
            "model": body.model or api.service.info().name,
            "embeddings": vectors,
            "total_duration": time.perf_counter_ns() - started,
            "load_duration": 0,
            "prompt_eval_count": embedded.usage["prompt_tokens"],
        },
        embedded.headers,
    )


async def create_vector(api: ApiContext, request: Request) -> Response:
    """Answer with the vector of one text."""
    body = await read_body(request, OllamaPrompt, api.max_body_bytes)
    embedded, (vector,) = await _embed(
        api, request, body.model, [body.prompt], "prompt", EmbedCall(items=())
    )
    return json_response({"embedding": vector}, embedded.headers)


async def list_models(api: ApiContext, request: Request) -> Response:
    """Answer with the names that requests may use."""
    info = api.service.info()
    entry = {
        "modified_at": datetime.fromtimestamp(info.created, UTC).isoformat(),
        "size": 0,
        "digest": info.revision or "",
        "details": {
            "format": "onnx",
            "family": info.source.rpartition("/")[2],
            "quantization_level": info.precision,
        },
    }
    models = [{"name": name, "model": name, **entry} for name in model_names(info)]
    return json_response({"models": models})


async def show_version(api: ApiContext, request: Request) -> Response:
    """Answer with the server's version."""
    return json_response({"version": api.service.info().version})


async def _embed(
    api: ApiContext,
    request: Request,
    model: str | None,
    texts: list[str],
    field: str,
    options: EmbedCall,
) -> tuple[Embedded, list[object]]:
    choice = choose_task(
        api.service.info(), model=None if model is None else model.removesuffix(TAG)
    )
    items: list[ParsedItem] = [*texts]
    embedded = await embed_items(
        api, request, items, [choice] * len(items), options, (ItemField(field),)
    )
    return embedded, await encode_rows(single_vectors_of(embedded.result), OutputForm())
