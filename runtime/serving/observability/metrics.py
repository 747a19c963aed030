"""Counts and times for Prometheus. No global registry."""

import importlib.metadata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trine.runtime.errors import missing_package
from trine.runtime.serving.observability.old_metrics import OldMetrics
from trine.runtime.serving.scheduler.engine_meter import EngineBatch
from trine.runtime.serving.service.calls import EmbedCall, EmbedResult

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = [
    "RenderedMetrics",
    "ServerMetrics",
    "forget_worker",
    "make_registry",
    "render_metrics",
    "share_metrics",
]

#: Seconds: from a tokeniser's call to a long document on a slow machine.
TIMES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
#: Tokens or patches of a batch.
SIZES = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)

#: Of a call, in the order of time.
STAGES = {
    "prepare": "Tokenising and decoding of a call",
    "queue": "Wait of a call for the engine",
    "engine": "Batches that a call was in",
}


class ServerMetrics:
    """The instruments of one process.

    Args:
        registry: that they belong to.
    """

    def __init__(self, registry: "CollectorRegistry") -> None:
        from prometheus_client import Counter, Gauge, Histogram

        self.registry = registry
        self.requests = Counter(
            "trine_requests", "Requests answered", ["path", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "trine_request_duration_seconds",
            "Whole requests",
            ["path"],
            buckets=TIMES,
            registry=registry,
        )
        self.rejections = Counter(
            "trine_rejected_requests",
            "Requests refused, by error code",
            ["reason"],
            registry=registry,
        )
        self.items = Counter("trine_items", "Items embedded", ["task"], registry=registry)
        self.tokens = Counter("trine_tokens", "Tokens embedded", ["task"], registry=registry)
        self.truncated = Counter("trine_truncated_items", "Items that were cut", registry=registry)
        self.stage_seconds = [
            Histogram(f"trine_{stage}_duration_seconds", text, buckets=TIMES, registry=registry)
            for stage, text in STAGES.items()
        ]
        self.batch_seconds = Histogram(
            "trine_batch_duration_seconds",
            "Batches of a graph: decoder or vision",
            ["graph"],
            buckets=TIMES,
            registry=registry,
        )
        self.batch_tokens = Histogram(
            "trine_batch_tokens", "Tokens of a decoder batch", buckets=SIZES, registry=registry
        )
        self.batch_patches = Histogram(
            "trine_batch_patches", "Patches of a vision batch", buckets=SIZES, registry=registry
        )
        self.batch_items = Histogram(
            "trine_batch_items",
            "Sequences of a decoder batch",
            buckets=SIZES[:-3],
            registry=registry,
        )
        self.padding_saved = Counter(
            "trine_padding_saved_tokens",
            "Tokens that padding each batch to its longest sequence would have added",
            registry=registry,
        )
        self.pending_tokens = Gauge(
            "trine_pending_tokens",
            "Tokens accepted and not computed",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.pending_patches = Gauge(
            "trine_pending_patches",
            "Patches accepted and not computed",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.in_flight = Gauge(
            "trine_requests_in_flight",
            "Requests being answered",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.ready = Gauge(
            "trine_ready_workers",
            "Workers that answer calls",
            registry=registry,
            multiprocess_mode="livesum",
        )

        self.dropped_log_lines = Counter(
            "trine_dropped_log_lines",
            "Log lines dropped because nobody read the standard error",
            registry=registry,
        )

        Gauge(
            "trine_build_info",
            "1; its labels say what serves",
            ["version"],
            registry=registry,
            multiprocess_mode="max",
        ).labels(importlib.metadata.version("trine")).set(1)
        self._old = OldMetrics(registry, TIMES, SIZES)

        # Finding a child by its labels costs more than counting with it.
        self._by_task: dict[str, tuple[Counter, Counter]] = {}
        self._by_route: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered.

        Args:
            route: one of few, whatever clients ask for.
            status: of the response.
            seconds: it took.
        """
        children = self._by_route.get((route, status))
        if children is None:
            children = (
                self.requests.labels(route, str(status)),
                self.request_seconds.labels(route),
            )
            self._by_route[route, status] = children
        children[0].inc()
        children[1].observe(seconds)
        self._old.observe_request(route, seconds)

    def count_rejection(self, reason: str) -> None:
        """Count a request that was refused.

        Args:
            reason: the error's code.
        """
        self.rejections.labels(reason).inc()
        self._old.count_rejection(reason)

    def observe_run(self, run: EngineBatch) -> None:
        """Count a batch of the engine."""
        self._old.observe_run(run)
        self.batch_seconds.labels(run.graph).observe(run.seconds)
        if run.graph == "decoder":
            self.batch_tokens.observe(run.units)
            self.batch_items.observe(run.items)
            self.padding_saved.inc(run.slots - run.units)
        else:
            self.batch_patches.observe(run.units)

    def observe_call(self, call: EmbedCall, result: EmbedResult) -> None:
        """Count a call that was answered."""
        by_task: dict[str, tuple[int, int]] = {}
        for item, tokens in zip(call.items, result.num_tokens.tolist(), strict=True):
            num_items, num_tokens = by_task.get(item.task, (0, 0))
            by_task[item.task] = (num_items + 1, num_tokens + tokens)
        for task, (num_items, num_tokens) in by_task.items():
            children = self._by_task.get(task)
            if children is None:
                children = (self.items.labels(task), self.tokens.labels(task))
                self._by_task[task] = children
            children[0].inc(num_items)
            children[1].inc(num_tokens)
        if result.truncated.any():
            self.truncated.inc(int(result.truncated.sum()))
        times = result.timings
        stages = (times.prepare_s, times.queue_s, times.engine_s)
        for histogram, seconds in zip(self.stage_seconds, stages, strict=True):
            histogram.observe(seconds)
        self._old.observe_stages(*stages)


@dataclass(frozen=True, slots=True)
class RenderedMetrics:
    """A response to Prometheus."""

    body: bytes
    content_type: str


def make_registry() -> "CollectorRegistry":
    """Return a registry for one process.

    Raises:
        DependencyError: prometheus-client is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry
    except ImportError as cause:
        raise missing_package("prometheus_client", "server", "to serve") from cause
    return CollectorRegistry()


def share_metrics(worker: int) -> None:
    """Have what this process counts added up with other workers'; before any metrics are made.

    A process that takes the place of another counts on in its files: with a file for every process
    there ever was, each scrape would read them all.

    Args:
        worker: number of its place, unlike all others' that share PROMETHEUS_MULTIPROC_DIR.
    """
    from prometheus_client import values

    values.ValueClass = values.MultiProcessValue(lambda: worker)  # type: ignore[no-untyped-call]


def forget_worker(worker: int) -> None:
    """Leave out what only holds while a worker lives, now that it does not.

    Args:
        worker: number of its place.
    """
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker)  # type: ignore[no-untyped-call]


def render_metrics(metrics: ServerMetrics, shared: bool) -> RenderedMetrics:
    """Return the text that Prometheus reads.

    Args:
        metrics: of this process.
        shared: whether to add up the metrics of all processes that write to the folder in
            PROMETHEUS_MULTIPROC_DIR; those of ended ones still count.
    """
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = metrics.registry
    if shared:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return RenderedMetrics(generate_latest(registry), CONTENT_TYPE_LATEST)
