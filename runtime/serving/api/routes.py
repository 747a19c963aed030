"""All routes of the dialects, for the application to mount."""

from starlette.routing import Route

from trine.runtime.serving.api import kserve, models, openai_jina, openapi, pooling, scoring, tei
from trine.runtime.serving.api.endpoint import ApiContext
from trine.runtime.serving.api.foreign_token_ids import ForeignTokenIds, open_cl100k
from trine.runtime.serving.api.image_inputs import ImageReader
from trine.runtime.serving.calls import Embedding
from trine.runtime.serving.settings import ServerSettings

__all__ = ["api_routes"]


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
        read_image: reads one picture, within the limits.

    Raises:
        DependencyError: token ids are to be decoded, and tiktoken is not installed.
        EngineError: likewise, and its vocabulary is not available.
    """
    decode = open_cl100k() if settings.foreign_token_ids == "cl100k" else None
    api = ApiContext(
        service=service,
        read_image=read_image,
        max_body_bytes=settings.max_body_bytes,
        foreign_ids=ForeignTokenIds(decode),
    )
    dialects = (openai_jina, pooling, scoring, models, tei, kserve, openapi)
    return [route for dialect in dialects for route in dialect.routes(api)]
