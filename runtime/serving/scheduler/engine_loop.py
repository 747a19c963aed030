"""The one thread that runs the engine: takes a run from the queue, computes it, hands it back."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trine.runtime.inference.runner import Runner
from trine.runtime.serving.http.priority import give_way
from trine.runtime.serving.scheduler.admission import UnderWay
from trine.runtime.serving.scheduler.vectors import ItemVectors, forward_entries
from trine.runtime.serving.scheduler.work import Amount
from trine.runtime.serving.scheduler.work_queue import Entry, WorkQueue

__all__ = ["BatchResult", "EngineLoop"]

logger = logging.getLogger(__name__)

#: Part of a run's time for which the next one waits to become as large, and seconds at most.
GATHER_SHARE = 0.02
LONGEST_GATHER_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """What became of one run.

    Attributes:
        entries: that were in it.
        vectors: of each entry's items; empty if the run failed.
        dropped: entries that left the queue without a run.
        error: name of the exception that ended the run, or None.
        start, end: on `time.monotonic()`'s clock.
    """

    entries: Sequence[Entry]
    vectors: Sequence[Sequence[ItemVectors]]
    dropped: Sequence[Entry]
    error: str | None
    start: float
    end: float


class EngineLoop:
    """Runs what the queue plans until the queue is closed.

    Args:
        queue: where entries come from.
        runner: of the engine.
        begin: called with the entries of each batch before it is computed, in the engine's thread.
        deliver: called with each result, likewise.
        failed: called in the engine's thread if it ends before the queue is closed.
    """

    def __init__(
        self,
        queue: WorkQueue,
        runner: Runner,
        begin: Callable[[Sequence[Entry]], None],
        deliver: Callable[[BatchResult], None],
        failed: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._runner = runner
        self._begin = begin
        self._deliver = deliver
        self._failed = failed
        #: What is being computed; may be read from any thread.
        self.under_way: UnderWay | None = None
        self._thread = threading.Thread(target=self._run, name="trine-engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self) -> None:
        """Wait until the queue is closed and empty."""
        self._thread.join()

    def _run(self) -> None:
        try:
            self._take_runs()
        except Exception:  # a server whose requests wait for nobody must not look alive
            logger.exception("the engine's thread failed")
            self._failed()

    def _take_runs(self) -> None:
        give_way()
        wanted, until = 1, 0.0
        while (taken := self._queue.take(time.monotonic, wanted, until)) is not None:
            result = self._compute(*taken)
            self._deliver(result)
            # Whoever was answered may ask again at once. A run for the one request that came
            # meanwhile would read all weights for it while the others gather behind it.
            wanted = len(result.entries)
            until = result.end + min(GATHER_SHARE * (result.end - result.start), LONGEST_GATHER_S)

    def _compute(self, entries: Sequence[Entry], dropped: Sequence[Entry]) -> BatchResult:
        start = time.monotonic()
        found: list[list[ItemVectors]] = []
        error: str | None = None
        loads = [entry.load for entry in entries]
        amount = Amount(sum(load.tokens for load in loads), sum(load.patches for load in loads))
        self.under_way = UnderWay(amount, start)
        self._begin(entries)
        try:
            found = forward_entries(self._runner, entries) if entries else []
        except Exception as cause:  # whatever it was, the other runs must go on
            logger.exception("a run of %d sequences failed", len(entries))
            error = type(cause).__name__
        self.under_way = None
        return BatchResult(
            entries=entries,
            vectors=found,
            dropped=dropped,
            error=error,
            start=start,
            end=time.monotonic(),
        )
