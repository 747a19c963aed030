"""Metrics under the names they had before: for one release, so that dashboards can be moved."""

from typing import TYPE_CHECKING

from trine.runtime.serving.scheduler.engine_meter import EngineBatch

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["OldMetrics"]


class OldMetrics:
    """The instruments of one process whose names have changed.

    Args:
        registry: that they belong to.
        times: upper ends of the buckets of seconds.
        sizes: upper ends of the buckets of tokens, patches and items.
    """

    def __init__(
        self, registry: "CollectorRegistry", times: tuple[float, ...], sizes: tuple[int, ...]
    ) -> None:
        from prometheus_client import Counter, Histogram

        def histogram(
            name: str, now: str, label: str | None, buckets: tuple[float, ...]
        ) -> Histogram:
            labels = () if label is None else (label,)
            return Histogram(name, _moved(now), labels, buckets=buckets, registry=registry)

        self._requests = histogram(
            "trine_request_seconds", "trine_request_duration_seconds", "path", times
        )
        self._rejects = Counter(
            "trine_rejects", _moved("trine_rejected_requests_total"), ["code"], registry=registry
        )
        self._stages = histogram(
            "trine_stage_seconds",
            "trine_prepare_duration_seconds, trine_queue_duration_seconds and "
            "trine_engine_duration_seconds",
            "stage",
            times,
        )
        self._seconds = histogram(
            "trine_run_seconds", "trine_batch_duration_seconds", "graph", times
        )
        self._units = histogram(
            "trine_run_units", "trine_batch_tokens and trine_batch_patches", "graph", sizes
        )
        self._items = histogram("trine_run_items", "trine_batch_items", None, sizes[:-3])

    def count_rejection(self, code: str) -> None:
        """Count a request that was refused."""
        self._rejects.labels(code).inc()

    def observe_request(self, route: str, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(route).observe(seconds)

    def observe_run(self, run: EngineBatch) -> None:
        """Count a batch."""
        self._seconds.labels(run.graph).observe(run.seconds)
        self._units.labels(run.graph).observe(run.units)
        if run.graph == "decoder":
            self._items.observe(run.items)

    def observe_stages(self, prepare: float, queue: float, engine: float) -> None:
        """Count the seconds of a call's stages."""
        for stage, seconds in (("prepare", prepare), ("queue", queue), ("engine", engine)):
            self._stages.labels(stage).observe(seconds)


def _moved(now: str) -> str:
    return f"Old name, removed with the next release: use {now}"
