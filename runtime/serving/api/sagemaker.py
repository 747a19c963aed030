"""SageMaker's contract for containers: GET `/ping` and POST `/invocations`.

A body with `inputs` is one of text-embeddings-inference's `/embed`, any other one of
`/v1/embeddings`; each is answered as there.
"""

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trine.runtime.serving.api import openai_jina, tei
from trine.runtime.serving.api.endpoint import ApiContext, endpoint, json_response
from trine.runtime.serving.api.requests.bodies import Body, read_body

__all__ = ["routes"]


class _Kind(Body, frozen=True, kw_only=True):
    """The one field that tells the two bodies apart."""

    inputs: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def routes(api: ApiContext) -> list[Route]:
    """Return the routes of this dialect."""
    return [
        endpoint(api, "/ping", ping, ("GET",)),
        endpoint(api, "/invocations", invoke),
    ]


async def ping(api: ApiContext, request: Request) -> Response:
    """Answer 200 once requests are served, 503 before and when the server ends."""
    state = api.service.state
    response = json_response({"status": state})
    response.status_code = 200 if state == "ready" else 503
    return response


async def invoke(api: ApiContext, request: Request) -> Response:
    """Answer with vectors, in the dialect that the body is written in."""
    kind = await read_body(request, _Kind, api.max_body_bytes)
    if kind.inputs is msgspec.UNSET:
        return await openai_jina.create_embeddings(api, request)
    return await tei.create_vectors(api, request)
