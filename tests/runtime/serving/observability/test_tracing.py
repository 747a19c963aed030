import pytest
from hypothesis import given
from hypothesis import strategies as st

from trine.runtime.serving.observability.tracing import (
    NoTracer,
    OpenTelemetryTracer,
    continue_trace,
)

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_a_callers_trace_goes_on_with_a_span_of_its_own() -> None:
    trace = continue_trace(f"00-{TRACE}-{PARENT}-01")
    assert (trace.trace_id, trace.flags) == (TRACE, "01")
    assert trace.span_id != PARENT
    assert trace.header == f"00-{TRACE}-{trace.span_id}-01"


def test_a_later_versions_header_is_understood_as_far_as_it_is_known() -> None:
    assert continue_trace(f"cc-{TRACE}-{PARENT}-00-more").trace_id == TRACE


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "nonsense",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE.upper()}-{PARENT}-01",
    ],
)
def test_a_header_that_is_none_begins_a_new_trace(header: str | None) -> None:
    first, second = continue_trace(header), continue_trace(header)
    assert first.trace_id not in (TRACE, second.trace_id)


@given(st.text(max_size=80))
def test_any_header_gives_a_valid_trace(header: str) -> None:
    trace = continue_trace(header)
    assert continue_trace(trace.header).trace_id == trace.trace_id


def test_without_telemetry_ids_are_passed_on() -> None:
    with NoTracer().span("POST", {"traceparent": f"00-{TRACE}-{PARENT}-01"}) as span:
        span.finish("/v1/embeddings", 200)
        assert span.trace.trace_id == TRACE


def test_spans_are_exported_in_the_callers_trace() -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = memory.InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    tracer = OpenTelemetryTracer(provider)
    with tracer.span("POST", {"traceparent": f"00-{TRACE}-{PARENT}-01"}) as span:
        sent = span.trace
        span.finish("/v1/embeddings", 503)
    tracer.close()
    (found,) = exporter.get_finished_spans()
    assert f"{found.context.trace_id:032x}" == sent.trace_id == TRACE
    assert f"{found.context.span_id:016x}" == sent.span_id
    assert f"{found.parent.span_id:016x}" == PARENT
    assert found.attributes == {"http.route": "/v1/embeddings", "http.response.status_code": 503}
    assert not found.status.is_ok
