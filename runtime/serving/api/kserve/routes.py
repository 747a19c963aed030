"""KServe v2 (`/v2/…`) over HTTP, as Triton's client and litellm speak it."""

import asyncio
import zlib
from collections.abc import Mapping

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trine.runtime.serving.api.endpoint import ApiContext, embed_items, endpoint, json_response
from trine.runtime.serving.api.kserve.inputs import items_of, options_of, task_choices
from trine.runtime.serving.api.kserve.models import (
    VERSION,
    ServedModel,
    config,
    find_model,
    metadata,
    served_names,
)
from trine.runtime.serving.api.kserve.protocol import (
    HEADER_LENGTH,
    InferRequest,
    Tensor,
    TensorData,
    parse_infer,
    write_infer,
)
from trine.runtime.serving.api.requests.bodies import WINDOW_BITS, read_bytes
from trine.runtime.serving.api.responses.embeddings import multi_vectors_of, single_vectors_of
from trine.runtime.serving.service.calls import EmbedResult, ServiceError
from trine.runtime.serving.service.item_fields import ItemField

__all__ = ["routes"]

#: Level of zlib: vectors hardly shrink, so that more effort buys nothing.
COMPRESSION_LEVEL = 1


def routes(api: ApiContext) -> list[Route]:
    """Return the routes of this dialect."""
    model = "/v2/models/{model:path}"
    paths = [
        # Longer paths first: a model's name may itself hold slashes.
        (f"{model}/versions/{{version}}/infer", infer, ("POST",)),
        (f"{model}/versions/{{version}}/ready", show_model_ready, ("GET",)),
        (f"{model}/versions/{{version}}/config", show_config, ("GET",)),
        (f"{model}/versions/{{version}}", show_model, ("GET",)),
        (f"{model}/infer", infer, ("POST",)),
        (f"{model}/ready", show_model_ready, ("GET",)),
        (f"{model}/config", show_config, ("GET",)),
        (model, show_model, ("GET",)),
        ("/v2", show_server, ("GET",)),
        ("/v2/health/live", show_live, ("GET",)),
        ("/v2/health/ready", show_ready, ("GET",)),
        ("/v2/repository/index", list_repository, ("GET", "POST")),
    ]
    return [endpoint(api, path, handler, methods) for path, handler, methods in paths]


async def show_server(api: ApiContext, request: Request) -> Response:
    """Answer with what the server is."""
    info = api.service.info()
    return json_response(
        {"name": "trine", "version": info.version, "extensions": ["binary_tensor_data"]}
    )


async def show_live(api: ApiContext, request: Request) -> Response:
    """Answer that the process is alive."""
    return json_response({"live": True})


async def show_ready(api: ApiContext, request: Request) -> Response:
    """Answer whether requests are answered now."""
    _require_ready(api)
    return json_response({"ready": True})


async def list_repository(api: ApiContext, request: Request) -> Response:
    """Answer with the models and their state."""
    state = "READY" if api.service.state == "ready" else "UNAVAILABLE"
    return json_response(
        [
            {"name": name, "version": VERSION, "state": state, "reason": ""}
            for name in served_names(api.service.info())
        ]
    )


async def show_model(api: ApiContext, request: Request) -> Response:
    """Answer with a model's inputs and outputs."""
    return json_response(metadata(_model(api, request)))


async def show_config(api: ApiContext, request: Request) -> Response:
    """Answer with a model's configuration."""
    return json_response(config(_model(api, request)))


async def show_model_ready(api: ApiContext, request: Request) -> Response:
    """Answer whether a model answers requests now."""
    model = _model(api, request)
    _require_ready(api)
    return json_response({"name": model.name, "ready": True})


async def infer(api: ApiContext, request: Request) -> Response:
    """Answer with the vectors of texts and images."""
    raw = await read_bytes(request, api.max_body_bytes)
    model = _model(api, request)
    info = api.service.info()
    asked = parse_infer(raw, request.headers.get(HEADER_LENGTH), info.max_items)
    wanted = _wanted_outputs(model, asked)
    items = items_of(asked)
    choices = task_choices(info, model, asked, len(items))
    options = options_of(info, model, asked)
    held = "input_text" if "input_text" in asked.inputs else "image"
    fields = (ItemField(held),)
    embedded = await embed_items(api, request, items, choices, options, fields)
    tensors = _outputs(model, embedded.result)
    answer = await write_infer(
        model.name, VERSION, asked.id, [(tensors[name], as_bytes) for name, as_bytes in wanted]
    )
    headers = dict(embedded.headers)
    kind = "application/json"
    if answer.header_length is not None:
        headers[HEADER_LENGTH] = str(answer.header_length)
        kind = "application/octet-stream"
    content = answer.content
    encoding = _accepted_encoding(request.headers.get("accept-encoding", ""))
    if encoding is not None:
        content = await asyncio.to_thread(_compress, content, encoding)
        headers["content-encoding"] = encoding
    return Response(content, 200, headers, kind)


def _model(api: ApiContext, request: Request) -> ServedModel:
    path = request.path_params
    return find_model(api.service.info(), path["model"], path.get("version"))


def _require_ready(api: ApiContext) -> None:
    if api.service.state != "ready":
        raise ServiceError(503, "not_ready", f"the server is {api.service.state}", retry_after=5)


def _wanted_outputs(model: ServedModel, asked: InferRequest) -> list[tuple[str, bool]]:
    """Return the outputs to answer with, each with whether as bytes."""
    known = [spec.name for spec in model.outputs]
    for name in asked.outputs:
        if name not in known:
            raise ServiceError(
                400,
                "unknown_output",
                f"the model {model.name!r} has no output {name!r}; it has {known}",
            )
    if asked.outputs:
        return list(asked.outputs.items())
    return [(spec.name, asked.binary) for spec in model.outputs if spec.usual]


def _outputs(model: ServedModel, result: EmbedResult) -> Mapping[str, Tensor]:
    found: dict[str, TensorData] = {"num_tokens": result.num_tokens, "truncated": result.truncated}
    if model.multi:
        rows = multi_vectors_of(result)
        found["embeddings"] = np.concatenate(list(rows))
        found["offsets"] = np.cumsum([0, *(len(matrix) for matrix in rows)], dtype=np.int64)
    else:
        found["embedding"] = single_vectors_of(result)
    return {
        spec.name: Tensor(spec.name, spec.datatype, np.shape(found[spec.name]), found[spec.name])
        for spec in model.outputs
    }


def _accepted_encoding(header: str) -> str | None:
    """Return the first compression that a client names, or None if it names none."""
    for entry in header.lower().split(","):
        name, _, parameters = entry.partition(";")
        if name.strip() in WINDOW_BITS and parameters.replace(" ", "") not in ("q=0", "q=0.0"):
            return name.strip()
    return None


def _compress(content: bytes, encoding: str) -> bytes:
    stream = zlib.compressobj(COMPRESSION_LEVEL, wbits=WINDOW_BITS[encoding])
    return stream.compress(content) + stream.flush()
