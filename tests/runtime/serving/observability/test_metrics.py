import re
import subprocess
import sys
from pathlib import Path

from trine.runtime.serving.observability.metrics import (
    ServerMetrics,
    forget_worker,
    make_registry,
    render_metrics,
)
from trine.runtime.serving.scheduler.engine_meter import EngineBatch

COUNT = """
from trine.runtime.serving.observability.metrics import ServerMetrics, make_registry, share_metrics
share_metrics(1)
metrics = ServerMetrics(make_registry())
metrics.observe_request("/v1/embeddings", 200, 0.1)
metrics.ready.set(1)
"""


def test_a_worker_counts_on_where_the_one_before_ended(metrics_folder: Path) -> None:
    files = []
    for _ in range(3):
        subprocess.run([sys.executable, "-c", COUNT], check=True, timeout=60)
        files.append(sorted(path.name for path in metrics_folder.iterdir()))
    assert files[0] == files[1] == files[2]
    metrics = ServerMetrics(make_registry())
    text = render_metrics(metrics, shared=True).body.decode()
    assert 'trine_requests_total{path="/v1/embeddings",status="200"} 3.0' in text
    assert "trine_ready_workers 1.0" in text
    forget_worker(1)
    assert "trine_ready_workers 1.0" not in render_metrics(metrics, shared=True).body.decode()


def test_old_names_count_on_and_name_the_new_ones() -> None:
    metrics = ServerMetrics(make_registry())
    metrics.observe_request("/embed", 200, 0.1)
    metrics.count_rejection("queue_full")
    for graph in ("decoder", "vision"):
        metrics.observe_run(EngineBatch(graph=graph, units=7, slots=9, items=2, seconds=0.1))
    value = metrics.registry.get_sample_value
    for old, new in (
        (
            ("trine_rejects_total", {"code": "queue_full"}),
            ("trine_rejected_requests_total", {"reason": "queue_full"}),
        ),
        (
            ("trine_request_seconds_sum", {"path": "/embed"}),
            ("trine_request_duration_seconds_sum", {"path": "/embed"}),
        ),
        (("trine_run_units_sum", {"graph": "decoder"}), ("trine_batch_tokens_sum", {})),
        (("trine_run_units_sum", {"graph": "vision"}), ("trine_batch_patches_sum", {})),
        (("trine_run_items_sum", {}), ("trine_batch_items_sum", {})),
        (
            ("trine_run_seconds_sum", {"graph": "vision"}),
            ("trine_batch_duration_seconds_sum", {"graph": "vision"}),
        ),
    ):
        assert value(*old) == value(*new) != 0
    text = render_metrics(metrics, shared=False).body.decode()
    moved = re.findall(
        r"^# HELP (\S+) Old name, removed with the next release: use (.*)", text, re.M
    )
    assert len([name for name, _ in moved if not name.endswith("_created")]) == 6
    for _, names in moved:
        for name in re.findall(r"trine_\w+", names):
            assert f"\n# TYPE {name} " in text
    assert re.search(r'^trine_build_info{version="[^"]+"} 1.0$', text, re.M)
