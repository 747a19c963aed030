import asyncio
import gc
from types import SimpleNamespace
from typing import Any

from trine.runtime.serving.workers.worker import _Worker


def test_collections_leave_out_what_a_loaded_server_consists_of() -> None:
    class Service:
        async def load(self) -> None:
            pass

        def info(self) -> Any:
            return SimpleNamespace(engine="ort-fp32", tasks=())

    worker = _Worker.__new__(_Worker)
    worker._service = Service()  # type: ignore[assignment]
    worker._channel = None
    try:
        assert asyncio.run(worker._load()) == 0
        assert gc.get_freeze_count() > 1000
    finally:
        gc.unfreeze()
