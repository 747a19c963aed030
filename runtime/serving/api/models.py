"""`GET /v1/models`: the names that requests may use, in OpenAI's list."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trine.runtime.serving.api.endpoint import ApiContext, endpoint, json_response
from trine.runtime.serving.api.requests.tasks import choose_task, model_names
from trine.runtime.serving.service.calls import ModelInfo

__all__ = ["routes"]


def routes(api: ApiContext) -> list[Route]:
    """Return the routes of this dialect."""
    return [
        endpoint(api, path, handler, ("GET",))
        for prefix in ("/v1/models", "/models")
        for path, handler in ((prefix, list_models), (prefix + "/{model:path}", show_model))
    ]


async def list_models(api: ApiContext, request: Request) -> Response:
    """Answer with the model's own name first, then its aliases and its names with a task."""
    info = api.service.info()
    names = model_names(info)
    return json_response({"object": "list", "data": [_entry(info, name) for name in names]})


async def show_model(api: ApiContext, request: Request) -> Response:
    """Answer with one entry of the list, or 404."""
    info = api.service.info()
    name = request.path_params["model"]
    choose_task(info, model=name)
    return json_response(_entry(info, name))


def _entry(info: ModelInfo, name: str) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": info.created,
        "owned_by": info.source.partition("/")[0],
        "root": info.source,
        "parent": None if name == info.name else info.name,
        "max_model_len": info.max_tokens,
        "description": info.note,
    }
