import subprocess
import sys
from pathlib import Path

from trine.runtime.serving.observability.metrics import (
    ServerMetrics,
    forget_worker,
    make_registry,
    render_metrics,
)

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
