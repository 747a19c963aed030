"""Carries what the middleware learnt of a request to the routes."""

from typing import Any

from starlette.requests import Request

from trine.runtime.serving.service.calls import CallContext

__all__ = ["call_context", "note_error", "noted_error", "received_body", "set_call_context"]

#: Keys in `scope["state"]`.
CONTEXT_KEY = "trine_call_context"
BODY_KEY = "trine_body"
ERROR_KEY = "trine_error_code"


def call_context(request: Request) -> CallContext:
    """Return the context of a request that came through the server's middleware."""
    context = request.scope["state"][CONTEXT_KEY]
    if not isinstance(context, CallContext):
        raise TypeError(context)
    return context


def received_body(request: Request) -> bytes | None:
    """Return the body that the middleware has read and decompressed, or None if it left it to the
    handler."""
    body: bytes | None = request.scope.get("state", {}).get(BODY_KEY)
    return body


def note_error(scope: Any, code: str) -> None:
    """Say in a request's ASGI scope with which error it was answered, for logs and metrics."""
    scope.setdefault("state", {})[ERROR_KEY] = code


def noted_error(scope: Any) -> str | None:
    """Return the code of the error that a request was answered with, if a handler noted one."""
    code: str | None = scope.get("state", {}).get(ERROR_KEY)
    return code


def set_call_context(scope: Any, context: CallContext, body: bytes | None = None) -> None:
    """Store the context of a request, and its body if it was read, in its ASGI scope."""
    # A copy: servers share one state between all requests of a lifespan.
    scope["state"] = {**scope.get("state", {}), CONTEXT_KEY: context, BODY_KEY: body}
