"""`/v1/embeddings`, `/embeddings`, `/v1/multi-vector`: OpenAI's and Jina's contracts; Azure's path.

On `/v1/multi-vector`, `embedding` and `embeddings` hold the same: some clients read the one, some
the other, and some both into one field.
"""

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trine.runtime.serving.api.endpoint import ApiContext, embed_items, endpoint
from trine.runtime.serving.api.requests.bodies import read_body
from trine.runtime.serving.api.requests.embeddings import EmbeddingsBody, plan_embeddings
from trine.runtime.serving.api.responses.embeddings import embeddings_response
from trine.runtime.serving.api.responses.raw_bytes import accepted_raw_type

__all__ = ["routes"]


def routes(api: ApiContext) -> list[Route]:
    """Return the routes of this dialect."""
    return [
        endpoint(api, "/v1/embeddings", create_embeddings),
        endpoint(api, "/embeddings", create_embeddings),
        endpoint(api, "/v1/multi-vector", create_multi_vectors),
        endpoint(api, "/openai/deployments/{model}/embeddings", create_embeddings),
    ]


async def create_embeddings(api: ApiContext, request: Request) -> Response:
    """Answer with one vector an item, or one a token with `return_multivector`.

    Azure's path names the model (its deployment), and the body need not.
    """
    body = await read_body(request, EmbeddingsBody, api.max_body_bytes)
    if body.model is None:
        body = msgspec.structs.replace(body, model=request.path_params.get("model"))
    return await _answer(api, request, body, body.return_multivector is True, False)


async def create_multi_vectors(api: ApiContext, request: Request) -> Response:
    """Answer with one vector a token of each item."""
    body = await read_body(request, EmbeddingsBody, api.max_body_bytes)
    return await _answer(api, request, body, True, True)


async def _answer(
    api: ApiContext, request: Request, body: EmbeddingsBody, multi: bool, both_names: bool
) -> Response:
    info = api.service.info()
    plan = plan_embeddings(body, info, multi=multi, task=body.task)
    raw = accepted_raw_type(request.headers.get("accept", ""), plan.form)
    choices = [plan.choice] * len(plan.items)
    embedded = await embed_items(api, request, plan.items, choices, plan.options, plan.fields)
    return await embeddings_response(embedded, plan.form, raw, info.name, both_names)
