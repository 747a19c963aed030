"""Starts worker processes on one socket, starts them again when they die, ends them in order."""

import contextlib
import dataclasses
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from pathlib import Path
from types import FrameType
from typing import Any

from trine.runtime.errors import TrineError
from trine.runtime.hardware.processors import num_processors
from trine.runtime.serving.config.settings import ServerSettings
from trine.runtime.serving.http.event_loop import run_on_loop
from trine.runtime.serving.observability.log_writer import bounded_stderr
from trine.runtime.serving.observability.logs import set_up_logs
from trine.runtime.serving.observability.metrics import forget_worker, share_metrics
from trine.runtime.serving.workers.control import AdapterChange, Done, Order, WorkerChannel
from trine.runtime.serving.workers.rounds import Round
from trine.runtime.serving.workers.worker import FAILED, RATE_FILE, WorkerOptions, run_worker

__all__ = ["Supervisor"]

logger = logging.getLogger(__name__)

#: A worker that lived less than this many seconds is not started again at once.
SHORT_LIFE_S = 10.0
#: Seconds before it is: doubled with each short life in a row, up to the largest.
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
#: Seconds that workers get to end after their drain timeout.
END_S = 5.0
#: prometheus_client keeps its numbers in files of the folder that this variable names.
METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


@dataclass(slots=True, eq=False)
class _Worker:
    """One place among the workers, and the process in it."""

    number: int
    process: Any = None
    pipe: "Connection[Any, Any] | None" = None
    started: float = 0.0
    short_lives: int = 0
    #: Whether a process in this place has ended before.
    replaced: bool = False
    #: When to start it, while there is no process.
    due: float = 0.0


@dataclass(slots=True, eq=False)
class _Asked:
    """A change that a worker asked for."""

    round: Round
    #: None once it has died.
    asker: _Worker | None
    asker_number: int


class Supervisor:
    """Runs `settings.workers` processes. Single-threaded.

    Args:
        settings: of the server.
        listener: bound and listening; all workers accept from it.
        context: that makes processes.

    Attributes:
        workers: what is known of each.
    """

    def __init__(
        self,
        settings: ServerSettings,
        listener: socket.socket,
        context: SpawnContext | None = None,
    ) -> None:
        threads = settings.threads or max(num_processors() // settings.workers, 1)
        self._settings = dataclasses.replace(settings, threads=threads)
        self._listener = listener
        self._context = context or multiprocessing.get_context("spawn")
        self.workers = [_Worker(number) for number in range(settings.workers)]
        self._changes: dict[str, AdapterChange] = {}
        self._rounds: deque[_Asked] = deque()
        self._round_number = 0
        self._stopping = False
        # A byte for each signal, so that waiting for the workers ends.
        self._wake_reader, self._wake_writer = socket.socketpair()

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; return 0, or 2 if the bundle cannot be served."""
        with tempfile.TemporaryDirectory(prefix="trine-serve-") as folder:
            (Path(folder) / RATE_FILE).touch()
            os.environ[METRICS_VARIABLE] = folder
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._signalled)
            self._wake_writer.setblocking(False)
            code = 0
            while not self._stopping and not code:
                self.start_due(Path(folder))
                code = self._watch()
            # The workers have it, too; it is closed for clients once the last of them lets go.
            self._listener.close()
            self.end()
            return code

    def close(self) -> None:
        """Let go of what signals are told by."""
        self._wake_reader.close()
        self._wake_writer.close()

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self._stopping:
            self._signal_all(signal.SIGKILL)
        self._stopping = True
        with contextlib.suppress(BlockingIOError):  # it is awake already
            self._wake_writer.send(b"\0")

    def start_due(self, folder: Path) -> None:
        """Start the workers whose time has come.

        Args:
            folder: that they share.
        """
        now = time.monotonic()
        for worker in self.workers:
            if worker.process is None and worker.due <= now:
                self._start(worker, folder)

    def _start(self, worker: _Worker, folder: Path) -> None:
        # One that replaces another must not take connections that the others could answer.
        early = worker.number == 0 and not worker.started
        ours, theirs = self._context.Pipe()
        worker.process = self._context.Process(
            target=_work,
            args=(
                worker.number,
                self._settings,
                self._listener,
                WorkerOptions(early=early, shared=folder),
                theirs,
                tuple(self._changes.values()),
            ),
            name=f"trine-worker-{worker.number}",
            daemon=True,
        )
        # A terminal's Ctrl-C reaches all processes. This one decides what it means, also while a
        # worker is still loading Python; a mask is passed on to it. The tracker that `spawn` needs
        # takes such a mask away when it starts, so it starts before.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            worker.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        theirs.close()
        worker.pipe, worker.started = ours, time.monotonic()
        # A change that is on its way is not among those it was started with.
        if self._rounds and self._rounds[0].round.step == "make":
            self._ask(worker)
        logger.info("worker started", extra={"worker": worker.number, "pid": worker.process.pid})

    def _watch(self) -> int:
        """Wait for what happens next and deal with it; return an exit code if all is to end."""
        dues = [worker.due for worker in self.workers if not worker.process]
        for worker in self._hear([self._wake_reader], min(dues) if dues else None):
            code = self.bury(worker)
            if code:
                return code
        return 0

    def _hear(self, others: Sequence[socket.socket], until: float | None) -> list[_Worker]:
        """Wait for workers or `others`; take what workers say, and return those that ended.

        Args:
            others: that may become readable.
            until: when to wait no longer, on `time.monotonic()`'s clock; None for ever.
        """
        alive = [worker for worker in self.workers if worker.process is not None]
        pipes = {worker.pipe: worker for worker in alive if worker.pipe is not None}
        ends = {worker.process.sentinel: worker for worker in alive}
        timeout = None if until is None else max(until - time.monotonic(), 0)
        happened = wait([*pipes, *ends, *others], timeout)
        for source in happened:
            if source in pipes:
                self.read(pipes[source])
        return [ends[source] for source in happened if source in ends]

    def read(self, worker: _Worker) -> None:
        """Take one message of a worker."""
        if worker.pipe is None:
            return
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            worker.pipe.close()
            worker.pipe = None
            return
        if isinstance(message, Order):
            self._rounds.append(_Asked(Round(message.change), worker, message.number))
            if len(self._rounds) == 1:
                self._begin_round()
        elif self._rounds and message.number == self._round_number:
            self._rounds[0].round.answered(worker.number, message.failure, message.digest)
            self._go_on()

    def _begin_round(self) -> None:
        """Send the first change to every worker that can take it.

        A worker that is still loading takes it from its pipe once it is ready.
        """
        self._round_number += 1
        for worker in self.workers:
            self._ask(worker)
        self._go_on()

    def _ask(self, worker: _Worker) -> None:
        """Have a worker take the first change's step."""
        current = self._rounds[0].round
        if current.step is not None and self._send(
            worker, Order(self._round_number, current.change, current.step)
        ):
            current.asked(worker.number)

    def _go_on(self) -> None:
        """Take the first change as far as it goes without another answer."""
        asked = self._rounds[0]
        current = asked.round
        while current.step is not None and not current.waits:
            for number in current.advance():
                self._ask(self.workers[number])
            if current.stands:
                # In the order in which a new worker would have to make them.
                self._changes.pop(current.change.name, None)
                self._changes[current.change.name] = current.change
        if current.step is not None:
            return
        if asked.asker is not None:
            self._send(asked.asker, Done(asked.asker_number, current.failure))
        self._rounds.popleft()
        if self._rounds:
            self._begin_round()

    @staticmethod
    def _send(worker: _Worker, message: Order | Done) -> bool:
        if worker.pipe is None:
            return False
        try:
            worker.pipe.send(message)
        except OSError:
            return False
        return True

    def bury(self, worker: _Worker) -> int:
        """Deal with a worker that ended; return an exit code if all is to end with it."""
        # Its end shows a moment before its exit code does.
        worker.process.join()
        code = worker.process.exitcode
        pid = worker.process.pid
        first, worker.replaced = not worker.replaced, True
        self._forget(worker)
        # What was served before is served on by the others; the cause may pass.
        if code == FAILED and (first or not any(other.process for other in self.workers)):
            return FAILED
        now = time.monotonic()
        short = now - worker.started < SHORT_LIFE_S
        worker.short_lives = worker.short_lives + 1 if short else 0
        delay = 0.0
        if worker.short_lives > 1:
            delay = min(FIRST_DELAY_S * 2 ** (worker.short_lives - 2), LONGEST_DELAY_S)
        worker.due = now + delay
        logger.error(
            "worker ended",
            extra={"worker": worker.number, "pid": pid, "exit_code": code, "again_in_s": delay},
        )
        return 0

    def _forget(self, worker: _Worker) -> None:
        forget_worker(worker.number)
        worker.process.close()
        worker.process = None
        if worker.pipe is not None:
            worker.pipe.close()
            worker.pipe = None
        for current in self._rounds:
            # The process that takes its place counts its orders anew.
            current.asker = None if current.asker is worker else current.asker
        if self._rounds:
            self._rounds[0].round.ended(worker.number)
            self._go_on()

    def end(self) -> None:
        """Have all workers drain, and kill those that do not end in time."""
        self._signal_all(signal.SIGTERM)
        settings = self._settings
        limit = time.monotonic() + settings.drain_delay + settings.drain_timeout + END_S
        while any(worker.process for worker in self.workers) and time.monotonic() < limit:
            # A change that was asked for before is made to its end, and its asker answered.
            for worker in self._hear([], limit):
                worker.process.join()  # its end shows a moment before its exit code does
                self._forget(worker)
        self._signal_all(signal.SIGKILL)

    def _signal_all(self, number: int) -> None:
        for worker in self.workers:
            if worker.process is not None and worker.process.is_alive():
                os.kill(worker.process.pid, number)


def _work(
    number: int,
    settings: ServerSettings,
    listener: socket.socket,
    options: WorkerOptions,
    pipe: "Connection[Any, Any]",
    changes: tuple[AdapterChange, ...],
) -> None:
    """What a worker process runs."""
    with bounded_stderr() as writer:
        set_up_logs(settings.log_level)
        share_metrics(number)
        try:
            channel = WorkerChannel(pipe, changes)
            code = run_on_loop(run_worker(settings, listener, options, writer, channel))
        except TrineError as error:
            logger.error("cannot serve: %s", error)
            code = FAILED
    sys.exit(code)
