"""The ASGI application: the dialects' routes, the web page and the operator's, behind the gate."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from trine.runtime.serving.api.kserve.protocol import HEADER_LENGTH
from trine.runtime.serving.api.responses.errors import (
    answer_error,
    answer_http_exception,
    error_response,
)
from trine.runtime.serving.api.routes import api_routes
from trine.runtime.serving.config.settings import ServerSettings
from trine.runtime.serving.http.api_keys import KeyRing
from trine.runtime.serving.http.entry_checks import EntryChecks
from trine.runtime.serving.http.operation_routes import operation_routes
from trine.runtime.serving.http.rate_limits import RateLimits
from trine.runtime.serving.http.request_body import BodyReader
from trine.runtime.serving.http.request_context import note_error
from trine.runtime.serving.http.request_gate import RequestGate
from trine.runtime.serving.media.image_source import ImageLimits, read_image
from trine.runtime.serving.media.url_fetch import FetchLimits, UrlFetcher
from trine.runtime.serving.observability.logs import RequestLog
from trine.runtime.serving.observability.loop_lag import LoopLag
from trine.runtime.serving.observability.metrics import ServerMetrics
from trine.runtime.serving.observability.request_record import RequestRecord
from trine.runtime.serving.observability.tracing import Tracer
from trine.runtime.serving.page.routes import page_routes
from trine.runtime.serving.service.calls import ServiceError
from trine.runtime.serving.service.service import EmbeddingService
from trine.runtime.serving.workers.control import AdapterControl

__all__ = ["Application", "make_app"]

#: What a route calls.
Handler: TypeAlias = Callable[[Request], Awaitable[Response]]
#: Headers of responses that scripts of other origins may read.
EXPOSED_HEADERS = (
    "x-request-id",
    "traceparent",
    "retry-after",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "server-timing",
    "x-trine-model",
    "x-trine-task",
    "x-trine-adapter",
    "x-trine-engine",
    "x-trine-precision",
    "x-trine-truncated",
    # Without these, a body of bytes means nothing.
    "x-trine-dtype",
    "x-trine-shape",
    "x-trine-offsets-bytes",
    "x-trine-prompt-tokens",
    HEADER_LENGTH,
)
#: Seconds for which a browser remembers that an origin is allowed.
PREFLIGHT_AGE = 600


@dataclass(frozen=True, slots=True)
class Application:
    """The application.

    Attributes:
        asgi: what a server runs.
        gate: the part of it that knows which requests are under way.
        log: of requests; what it holds is to be written at the end.
    """

    asgi: ASGIApp
    gate: RequestGate
    log: RequestLog


def make_app(  # noqa: PLR0913 - the parts that meet here
    service: EmbeddingService,
    settings: ServerSettings,
    metrics: ServerMetrics,
    limits: RateLimits,
    tracer: Tracer,
    lag: LoopLag,
    *,
    adapters: AdapterControl | None = None,
    shared_metrics: bool = False,
) -> Application:
    """Return the application that serves `service`.

    Args:
        service: that embeds.
        settings: of the server.
        metrics: of this process.
        limits: of each key.
        tracer: of requests.
        lag: of the event loop that runs the application.
        adapters: changes the adapters of all workers; None where there is only this process.
        shared_metrics: whether the metrics of other processes are to be added to those of this.

    Raises:
        InputError: a host to fetch from is no host.
        DependencyError: a package for an option that was chosen is missing.
    """
    image_limits = ImageLimits(
        max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels
    )
    fetcher = None
    if settings.fetch_hosts:
        fetch_limits = FetchLimits(
            hosts=settings.fetch_hosts,
            timeout_s=settings.fetch_timeout,
            max_redirects=settings.fetch_redirects,
        )
        fetcher = UrlFetcher(fetch_limits)

    async def read_source(source: str | bytes) -> bytes:
        return await read_image(source, image_limits, fetcher)

    # Tried in this order: what is asked most comes first.
    routes = [
        *api_routes(service, settings, read_source),
        *operation_routes(service, adapters or service, metrics, shared_metrics),
        *page_routes(service, read_source, max_body_bytes=settings.max_body_bytes),
    ]
    inner = Starlette(
        routes=routes,
        exception_handlers={HTTPException: answer_http_exception, Exception: _answer_fault},
    )
    log = RequestLog(settings.log_level in ("debug", "info"))
    checks = EntryChecks(
        service.check_load,
        lag,
        settings.max_requests,
        KeyRing(settings.api_keys, settings.admin_key),
        limits,
    )
    gate = RequestGate(
        _ShortWay(routes, inner),
        checks,
        BodyReader(settings.max_body_bytes, settings.max_pending_bytes),
        tracer,
        RequestRecord(metrics, log, _RouteNames(routes)),
        settings.request_timeout,
    )
    outer: ASGIApp = gate
    # Outside of the gate, so that scripts can read what it refuses.
    if settings.cors_origins:
        outer = CORSMiddleware(
            gate,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
            max_age=PREFLIGHT_AGE,
        )
    return Application(outer, gate, log)


class _ShortWay:
    """Takes requests whose path is a route's own straight to its handler, the rest to the router.

    It also says which methods a path takes, of which the router knows those of one route only.

    The router tries one route after the other and wraps each handler several times over, which
    costs a short query a tenth of its time in the server.
    """

    def __init__(self, routes: Sequence[Route], router: ASGIApp) -> None:
        self._routes = routes
        self._router = router
        self._handlers = {
            (method, route.path): cast(Handler, route.endpoint)
            for route in reversed(routes)
            if "{" not in route.path
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self._handlers.get((scope["method"], scope["path"]))
        if handler is not None:
            response = await handler(Request(scope, receive, send))
            await response(scope, receive, send)
            return
        methods = _methods_at(self._routes, scope)
        if scope["method"] == "OPTIONS" and methods:
            await Response(None, 204, {"allow": methods})(scope, receive, send)
        elif methods and scope["method"] not in methods.split(", "):
            path = scope["path"]
            message = f"{scope['method']} is not allowed on {path}; it takes {methods}"
            error = ServiceError(405, "method_not_allowed", message)
            note_error(scope, error.code)
            refused = error_response(error, path)
            refused.headers["allow"] = methods
            await refused(scope, receive, send)
        else:
            await self._router(scope, receive, send)


def _methods_at(routes: Sequence[Route], scope: Scope) -> str:
    """Return the methods that a path takes, as the header `Allow` lists them; "" for no path."""
    found = [route for route in routes if route.matches(scope)[0] is not Match.NONE]
    if not found:
        return ""
    # A name in a path may hold slashes; of two patterns, the longer says more of the path.
    closest = max(found, key=lambda route: len(route.path)).path
    methods = {m for route in found if route.path == closest for m in route.methods or ()}
    return ", ".join(sorted(methods | {"OPTIONS"}))


class _RouteNames:
    """From a request's path to the path of the route that takes it."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._exact = frozenset(route.path for route in routes if "{" not in route.path)
        self._patterns = [route for route in routes if "{" in route.path]

    def __call__(self, path: str) -> str:
        if path in self._exact:
            return path
        scope: Scope = {"type": "http", "path": path, "method": "GET"}
        for route in self._patterns:
            if route.matches(scope)[0] is not Match.NONE:
                return route.path
        return "other"


def _answer_fault(request: Request, error: Exception) -> Response:
    """Return a 500 that tells nothing; the gate logs what it was."""
    fault = ServiceError(500, "internal_error", "the server failed on this request")
    return answer_error(request, fault)
