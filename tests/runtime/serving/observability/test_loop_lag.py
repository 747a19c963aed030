import asyncio
import time

from trine.runtime.serving.observability.loop_lag import LoopLag


def test_a_loop_is_busy_while_it_is_behind() -> None:
    async def scenario() -> tuple[bool, bool]:
        lag = LoopLag()
        lag.start()
        await asyncio.sleep(0.05)
        for _ in range(20):
            time.sleep(0.1)
            await asyncio.sleep(0)
            if lag.busy:
                break
        behind = lag.busy
        for _ in range(100):
            await asyncio.sleep(0.02)
            if not lag.busy:
                break
        after = lag.busy
        await lag.stop()
        return behind, after

    behind, after = asyncio.run(scenario())
    assert behind
    assert not after
