"""One process that answers requests: opens the bundle, serves on a socket, drains when told to."""

import asyncio
import contextlib
import gc
import logging
import math
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from trine.runtime.errors import TrineError
from trine.runtime.serving.config.settings import ServerSettings
from trine.runtime.serving.http.app import Application, make_app
from trine.runtime.serving.http.connections import BoundedProtocol
from trine.runtime.serving.http.rate_limits import RateLimits
from trine.runtime.serving.observability.log_writer import LogWriter
from trine.runtime.serving.observability.loop_lag import LoopLag
from trine.runtime.serving.observability.metrics import ServerMetrics, make_registry
from trine.runtime.serving.observability.tracing import NoTracer, OpenTelemetryTracer, Tracer
from trine.runtime.serving.service.service import EmbeddingService
from trine.runtime.serving.workers.control import WorkerChannel

__all__ = ["FAILED", "RATE_FILE", "WorkerOptions", "load_service", "run_worker"]

logger = logging.getLogger(__name__)

#: Exit codes of a worker: its bundle cannot be served, and starting it again would not help; it
#: broke while it served, and another may do better.
FAILED = 2
BROKEN = 1
#: The rate limits' buckets, in the folder that workers share.
RATE_FILE = "rates"
#: Seconds for which an idle connection is kept: above the 60 s of common load balancers, so that
#: these close it and not the server, just when a request comes.
KEEP_ALIVE_S = 75
#: Seconds after which a thread that waits for the interpreter's lock gets it. The engine's thread
#: needs it between runs, and with Python's own 5 ms it would stand idle while requests are read.
SWITCH_INTERVAL_S = 0.0005
#: Seconds for the last bytes of responses, however much of the drain timeout requests have taken.
LAST_BYTES_S = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """How one worker starts.

    Attributes:
        early: whether it accepts connections while it loads, to answer health checks and 503.
        shared: folder of what all workers share; None for a process without a supervisor.
    """

    early: bool = True
    shared: Path | None = None


class _Server(uvicorn.Server):
    """A server that leaves signals to the worker."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop_listening(self) -> None:
        """Accept no more connections; those that are open stay."""
        if self.started:
            for server in self.servers:
                server.close()


async def run_worker(
    settings: ServerSettings,
    listener: socket.socket,
    options: WorkerOptions,
    writer: LogWriter,
    channel: WorkerChannel | None = None,
) -> int:
    """Serve until SIGTERM, or SIGINT without a supervisor; return 0, `FAILED` or `BROKEN`.

    At the signal readiness goes false, and requests are served for `drain_delay`. Then the listener
    closes, new requests on open connections are refused with 503, and those that were accepted are
    finished, at most for `drain_timeout`. A second signal ends the process at once.

    Args:
        settings: of the server.
        listener: bound and listening.
        options: of this worker.
        writer: of this process's log lines; those it drops are counted.
        channel: to the supervisor, if there is one.

    Raises:
        TrineError: the bundle or a setting cannot be used.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    metrics = ServerMetrics(make_registry())
    writer.report_drops(metrics.dropped_log_lines.inc)
    names = [entry.partition("=")[0] for entry in settings.api_keys]
    async with contextlib.AsyncExitStack() as stack:
        rate_file = None
        if options.shared is not None:
            rate_file = stack.enter_context((options.shared / RATE_FILE).open("r+b"))
        limits = RateLimits(
            names, settings.requests_per_minute, settings.tokens_per_minute, rate_file
        )
        tracer: Tracer = NoTracer()
        if settings.telemetry:
            exporting = OpenTelemetryTracer()
            stack.callback(exporting.close)
            tracer = exporting
        lag = LoopLag()
        lag.start()
        stack.push_async_callback(lag.stop)
        service = EmbeddingService(settings, metrics, limits)
        application = make_app(
            service,
            settings,
            metrics,
            limits,
            tracer,
            lag,
            adapters=channel,
            shared_metrics=options.shared is not None,
        )
        return await _Worker(settings, listener, service, application, channel).run(options)


async def load_service(
    service: EmbeddingService, channel: WorkerChannel | None, stop: Callable[[], None]
) -> int:
    """Load the bundle, and the adapters that other workers have; return an exit code.

    Args:
        service: to load.
        channel: to the supervisor, if there is one.
        stop: called when the supervisor is gone.
    """
    try:
        await service.load()
    except TrineError as error:
        logger.error("loading failed: %s", error)
        return FAILED
    if channel is not None:
        await channel.start(service.adapters, stop)
    # What a loaded server consists of stays; a collection that walks it stops the event loop
    # for some 70 ms, longer than a refusal may take.
    gc.collect()
    gc.freeze()
    info = service.info()
    logger.info("ready", extra={"engine": info.engine, "tasks": info.tasks})
    return 0


class _Worker:
    """One worker's life."""

    def __init__(
        self,
        settings: ServerSettings,
        listener: socket.socket,
        service: EmbeddingService,
        application: Application,
        channel: WorkerChannel | None,
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._service = service
        self._gate = application.gate
        self._log = application.log
        self._channel = channel
        self._server = _Server(
            uvicorn.Config(
                application.asgi,
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                http=BoundedProtocol,
                ws="none",
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=LAST_BYTES_S,
            )
        )
        self._stop = asyncio.Event()

    async def run(self, options: WorkerOptions) -> int:
        self._catch_signals(supervised=options.shared is not None)
        serving = asyncio.ensure_future(self._serve()) if options.early else None
        loading = asyncio.ensure_future(load_service(self._service, self._channel, self._stop.set))
        stopping = asyncio.ensure_future(self._stop.wait())
        failing = asyncio.ensure_future(self._service.wait_failed())
        await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
        code = 0
        if loading.done():
            code = loading.result()
            if not code:
                serving = serving or asyncio.ensure_future(self._serve())
                ends = (serving, stopping, failing)
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                code = BROKEN if failing.done() else 0
        if not code:
            await self._drain()
        self._server.should_exit = True
        if serving is not None:
            await serving
        await self._service.close()
        self._log.write()
        stopping.cancel()
        failing.cancel()
        logger.info("stopped")
        return code

    async def _serve(self) -> None:
        host, port = self._listener.getsockname()[:2]
        info = self._service.info()
        logger.info("listening", extra={"host": host, "port": port, "model": info.name})
        if info.note is not None:
            logger.warning(info.note)
        await self._server.serve(sockets=[self._listener])

    async def _drain(self) -> None:
        """Serve on until load balancers look elsewhere, then let what is under way finish."""
        delay = self._settings.drain_delay
        if delay and self._service.state == "ready":
            self._service.leave()
            self._gate.leave()
            logger.info("leaving", extra={"for_s": delay})
            await asyncio.sleep(delay)
        self._service.drain()
        self._server.stop_listening()
        logger.info("draining")
        limit = time.monotonic() + self._settings.drain_timeout
        try:
            async with asyncio.timeout(self._settings.drain_timeout):
                await self._gate.wait_idle()
        except TimeoutError:
            logger.warning("requests were still under way after %s s", self._settings.drain_timeout)
        # A request is done when its response is in the connection's buffer. Whoever reads slowly
        # gets what is left of the time; connections without a response are closed at once.
        left = math.ceil(limit - time.monotonic())
        self._server.config.timeout_graceful_shutdown = max(left, LAST_BYTES_S)

    def _catch_signals(self, supervised: bool) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._signalled)
        if supervised:
            # A terminal's Ctrl-C reaches all processes; the supervisor decides what it means.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        else:
            loop.add_signal_handler(signal.SIGINT, self._signalled)

    def _signalled(self) -> None:
        if self._stop.is_set():
            # Asked twice: the default action, which is to end at once.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)
        self._stop.set()
