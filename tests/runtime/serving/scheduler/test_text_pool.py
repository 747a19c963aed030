import asyncio
import threading

import pytest

from trine.runtime.serving.scheduler.text_pool import SMALL, TextPool
from trine.runtime.serving.service.calls import ServiceError


def test_small_jobs_gather_while_a_thread_works() -> None:
    async def scenario() -> tuple[list[int], list[int]]:
        pool, gate = TextPool(1), threading.Event()
        order: list[int] = []
        first = asyncio.ensure_future(pool.run(lambda: order.append(0) or gate.wait(5), 1))
        await asyncio.sleep(0.01)
        others = [
            asyncio.ensure_future(pool.run(lambda i=i: order.append(i) or i, 1))
            for i in range(1, 6)
        ]
        await asyncio.sleep(0)
        others[1].cancel()
        gate.set()
        await first
        found = await asyncio.gather(*others, return_exceptions=True)
        pool.shutdown()
        return order, [value for value in found if isinstance(value, int)]

    order, found = asyncio.run(scenario())
    assert order == [0, 1, 3, 4, 5], "a job nobody waits for was done"
    assert found == [1, 3, 4, 5]


def test_a_small_job_does_not_wait_for_a_large_one() -> None:
    async def scenario() -> None:
        pool, gate = TextPool(1), threading.Event()
        large = asyncio.ensure_future(pool.run(lambda: gate.wait(5), SMALL + 1))
        assert await asyncio.wait_for(pool.run(lambda: 7, 1), 5) == 7
        gate.set()
        assert await large
        pool.shutdown()

    asyncio.run(scenario())


@pytest.mark.parametrize("size", [1, SMALL + 1])
def test_an_error_reaches_who_asked_and_nobody_else(size: int) -> None:
    def fail() -> int:
        raise ValueError("no")

    async def scenario() -> None:
        pool = TextPool(1)
        asked = [asyncio.ensure_future(pool.run(work, size)) for work in (lambda: 1, fail)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert found[0] == 1
        assert isinstance(found[1], ValueError)
        assert await pool.run(lambda: 2, size) == 2
        pool.shutdown()

    asyncio.run(scenario())


def test_jobs_that_threads_did_not_begin_end_when_the_pool_does() -> None:
    async def scenario() -> list[object]:
        pool, gate, begun = TextPool(1), threading.Event(), threading.Barrier(3)

        def work() -> str:
            begun.wait(5)
            gate.wait(5)
            return "done"

        sizes = (1, SMALL + 1)
        first = [asyncio.ensure_future(pool.run(work, size)) for size in sizes]
        await asyncio.sleep(0)
        await asyncio.to_thread(begun.wait, 5)
        waiting = [asyncio.ensure_future(pool.run(lambda: 1, size)) for size in sizes]
        await asyncio.sleep(0)
        pool.shutdown()
        late = [asyncio.ensure_future(pool.run(lambda: 1, size)) for size in sizes]
        dropped = await asyncio.wait_for(asyncio.gather(*waiting, *late, return_exceptions=True), 5)
        assert {type(error) for error in dropped} == {ServiceError}
        assert {error.status for error in dropped} == {503}
        gate.set()
        return await asyncio.wait_for(asyncio.gather(*first), 5)

    assert asyncio.run(scenario()) == ["done", "done"]
