"""A service in this process, on an event loop of its own, and clients for its application."""

import asyncio
import contextlib
import importlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from trine.runtime.serving.config.settings import ServerSettings
from trine.runtime.serving.http.app import Application, make_app
from trine.runtime.serving.http.rate_limits import RateLimits
from trine.runtime.serving.observability.loop_lag import LoopLag
from trine.runtime.serving.observability.metrics import ServerMetrics, make_registry
from trine.runtime.serving.observability.tracing import NoTracer
from trine.runtime.serving.service.calls import CallContext, EmbedCall, EmbedItem, EmbedResult
from trine.runtime.serving.service.service import EmbeddingService

T = TypeVar("T")


class Served:
    """A service with its application. Requests and calls are made from the test's thread."""

    def __init__(self, settings: ServerSettings, loaded: bool = True) -> None:
        self.settings = settings
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.metrics = ServerMetrics(make_registry())
        names = [entry.partition("=")[0] for entry in settings.api_keys]
        self.limits = RateLimits(names, settings.requests_per_minute, settings.tokens_per_minute)
        self.lag = LoopLag()
        self.service, self.application = self.run(self._open(loaded))

    async def _open(self, loaded: bool) -> tuple[EmbeddingService, Application]:
        service = EmbeddingService(self.settings, self.metrics, self.limits)
        if loaded:
            await service.load()
        return service, make_app(
            service, self.settings, self.metrics, self.limits, NoTracer(), self.lag
        )

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the service's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def context(self, seconds: float = 30.0, left: Callable[[], bool] = bool) -> CallContext:
        deadline = self.loop.time() + seconds
        return CallContext(request_id="r", key_name=None, deadline=deadline, disconnected=left)

    def embed(self, *items: EmbedItem, **options: Any) -> EmbedResult:
        """Embed items with options of `EmbedCall`."""
        return self.run(self.service.embed(EmbedCall(items=items, **options), self.context()))

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send one request to the application."""

        async def send() -> httpx.Response:
            async with self.client() as client:
                return await client.request(method, path, **options)

        return self.run(send())

    def client(self) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.application.asgi)
        return httpx.AsyncClient(transport=transport, base_url="http://server")

    def counted(self, name: str, **labels: str) -> float:
        """Return a metric's value; 0 if nothing was counted."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def close(self) -> None:
        self.run(self.service.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@pytest.fixture(scope="session")
def serve() -> Callable[..., contextlib.AbstractContextManager[Served]]:
    """Serves a bundle with settings; `loaded=False` leaves the service loading."""

    @contextlib.contextmanager
    def served(bundle: Path, loaded: bool = True, **settings: Any) -> Iterator[Served]:
        opened = Served(ServerSettings(bundle=bundle, threads=1, **settings), loaded)
        try:
            yield opened
        finally:
            opened.close()

    return served


@pytest.fixture(scope="session")
def served(
    golden_bundle: Path, serve: Callable[..., contextlib.AbstractContextManager[Served]]
) -> Iterator[Served]:
    """The golden bundle, merged adapters, default settings."""
    with serve(golden_bundle) as opened:
        yield opened


@pytest.fixture(scope="session")
def served_runtime(
    golden_runtime_bundle: Path, serve: Callable[..., contextlib.AbstractContextManager[Served]]
) -> Iterator[Served]:
    """The golden bundle, adapters beside the decoder, default settings."""
    with serve(golden_runtime_bundle) as opened:
        yield opened


@pytest.fixture
def metrics_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that processes share their metrics in; this process keeps its own to itself."""
    # Whether a process shares is decided by the variable when this is first imported.
    importlib.import_module("prometheus_client")
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    return tmp_path
