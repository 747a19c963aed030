"""Threads for texts: small jobs that come together are done together.

Handing a job to a thread and its result back costs more than tokenising a short text. So while a
thread works, small jobs gather, and the next one takes all of them; a job alone does not wait.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = ["TextPool"]

T = TypeVar("T")

#: Characters up to which a job is small: some tenths of a millisecond.
SMALL = 2000


@dataclass(slots=True, eq=False)
class _Job:
    work: Callable[[], Any]
    done: "asyncio.Future[Any]"
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

    async def run(self, work: Callable[[], T], characters: int) -> T:
        """Return what `work` returns.

        Args:
            work: to do in a thread.
            characters: of the texts it is about.
        """
        loop = asyncio.get_running_loop()
        if characters > SMALL:
            return await loop.run_in_executor(self._large, work)
        job = _Job(work, loop.create_future())
        self._gathered.append(job)
        self._start(loop)
        return await job.done

    def shutdown(self) -> None:
        """End the threads; jobs that did not begin are dropped."""
        self._large.shutdown(wait=False, cancel_futures=True)
        self._small.shutdown(wait=False, cancel_futures=True)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._working or not self._gathered:
            return
        jobs, self._gathered = self._gathered, []
        self._working = True
        self._small.submit(_do, jobs, lambda: loop.call_soon_threadsafe(self._finish, jobs, loop))

    def _finish(self, jobs: list[_Job], loop: asyncio.AbstractEventLoop) -> None:
        self._working = False
        self._start(loop)
        for job in jobs:
            if job.done.done():
                continue  # whoever asked has left
            if job.error is not None:
                job.done.set_exception(job.error)
            else:
                job.done.set_result(job.result)


def _do(jobs: list[_Job], finished: Callable[[], object]) -> None:
    for job in jobs:
        if job.done.cancelled():
            continue
        try:
            job.result = job.work()
        except Exception as error:  # it is raised where the job came from
            job.error = error
    finished()
