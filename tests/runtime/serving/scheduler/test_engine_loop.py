import asyncio
import gc
import socket
import sys
from pathlib import Path

import pytest

from trine.runtime.serving.config.settings import ServerSettings
from trine.runtime.serving.observability.log_writer import bounded_stderr
from trine.runtime.serving.scheduler.work_queue import WorkQueue
from trine.runtime.serving.workers.worker import BROKEN, WorkerOptions, run_worker


def test_a_worker_whose_engine_thread_fails_ends_to_be_replaced(
    golden_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def take(*_: object) -> None:
        raise RuntimeError("no plan")

    monkeypatch.setattr(WorkQueue, "take", take)
    interval = sys.getswitchinterval()
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener, bounded_stderr() as writer:
            settings = ServerSettings(bundle=golden_bundle)
            serving = run_worker(settings, listener, WorkerOptions(), writer)
            assert asyncio.run(asyncio.wait_for(serving, 60)) == BROKEN
    finally:
        sys.setswitchinterval(interval)
        gc.unfreeze()
    assert "the engine's thread failed" in caplog.text
