"""One request under way, from its head to the end of its answer."""

import time
from dataclasses import dataclass, field

from starlette.types import Scope

from trine.runtime.serving.observability.tracing import RequestSpan

__all__ = ["Exchange"]


@dataclass(slots=True, kw_only=True)
class Exchange:
    """What is known of a request.

    Attributes:
        scope: of ASGI.
        headers: names in lower case.
        request_id: the client's, or one of the server's.
        span: of the trace.
        deadline: on `time.monotonic()`'s clock.
        started: on `time.perf_counter()`'s clock.
        key_name: of the API key.
        counted: whether the request counts for the limits of `key_name`.
        held: bytes: its body as it came, what that unfolded to, images fetched for it.
        fetched: bytes of those images.
        client_left: whether nobody waits for the answer.
        status: of the response; 0 until it began.
        error_code: of a refusal.
    """

    scope: Scope
    headers: dict[str, str]
    request_id: str
    span: RequestSpan
    deadline: float
    started: float = field(default_factory=time.perf_counter)
    key_name: str | None = None
    counted: bool = False
    held: int = 0
    fetched: int = 0
    client_left: bool = False
    status: int = 0
    error_code: str | None = None

    @property
    def path(self) -> str:
        return str(self.scope["path"])
