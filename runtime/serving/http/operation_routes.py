"""Routes for those who run the server: health, metrics, adapters."""

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from trine.runtime.serving.api.responses.errors import answer_error
from trine.runtime.serving.observability.metrics import ServerMetrics, render_metrics
from trine.runtime.serving.service.calls import Embedding, ServiceError
from trine.runtime.serving.workers.control import AdapterControl

__all__ = ["operation_routes"]


class AdapterBody(msgspec.Struct, forbid_unknown_fields=True):
    """What POST /admin/adapters takes.

    Attributes:
        name: that calls will pass as task.
        folder: of PEFT's files, within the server's adapter folder.
        task: which of the folder's adapters.
    """

    name: str
    folder: str
    task: str | None = None


def operation_routes(
    service: Embedding, adapters: AdapterControl, metrics: ServerMetrics, shared: bool
) -> list[Route]:
    """Return the routes. Those of `/admin` are guarded by the request gate.

    Args:
        service: that embeds.
        adapters: changes those of all workers.
        metrics: of this process.
        shared: whether other processes' metrics are to be added.
    """

    async def live(request: Request) -> Response:
        return JSONResponse({"status": "live"})

    async def ready(request: Request) -> Response:
        status = 200 if service.state == "ready" else 503
        return JSONResponse({"status": service.state}, status)

    async def show_metrics(request: Request) -> Response:
        rendered = render_metrics(metrics, shared)
        return Response(rendered.body, media_type=rendered.content_type)

    async def list_adapters(request: Request) -> Response:
        info = service.info()
        return JSONResponse({"kind": info.adapters, "adapters": dict(info.adapter_hashes)})

    async def load(request: Request) -> Response:
        try:
            body = msgspec.json.decode(await request.body(), type=AdapterBody)
            await adapters.load_adapter(body.name, body.folder, body.task)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
            error = ServiceError(400, "invalid_body", f"the body is not understood: {cause}")
            return answer_error(request, error)
        except ServiceError as error:
            return answer_error(request, error)
        # None if somebody has unloaded it since.
        return JSONResponse(
            {"name": body.name, "hash": service.info().adapter_hashes.get(body.name)}, 201
        )

    async def unload(request: Request) -> Response:
        try:
            await adapters.unload_adapter(request.path_params["name"])
        except ServiceError as error:
            return answer_error(request, error)
        return Response(status_code=204)

    return [
        Route("/health", live, methods=["GET"]),
        Route("/health/live", live, methods=["GET"]),
        Route("/health/ready", ready, methods=["GET"]),
        Route("/metrics", show_metrics, methods=["GET"]),
        Route("/admin/adapters", list_adapters, methods=["GET"]),
        Route("/admin/adapters", load, methods=["POST"]),
        Route("/admin/adapters/{name}", unload, methods=["DELETE"]),
    ]
