"""More requests at once than the engine can answer in time, on engines of a known speed."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trine.runtime.engines.base import Engine
from trine.runtime.serving.service import core
from trine.runtime.serving.service.calls import EmbedCall, EmbedItem, EmbedResult, ServiceError

#: `Served` of conftest.py, which tests cannot import.
Serve = Callable[..., AbstractContextManager[Any]]


def text(content: str) -> EmbedItem:
    return EmbedItem(content, "retrieval", "query")


class Pace:
    """Seconds that a token takes at least, in engines that are opened from now on."""

    def __init__(self) -> None:
        self.token_s = 0.0


@pytest.fixture
def pace(monkeypatch: pytest.MonkeyPatch) -> Pace:
    """Makes engines as slow as it says, so that the machine's own speed does not matter."""
    found = Pace()

    class Paced:
        def __init__(self, engine: Engine) -> None:
            self.engine = engine

        def __getattr__(self, name: str) -> object:
            return getattr(self.engine, name)

        def forward_decoder(self, inputs: Any, adapters: Any) -> NDArray[np.float32]:
            time.sleep(found.token_s * len(inputs.embeddings))
            return self.engine.forward_decoder(inputs, adapters)

    opened = core.open_engine
    monkeypatch.setattr(core, "open_engine", lambda *given: Paced(opened(*given)))
    return found


def test_four_hundred_clients_at_once_wait_no_longer_than_allowed(
    golden_bundle: Path, serve: Serve, pace: Pace
) -> None:
    max_wait, pace.token_s = 1.0, 0.001
    call = EmbedCall(items=(text("word " * 16),))

    # All come before anything was asked: the speed is known from the server's start.
    with serve(golden_bundle, max_wait=max_wait, batch_tokens=128) as busy:
        waits: list[float] = []
        refused: list[ServiceError] = []

        async def client() -> None:
            for _ in range(3):
                try:
                    result = await busy.service.embed(call, busy.context())
                    waits.append(result.timings.queue_s)
                except ServiceError as error:
                    refused.append(error)
                    await asyncio.sleep(0.3)

        async def all_at_once() -> None:
            await asyncio.gather(*(client() for _ in range(400)))

        busy.run(all_at_once())
        assert len(waits) > 20
        assert len(refused) > 400
        assert {(error.status, error.code) for error in refused} == {(429, "queue_too_long")}
        assert all(error.retry_after is not None for error in refused)
        # The machine may have other work to do.
        assert np.percentile(waits, 99) < 1.5 * max_wait
        # The burst is over: nothing is refused any more.
        assert busy.embed(*call.items).single is not None


def test_an_engine_that_becomes_slower_than_expected_keeps_nobody_waiting(
    golden_bundle: Path, serve: Serve, pace: Pace
) -> None:
    max_wait = 1.0
    call = EmbedCall(items=(text("word " * 16),))

    with serve(golden_bundle, max_wait=max_wait, batch_tokens=128) as busy:
        pace.token_s = 0.004

        async def all_at_once() -> list[object]:
            calls = (busy.service.embed(call, busy.context()) for _ in range(60))
            return await asyncio.gather(*calls, return_exceptions=True)

        found = busy.run(all_at_once())
        given_up = [result for result in found if isinstance(result, ServiceError)]
        waits = [result.timings.queue_s for result in found if isinstance(result, EmbedResult)]
        assert len(waits) + len(given_up) == 60
        assert len(waits) > 5
        assert {(error.status, error.code) for error in given_up} == {(429, "queue_too_long")}
        assert all(error.retry_after for error in given_up)
        assert max(waits) < 1.5 * max_wait
        assert busy.embed(*call.items).single is not None
        assert busy.service.admission.tokens == 0
