"""The room for decoded images while calls are given up and threads end."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest

from trine.runtime.inputs import ImageText
from trine.runtime.serving.scheduler.admission import PatchRoom
from trine.runtime.serving.scheduler.batching import BatchBudget
from trine.runtime.serving.scheduler.feeding import Feeder
from trine.runtime.serving.scheduler.text_pool import TextPool
from trine.runtime.serving.scheduler.tickets import Ticket
from trine.runtime.serving.service.calls import EmbedCall, EmbedItem, ServiceError


class Decoding:
    """A feeder whose one thread decodes until a test lets it go."""

    def __init__(self) -> None:
        self.room = PatchRoom(10)
        self.begun, self.gate = threading.Event(), threading.Event()
        self.threads = ThreadPoolExecutor(1)
        self._feeder = Feeder(
            preparer=cast(Any, SimpleNamespace(image=self._image)),
            engine=cast(Any, None),
            queue=cast(Any, None),
            room=self.room,
            texts=TextPool(1),
            image_threads=self.threads,
            max_call_tokens=100,
            patches_per_image=5,
            budget=BatchBudget(tokens=100, patches=100, short_tokens=10),
            max_wait=5.0,
        )

    def _image(self, *_: object) -> None:
        self.begun.set()
        assert self.gate.wait(10)
        raise ServiceError(422, "invalid_input", "no image")

    def feed(self, num_items: int = 1) -> "asyncio.Task[None]":
        items = (EmbedItem(ImageText((b"",)), "retrieval"),) * num_items
        ticket = cast(Ticket, SimpleNamespace(call=EmbedCall(items=items)))
        return asyncio.ensure_future(self._feeder.feed(ticket, 100))

    async def has_room(self, patches: int) -> bool:
        try:
            await asyncio.wait_for(self.room.acquire(patches), 0.05)
        except TimeoutError:
            return False
        self.room.release(patches)
        return True


def run(scenario: Callable[[Decoding], Any]) -> None:
    async def whole() -> None:
        decoding = Decoding()
        try:
            await asyncio.wait_for(scenario(decoding), 20)
        finally:
            decoding.gate.set()
            decoding.threads.shutdown()

    asyncio.run(whole())


def test_a_call_that_is_given_up_keeps_its_room_while_its_thread_decodes() -> None:
    async def scenario(decoding: Decoding) -> None:
        feeding = decoding.feed(num_items=2)
        await asyncio.to_thread(decoding.begun.wait, 10)
        assert not await decoding.has_room(1)
        feeding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await feeding
        # What no thread has begun with is free at once, the other half when its thread is done.
        assert await decoding.has_room(5)
        assert not await decoding.has_room(6)
        decoding.gate.set()
        await decoding.room.acquire(10)

    run(scenario)


def test_an_image_that_cannot_be_decoded_gives_its_room_back() -> None:
    async def scenario(decoding: Decoding) -> None:
        decoding.gate.set()
        with pytest.raises(ServiceError, match="no image"):
            await decoding.feed()
        assert await decoding.has_room(10)

    run(scenario)


def test_images_that_no_thread_has_begun_with_end_when_the_threads_do() -> None:
    async def scenario(decoding: Decoding) -> None:
        first = decoding.feed()
        await asyncio.to_thread(decoding.begun.wait, 10)
        waiting = decoding.feed()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        decoding.threads.shutdown(wait=False, cancel_futures=True)
        with pytest.raises(ServiceError) as refused:
            await waiting
        assert refused.value.status == 503
        decoding.gate.set()
        with pytest.raises(ServiceError, match="no image"):
            await first

    run(scenario)
