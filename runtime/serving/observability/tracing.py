"""W3C trace context of requests, and spans for OpenTelemetry where that is wanted."""

import random
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from trine.runtime.errors import missing_package

__all__ = ["NoTracer", "OpenTelemetryTracer", "RequestSpan", "Trace", "Tracer", "continue_trace"]

#: `traceparent` of version 00; later versions may have more fields behind these.
TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True)
class Trace:
    """One request's place in a trace.

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: 16 of them, of this request.
        flags: two of them; 01 for sampled.
    """

    trace_id: str
    span_id: str
    flags: str

    @property
    def header(self) -> str:
        """The value of `traceparent`."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


def continue_trace(traceparent: str | None) -> Trace:
    """Return the span of a request: in the caller's trace, or in a new one if it sent none.

    A header that does not follow https://www.w3.org/TR/trace-context/ counts as none.
    """
    span_id = f"{random.getrandbits(64) or 1:016x}"
    found = TRACEPARENT.fullmatch(traceparent or "")
    if found:
        version, trace_id, parent_id, flags, more = found.groups()
        valid = version != "ff" and int(trace_id, 16) and int(parent_id, 16)
        if valid and (version != "00" or not more):
            return Trace(trace_id, span_id, flags)
    return Trace(f"{random.getrandbits(128) or 1:032x}", span_id, "00")


class RequestSpan(Protocol):
    """What is told about one request."""

    @property
    def trace(self) -> Trace:
        """Its place in a trace."""
        ...

    def finish(self, route: str, status: int) -> None:
        """Say how it ended."""
        ...


class Tracer(Protocol):
    """Makes spans of requests."""

    def span(self, method: str, headers: Mapping[str, str]) -> AbstractContextManager[RequestSpan]:
        """Return a context manager that yields a `RequestSpan`."""
        ...


class _IdsOnly:
    def __init__(self, trace: Trace) -> None:
        self.trace = trace

    def finish(self, route: str, status: int) -> None:
        """Nothing is exported."""


class NoTracer:
    """Passes trace ids on and exports nothing."""

    def span(self, method: str, headers: Mapping[str, str]) -> AbstractContextManager[RequestSpan]:
        return nullcontext(_IdsOnly(continue_trace(headers.get("traceparent"))))


class _Span:
    def __init__(self, span: Any) -> None:
        self._span = span
        context = span.get_span_context()
        self.trace = Trace(
            f"{context.trace_id:032x}", f"{context.span_id:016x}", f"{context.trace_flags:02x}"
        )

    def finish(self, route: str, status: int) -> None:
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attribute("http.route", route)
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._span.set_status(Status(StatusCode.ERROR))


class OpenTelemetryTracer:
    """Exports a span for each request with the SDK as its own variables (OTEL_…) set it up.

    Args:
        provider: of the SDK; None for one that exports over OTLP.

    Raises:
        DependencyError: OpenTelemetry is not installed.
    """

    def __init__(self, provider: Any = None) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as cause:
            raise missing_package("opentelemetry", "telemetry", "to export spans") from cause
        if provider is None:
            provider = TracerProvider()
            provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._provider = provider
        self._tracer = provider.get_tracer("trine")

    @contextmanager
    def span(self, method: str, headers: Mapping[str, str]) -> Iterator[RequestSpan]:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract(dict(headers))
        with self._tracer.start_as_current_span(
            f"{method} trine", context=parent, kind=SpanKind.SERVER
        ) as span:
            yield _Span(span)

    def close(self) -> None:
        """Export what is left."""
        self._provider.shutdown()
