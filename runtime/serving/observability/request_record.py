"""Counts, traces and logs each request once it has been answered."""

import time
from collections.abc import Callable

from trine.runtime.serving.http.exchange import Exchange
from trine.runtime.serving.http.request_context import noted_error
from trine.runtime.serving.observability.logs import RequestLog
from trine.runtime.serving.observability.metrics import ServerMetrics

__all__ = ["RequestRecord"]

#: Routes that are asked all the time and say nothing.
QUIET_ROUTES = ("/health", "/health/live", "/health/ready", "/metrics")


class RequestRecord:
    """Keeps account of requests.

    Args:
        metrics: to count with.
        log: of requests.
        route_of: the path's route, for metrics: a short list, whatever clients ask for.
    """

    def __init__(
        self, metrics: ServerMetrics, log: RequestLog, route_of: Callable[[str], str]
    ) -> None:
        self._metrics = metrics
        self._log = log
        self._route_of = route_of

    def in_flight(self, count: int) -> None:
        """Note how many requests are being answered."""
        self._metrics.in_flight.set(count)

    def finish(self, exchange: Exchange) -> None:
        """Count and log a request that was answered, or whose client left."""
        # 499 is what others' logs say of a client that left.
        status = 499 if exchange.client_left and not exchange.status else exchange.status
        seconds = time.perf_counter() - exchange.started
        route = self._route_of(exchange.path)
        exchange.span.finish(route, status)
        self._metrics.observe_request(route, status, seconds)
        # Handlers answer their own errors, in their dialect, and leave a note of it.
        code = exchange.error_code or noted_error(exchange.scope)
        if code is not None:
            self._metrics.count_rejection(code)
        # Metrics count refusals; lines of thousands a second would slow them down.
        if status == 429 or route in QUIET_ROUTES:
            return
        self._log.add(
            {
                "request_id": exchange.request_id,
                "trace_id": exchange.span.trace.trace_id,
                "method": exchange.scope["method"],
                "path": exchange.path,
                "status": status,
                "ms": round(seconds * 1000, 2),
                "key": exchange.key_name,
                "error": code,
            }
        )
