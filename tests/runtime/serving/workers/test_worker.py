import asyncio
import gc
from types import SimpleNamespace
from typing import Any

from trine.runtime.serving.workers.worker import load_service


def test_collections_leave_out_what_a_loaded_server_consists_of() -> None:
    class Service:
        async def load(self) -> None:
            pass

        def info(self) -> Any:
            return SimpleNamespace(engine="ort-fp32", tasks=())

    service: Any = Service()
    try:
        assert asyncio.run(load_service(service, None, lambda: None)) == 0
        assert gc.get_freeze_count() > 1000
    finally:
        gc.unfreeze()
