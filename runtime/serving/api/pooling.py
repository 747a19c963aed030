"""`POST /pooling`: vLLM's path for vectors in `data[i].data`.

There `task` says what is answered, a vector a token or an item; an adapter's name is taken too.
With base64 an item is one flat string, and `shape` says what it was.
"""

import base64

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trine.runtime.serving.api.endpoint import ApiContext, embed_items, endpoint, json_response
from trine.runtime.serving.api.requests.bodies import read_body
from trine.runtime.serving.api.requests.embeddings import EmbeddingsBody, plan_embeddings
from trine.runtime.serving.api.responses.embeddings import multi_vectors_of, single_vectors_of
from trine.runtime.serving.api.responses.output_types import encode_matrix, encode_rows

__all__ = ["routes"]

#: vLLM's names for what is answered: whether it is one vector a token.
POOLING_TASKS = {"token_embed": True, "embed": False}


def routes(api: ApiContext) -> list[Route]:
    """Return the routes of this dialect."""
    return [endpoint(api, "/pooling", create_pooling)]


async def create_pooling(api: ApiContext, request: Request) -> Response:
    """Answer with one vector a token of each item, or one an item for the task "embed"."""
    body = await read_body(request, EmbeddingsBody, api.max_body_bytes)
    info = api.service.info()
    multi = POOLING_TASKS.get(body.task or "token_embed", True)
    task = None if body.task in POOLING_TASKS else body.task
    plan = plan_embeddings(body, info, multi=multi, task=task)
    choices = [plan.choice] * len(plan.items)
    embedded = await embed_items(api, request, plan.items, choices, plan.options, plan.fields)
    flat = plan.form.types == ("base64",) and not plan.form.keyed
    vectors = (
        list(multi_vectors_of(embedded.result)) if multi else [*single_vectors_of(embedded.result)]
    )
    values: list[object]
    if flat:
        values = [base64.b64encode(v.astype("<f4").tobytes()).decode("ascii") for v in vectors]
    elif multi:
        values = [await encode_matrix(matrix, plan.form) for matrix in vectors]
    else:
        values = await encode_rows(single_vectors_of(embedded.result), plan.form)
    data = [
        {
            "object": "pooling",
            "index": i,
            "data": value,
            "shape": np.shape(vector),
            "truncated": bool(embedded.result.truncated[i]),
        }
        for i, (value, vector) in enumerate(zip(values, vectors, strict=True))
    ]
    body_out = {"object": "list", "data": data, "model": info.name, "usage": embedded.usage}
    return json_response(body_out, embedded.headers)
