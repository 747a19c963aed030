"""The embedding service: takes calls, has them prepared, queued and run, and returns vectors."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.bundle.model_config import PROMPTS
from trine.runtime.errors import InputError
from trine.runtime.inference.batch_planner import BatchLimits
from trine.runtime.inputs import Prompt
from trine.runtime.serving.config.settings import ServerSettings
from trine.runtime.serving.http.priority import give_way
from trine.runtime.serving.http.rate_limits import RateLimits
from trine.runtime.serving.observability.metrics import ServerMetrics
from trine.runtime.serving.scheduler.admission import Admission, PatchRoom
from trine.runtime.serving.scheduler.batching import BatchBudget
from trine.runtime.serving.scheduler.engine_loop import BatchResult, EngineLoop
from trine.runtime.serving.scheduler.engine_meter import EngineBatch, Speed
from trine.runtime.serving.scheduler.feeding import Feeder
from trine.runtime.serving.scheduler.preparing import Preparer
from trine.runtime.serving.scheduler.text_pool import TextPool
from trine.runtime.serving.scheduler.tickets import Ticket, ticket_of
from trine.runtime.serving.scheduler.work import CHARACTERS_PER_TOKEN, estimate_call
from trine.runtime.serving.scheduler.work_queue import Entry, WorkQueue
from trine.runtime.serving.service.call_checks import check_call, check_shown
from trine.runtime.serving.service.calls import (
    CallContext,
    EmbedCall,
    EmbedResult,
    ModelInfo,
    ReadyState,
    ServiceError,
    TokenizedText,
)
from trine.runtime.serving.service.core import Core, chosen_engine, chosen_tasks, open_core
from trine.runtime.serving.service.model_info import default_role, describe_model
from trine.runtime.serving.service.refusals import client_left, engine_failure, not_ready, too_late
from trine.runtime.serving.service.results import call_result
from trine.runtime.serving.workers.adapter_admin import AdapterAdmin

__all__ = ["EmbeddingService"]


class EmbeddingService:
    """Satisfies `trine.runtime.serving.service.calls.Embedding`. Made on the event loop's thread.

    The bundle's manifest is read at once; `load` opens the engine.

    Args:
        settings: of the server.
        metrics: to count with.
        limits: of tokens by key.

    Attributes:
        admission: of calls.
        room: for decoded images.
        queue, engine_loop, core: what computes; None until `load`.

    Raises:
        BundleError: the bundle is missing, damaged or newer than this code.
        InputError: a task or engine is not in the bundle.
    """

    def __init__(
        self, settings: ServerSettings, metrics: ServerMetrics, limits: RateLimits
    ) -> None:
        self._metrics = metrics
        self._limits = limits
        self._bundle = open_bundle(settings.bundle)
        self._entry, settings = chosen_engine(self._bundle, settings)
        self._settings = settings
        self._model = self._bundle.manifest.model
        default_role(settings)
        self._tasks = chosen_tasks(self._entry, settings)
        self._max_length = min(settings.max_length, self._model.max_tokens)
        self._max_pixels = settings.max_pixels or self._model.image.max_pixels
        self._admin = AdapterAdmin(self._bundle, self._entry, self._tasks, settings)
        self._budget = BatchBudget(
            tokens=settings.batch_tokens or BatchLimits().tokens,
            patches=settings.batch_patches,
            short_tokens=settings.short_tokens,
        )
        self._speed = Speed(self._budget.tokens)
        self.admission = Admission(
            settings.queue_tokens,
            self._budget,
            self._speed.seconds,
            settings.max_wait,
            lambda: None if self.engine_loop is None else self.engine_loop.under_way,
        )
        self.room = PatchRoom(settings.queue_patches)
        self.queue: WorkQueue | None = None
        threads = settings.prepare_threads
        self._texts = TextPool(threads)
        self._image_threads = ThreadPoolExecutor(threads, "trine-image")
        self._state: ReadyState = "loading"
        self._failure = asyncio.Event()
        self._closed = False
        self.core: Core | None = None
        self._feeder: Feeder | None = None
        self.engine_loop: EngineLoop | None = None
        self._info: ModelInfo | None = None

    @property
    def state(self) -> ReadyState:
        return self._state

    def info(self) -> ModelInfo:
        names, hashes = self._admin.names, self._admin.hashes
        info = self._info
        if info is None or (info.tasks, info.adapter_hashes) != (names, hashes):
            info = describe_model(self._bundle, self._entry, self._settings, names, dict(hashes))
            self._info = info
        return info

    @property
    def adapters(self) -> AdapterAdmin:
        """Changes the adapters of this process.

        Raises:
            ServiceError: 503 not ready.
        """
        self._require_ready()
        return self._admin

    async def load(self) -> None:
        """Open and check the engine in a thread, then answer calls.

        Raises:
            EngineError: the engine cannot run here, or failed its self-test.
            DependencyError: its package is not installed.
        """
        loop = asyncio.get_running_loop()

        def report(run: EngineBatch) -> None:
            self._speed.add(run)
            self._metrics.observe_run(run)

        def begin(entries: Sequence[Entry]) -> None:
            for entry in entries:
                ticket_of(entry).begun = True

        def deliver(result: BatchResult) -> None:
            if result.entries:
                self._speed.finish(result.end - result.start)
            loop.call_soon_threadsafe(self._deliver, result)

        def failed() -> None:
            loop.call_soon_threadsafe(self._fail)

        # A thread of its own: the threads that the engine starts inherit its priority.
        loader = ThreadPoolExecutor(1, "trine-load", give_way)
        try:
            core = await loop.run_in_executor(
                loader, open_core, self._bundle, self._entry, self._settings, report
            )
        except BaseException:
            self._state = "failed"
            raise
        finally:
            loader.shutdown(wait=False)
        preparer = Preparer(self._model, core.preprocessor, core.tokenizer, self._max_pixels)
        self.queue = queue = WorkQueue(self._budget, core.runner.costs, self._speed.cost)
        self._feeder = Feeder(
            preparer=preparer,
            engine=core.engine,
            queue=queue,
            room=self.room,
            texts=self._texts,
            image_threads=self._image_threads,
            max_call_tokens=self._settings.max_call_tokens,
            patches_per_image=self._patches_per_image(),
            budget=self._budget,
            max_wait=self._settings.max_wait,
        )
        self._speed.begin_with(core.timed)
        self.core = core
        self._admin.open(core.engine.adapters)
        self.engine_loop = EngineLoop(queue, core.runner, begin, deliver, failed)
        self.engine_loop.start()
        if self._state == "loading":
            self._state = "ready"
            self._metrics.ready.set(1)

    async def wait_failed(self) -> None:
        """Wait until the service can answer nothing any more, which it does not get over."""
        await self._failure.wait()

    def leave(self) -> None:
        """Say that no new requests should come, and take those that do."""
        if self._state == "ready":
            self._state = "leaving"
            self._metrics.ready.set(0)

    def drain(self) -> None:
        """Refuse new requests; calls of those under way are still taken."""
        self._state = "draining"
        self._metrics.ready.set(0)

    async def close(self) -> None:
        """Compute what is queued, then end the threads."""
        self.drain()
        self._closed = True
        if self.queue is not None:
            self.queue.close()
        if self.engine_loop is not None:
            await asyncio.to_thread(self.engine_loop.join)
        self._texts.shutdown()
        self._image_threads.shutdown(wait=False, cancel_futures=True)

    def check_load(self, time_left: float) -> None:
        """Return if a call that comes now would be accepted, before it is read.

        Args:
            time_left: seconds until its deadline.

        Raises:
            ServiceError: 429 too much waits already; 503 not ready.
        """
        if self._state not in ("ready", "leaving"):
            raise not_ready(self._state)
        # What is asked is not known yet: refused is what would be in the quicker lane, too.
        self.admission.check(True, time_left)

    async def embed(self, call: EmbedCall, context: CallContext) -> EmbedResult:
        self._require_ready()
        check_call(call, self._admin.names, self._model, self._settings.max_items)
        self._admin.require(item.task for item in call.items)
        if context.disconnected():
            raise client_left()
        max_length = min(call.max_length or self._max_length, self._max_length)
        ticket, estimate = self._accept(call, context, max_length)
        # Of the adapters that the ticket holds: another may take a name before the call is done.
        current = dict(self._admin.hashes)
        try:
            await self._compute(ticket, max_length)
            hashes = {item.task: current[item.task] for item in call.items}
            result = await call_result(ticket, self._model, hashes)
        finally:
            self._close_ticket(ticket)
            used = sum(ticket.num_tokens)
            self._limits.correct_tokens(context.key_name, used - estimate)
        self._metrics.observe_call(call, result)
        return result

    async def tokenize(
        self, texts: Sequence[str], prompt: Prompt | None = None
    ) -> list[TokenizedText]:
        core = self._require_ready()
        check_shown(self._settings, len(texts), sum(map(len, texts)), CHARACTERS_PER_TOKEN)
        for index, text in enumerate(texts):
            try:
                text.encode()
            except UnicodeEncodeError as cause:
                message = f"text {index} holds half of a surrogate pair; remove it"
                raise ServiceError(
                    422, "invalid_input", message, param="inputs", index=index
                ) from cause
        prefix = "" if prompt is None else PROMPTS[prompt]
        return await self._texts.run(
            lambda: core.tokenizer.show(texts, prefix, ends=True), sum(map(len, texts))
        )

    async def decode(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
        core = self._require_ready()
        check_shown(self._settings, len(token_ids), sum(map(len, token_ids)), 1)
        size = self._model.decoder.vocab_size
        for index, ids in enumerate(token_ids):
            if not all(0 <= i < size for i in ids):
                message = f"list {index} has an id outside the vocabulary of 0 to {size - 1}"
                raise ServiceError(422, "invalid_input", message, param="ids", index=index)
        return await self._texts.run(
            lambda: core.tokenizer.decode(token_ids), sum(map(len, token_ids))
        )

    async def load_adapter(self, name: str, folder: str, task: str | None = None) -> None:
        await self.adapters.load(name, folder, task)

    async def unload_adapter(self, name: str) -> None:
        await self.adapters.unload(name)

    def _fail(self) -> None:
        self._state = "failed"
        self._metrics.ready.set(0)
        self._failure.set()

    def _require_ready(self) -> Core:
        # A request that came before draining began may still ask.
        if self.core is None or self._closed:
            raise not_ready(self._state)
        return self.core

    def _patches_per_image(self) -> int:
        return max(self._max_pixels // self._model.vision.patch_size**2, 1)

    def _accept(self, call: EmbedCall, context: CallContext, max_length: int) -> tuple[Ticket, int]:
        """Return a ticket for a call, and the tokens that were counted for its key.

        Raises:
            ServiceError: 422 an adapter is gone; 429 no room, or the key's tokens are used up; 504
                the deadline passed.
        """
        core = self._require_ready()
        time_left = context.deadline - time.monotonic()
        if time_left <= 0:
            raise too_late()
        work = estimate_call(call, max_length, self._patches_per_image(), self._budget)
        estimate = work.tokens
        reservation = self.admission.admit(work, time_left)
        try:
            self._limits.take_tokens(context.key_name, estimate)
            ticket = Ticket(
                call,
                context,
                reservation,
                self.room,
                core.engine.adapters.hold({item.task for item in call.items}),
                self._model.vision.spatial_merge_size,
            )
        except InputError as cause:
            reservation.release()
            self._limits.correct_tokens(context.key_name, -estimate)
            raise ServiceError(422, "unknown_task", str(cause), param="task") from cause
        except ServiceError:
            reservation.release()
            raise
        self._show_pending()
        return ticket, estimate

    async def _compute(self, ticket: Ticket, max_length: int) -> None:
        """Wait until the vectors of a call are there.

        Raises:
            ServiceError: 413, 422 an item cannot be used; 429 the engine did not begin in time; 500
                it failed; 504 the deadline passed.
        """
        if self._feeder is None:
            raise RuntimeError("the service is not loaded")
        if not ticket.call.items:
            return
        loop = asyncio.get_running_loop()
        time_left = max(ticket.context.deadline - time.monotonic(), 0.0)
        overdue = loop.call_later(self.admission.patience, self._give_up, ticket)
        try:
            if self._feeder.feed_few(ticket, max_length):
                timer = loop.call_later(time_left, ticket.end, too_late())
                try:
                    await ticket.finished
                finally:
                    timer.cancel()
                return
            async with asyncio.timeout(time_left):
                await self._feeder.feed(ticket, max_length)
                await ticket.finished
        except TimeoutError as cause:
            raise too_late() from cause
        finally:
            overdue.cancel()

    def _give_up(self, ticket: Ticket) -> None:
        if not ticket.begun:
            patches = self._patches_per_image()
            work = estimate_call(ticket.call, self._max_length, patches, self._budget)
            ticket.end(self.admission.overdue(work.all_short))

    def _close_ticket(self, ticket: Ticket) -> None:
        if not ticket.complete and self.queue is not None:
            for entry in self.queue.remove(ticket):
                ticket.dropped(entry)
        ticket.close()

    def _deliver(self, result: BatchResult) -> None:
        """Hand a run's vectors to the calls they are of. Runs on the event loop."""
        if result.error is not None:
            for entry in result.entries:
                ticket_of(entry).fail(entry, engine_failure(result.error))
        else:
            for entry, vectors in zip(result.entries, result.vectors, strict=True):
                ticket_of(entry).computed(entry, vectors, result.start, result.end)
        for entry in result.dropped:
            ticket = ticket_of(entry)
            ticket.fail(entry, client_left() if ticket.context.disconnected() else too_late())
        if result.entries:
            all_short = all(entry.short for entry in result.entries)
            self.admission.batch_ended(all_short, result.start, result.end)
        self._show_pending()

    def _show_pending(self) -> None:
        self._metrics.pending_tokens.set(self.admission.tokens)
        self._metrics.pending_patches.set(self.admission.patches)
