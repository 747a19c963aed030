"""What the middleware learnt of a request, handed to the routes."""

from typing import Any

from starlette.requests import Request

from trine.runtime.serving.calls import CallContext

__all__ = ["call_context", "set_call_context"]

#: Key in `scope["state"]`.
STATE_KEY = "trine_call_context"


def call_context(request: Request) -> CallContext:
    """Return the context of a request that came through the server's middleware."""
    context = request.scope["state"][STATE_KEY]
    if not isinstance(context, CallContext):
        raise TypeError(context)
    return context


def set_call_context(scope: Any, context: CallContext) -> None:
    """Store the context of a request in its ASGI scope."""
    # A copy: servers share one state between all requests of a lifespan.
    scope["state"] = {**scope.get("state", {}), STATE_KEY: context}
