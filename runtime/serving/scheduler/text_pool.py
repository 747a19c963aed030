"""Threads for texts: small jobs that come together are done together.

Handing a job to a thread and its result back costs more than tokenising a short text. So while a
thread works, small jobs gather, and the next one takes all of them; a job alone does not wait.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from trine.runtime.serving.service.refusals import not_ready

__all__ = ["TextPool"]

T = TypeVar("T")

#: Characters up to which a job is small: some tenths of a millisecond.
SMALL = 2000


@dataclass(slots=True, eq=False)
class _Job:
    work: Callable[[], Any]
    wanted: Callable[[], bool]
    done: Callable[[Any, Exception | None], object]
    result: Any = None
    error: Exception | None = None


class TextPool:
    """Runs jobs on texts. For the event loop's thread; the jobs run in others.

    Args:
        threads: for large jobs; small ones have one of their own.
    """

    def __init__(self, threads: int) -> None:
        self._large = ThreadPoolExecutor(threads, "trine-text")
        self._small = ThreadPoolExecutor(1, "trine-short-text")
        self._gathered: list[_Job] = []
        self._working = False
        self._closed = False

    def submit(
        self,
        work: Callable[[], T],
        characters: int,
        wanted: Callable[[], bool],
        done: Callable[[T | None, Exception | None], object],
    ) -> None:
        """Have `work` done in a thread.

        Args:
            work: to do.
            characters: of the texts it is about.
            wanted: asked, in the thread, before it is begun; a job that is not wanted is dropped.
            done: called on the event loop with what `work` returned, or with None and what it
                raised.
        """
        loop = asyncio.get_running_loop()
        job = _Job(work, wanted, done)
        if self._closed:
            loop.call_soon(_drop, [job])
        elif characters > SMALL:
            begun = self._large.submit(
                _do, [job], lambda: loop.call_soon_threadsafe(_report, [job])
            )
            begun.add_done_callback(lambda ended: _drop([job] if ended.cancelled() else []))
        else:
            self._gathered.append(job)
            self._start(loop)

    async def run(self, work: Callable[[], T], characters: int) -> T:
        """Return what `work` returns, done in a thread.

        Args:
            work: to do.
            characters: of the texts it is about.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def done(result: T | None, error: Exception | None) -> None:
            if future.done():
                return  # whoever asked has left
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(cast(T, result))

        self.submit(work, characters, lambda: not future.cancelled(), done)
        return await future

    def shutdown(self) -> None:
        """End the threads; jobs that did not begin end with 503."""
        self._closed = True
        self._large.shutdown(wait=False, cancel_futures=True)
        # The thread has begun with all jobs that it was given, as it gets them one by one.
        self._small.shutdown(wait=False)
        gathered, self._gathered = self._gathered, []
        _drop(gathered)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._working or not self._gathered:  # none is gathered once the threads have ended
            return
        jobs, self._gathered = self._gathered, []
        self._working = True
        self._small.submit(_do, jobs, lambda: loop.call_soon_threadsafe(self._finish, jobs, loop))

    def _finish(self, jobs: list[_Job], loop: asyncio.AbstractEventLoop) -> None:
        self._working = False
        self._start(loop)
        _report(jobs)


def _drop(jobs: list[_Job]) -> None:
    for job in jobs:
        job.error = not_ready("draining")
    _report(jobs)


def _report(jobs: list[_Job]) -> None:
    for job in jobs:
        job.done(job.result, job.error)


def _do(jobs: list[_Job], finished: Callable[[], object]) -> None:
    for job in jobs:
        if not job.wanted():
            continue
        try:
            job.result = job.work()
        except Exception as error:  # it is raised where the job came from
            job.error = error
    finished()
