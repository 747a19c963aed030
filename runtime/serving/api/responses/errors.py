"""A `ServiceError` as the body that the clients of each path read.

`error` is an object on OpenAI's and Jina's paths, a string on those of text-embeddings-inference,
Ollama and KServe; Cohere's clients read `message`. The first also carries `detail` and `message` as
strings at the top, because Jina's clients read `detail` without looking at the status, and others
`message`.
"""

from collections.abc import Mapping

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from trine.runtime.serving.http.request_context import note_error
from trine.runtime.serving.service.calls import ServiceError

__all__ = ["answer_error", "answer_http_exception", "error_body", "error_response"]

#: Paths of text-embeddings-inference. POST / is one of them.
TEI_PATHS = ("/", "/embed", "/embed_all", "/info", "/tokenize", "/decode", "/similarity")
COHERE_PATHS = ("/v1/embed", "/v2/embed")

#: OpenAI's `type` by status; others are "invalid_request_error" below 500, else "server_error".
OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}

#: `error_type` of text-embeddings-inference by status, likewise.
TEI_TYPES = {
    401: "unauthorized",
    403: "unauthorized",
    429: "overloaded",
    503: "unhealthy",
}


def error_body(error: ServiceError, path: str) -> Mapping[str, object]:
    """Return the JSON object that answers `error` on a path of the server."""
    if path in COHERE_PATHS:
        return {"message": error.message}
    if path.startswith(("/api/", "/v2/")) or path == "/v2":
        return {"error": error.message}
    if path in TEI_PATHS:
        fallback = "validation" if error.status < 500 else "backend"
        return {
            "error": error.message,
            "error_type": TEI_TYPES.get(error.status, fallback),
            "message": error.message,
            "detail": error.message,
            "code": error.code,
            "index": error.index,
        }
    fallback = "invalid_request_error" if error.status < 500 else "server_error"
    return {
        "detail": error.message,
        "message": error.message,
        "error": {
            "message": error.message,
            "type": OPENAI_TYPES.get(error.status, fallback),
            "param": error.param,
            "code": error.code,
            "index": error.index,
        },
    }


def error_response(error: ServiceError, path: str) -> Response:
    """Return the response for `error` on a path, with the headers that clients obey.

    `Retry-After` says when to come back; `x-should-retry: false` keeps OpenAI's clients from
    repeating what will fail again.
    """
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    elif error.status >= 500:
        headers["x-should-retry"] = "false"
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(
        orjson.dumps(error_body(error, path)), error.status, headers, "application/json"
    )


def answer_error(request: Request, error: ServiceError) -> Response:
    """Return the response for `error` on a request's path, and note its code for the log."""
    note_error(request.scope, error.code)
    return error_response(error, request.url.path)


async def answer_http_exception(request: Request, exception: Exception) -> Response:
    """Return the path's body for what the router refuses: no such path (404) or method (405).

    An exception handler of Starlette, for `HTTPException`.
    """
    if not isinstance(exception, HTTPException):
        raise exception
    path = request.url.path
    if exception.status_code == 405:
        known = (exception.headers or {}).get("Allow", "another method")
        error = ServiceError(
            405, "method_not_allowed", f"{path!r} does not take {request.method}; use {known}"
        )
    elif exception.status_code == 404:
        error = ServiceError(404, "not_found", f"there is nothing at {path}; /docs lists all paths")
    else:
        error = ServiceError(exception.status_code, "http_error", str(exception.detail))
    response = answer_error(request, error)
    response.headers.update(exception.headers or {})
    return response
