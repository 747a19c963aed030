"""All routes of the dialects, for the application to mount."""

import base64
from collections.abc import Awaitable, Callable

from starlette.routing import Route

from trine.runtime.serving.api import kserve, models, openai_jina, openapi, pooling, scoring, tei
from trine.runtime.serving.api.endpoint import ApiContext
from trine.runtime.serving.api.foreign_token_ids import ForeignTokenIds, open_cl100k
from trine.runtime.serving.calls import Embedding
from trine.runtime.serving.settings import ServerSettings

__all__ = ["api_routes"]


def api_routes(
    service: Embedding,
    settings: ServerSettings,
    read_source: Callable[[str], Awaitable[bytes]],
) -> list[Route]:
    """Return the routes of all dialects, POST `/` among them; GET `/` is the web page's.

    Handlers need a `CallContext` in their request (`set_call_context`).

    Args:
        service: that embeds.
        settings: limits, and what token ids are.
        read_source: from a data URI, base64 or a URL to the bytes of an image file within the
            limits; raises ServiceError.

    Raises:
        DependencyError: token ids are to be decoded, and tiktoken is not installed.
        EngineError: likewise, and its vocabulary is not available.
    """

    async def read_image(source: str | bytes) -> bytes:
        # One reader, one set of limits: bytes that need no decoding take the same way.
        text = source if isinstance(source, str) else base64.b64encode(source).decode("ascii")
        return await read_source(text)

    decode = open_cl100k() if settings.foreign_token_ids == "cl100k" else None
    api = ApiContext(
        service=service,
        read_image=read_image,
        max_body_bytes=settings.max_body_bytes,
        foreign_ids=ForeignTokenIds(decode),
    )
    dialects = (openai_jina, pooling, scoring, models, tei, kserve, openapi)
    return [route for dialect in dialects for route in dialect.routes(api)]
