"""All routes of the dialects, for the application to mount."""

from starlette.routing import Route

from trine.runtime.serving.api import (
    cohere,
    models,
    ollama,
    openai_jina,
    pooling,
    sagemaker,
    scoring,
    tei,
)
from trine.runtime.serving.api.endpoint import ApiContext
from trine.runtime.serving.api.kserve import routes as kserve
from trine.runtime.serving.api.openapi import document as openapi
from trine.runtime.serving.api.requests.images import ImageReader
from trine.runtime.serving.api.requests.token_ids import TokenIdPolicy, open_cl100k
from trine.runtime.serving.config.settings import ServerSettings
from trine.runtime.serving.service.calls import Embedding

__all__ = ["DIALECTS", "api_routes"]

DIALECTS = (
    openai_jina,
    pooling,
    scoring,
    models,
    tei,
    cohere,
    ollama,
    sagemaker,
    kserve,
    openapi,
)


def api_routes(
    service: Embedding,
    settings: ServerSettings,
    read_image: ImageReader,
) -> list[Route]:
    """Return the routes of all dialects, POST `/` among them; GET `/` is the web page's.

    Handlers need a `CallContext` in their request (`set_call_context`).

    Args:
        service: that embeds.
        settings: limits, and what token ids are.
        read_image: reads one image, within the limits.

    Raises:
        DependencyError: token ids are to be decoded, and tiktoken is not installed.
        EngineError: likewise, and its vocabulary is not available.
    """
    decode = open_cl100k() if settings.token_ids == "cl100k" else None
    api = ApiContext(
        service=service,
        read_image=read_image,
        max_body_bytes=settings.max_body_bytes,
        token_ids=TokenIdPolicy(settings.token_ids, decode),
    )
    return [route for dialect in DIALECTS for route in dialect.routes(api)]
