"""Threads that compute give way to those that answer."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from trine.runtime.serving.http.priority import NICENESS, give_way


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")
def test_a_thread_and_those_it_starts_give_way_and_no_other() -> None:
    before = niceness()
    with ThreadPoolExecutor(1, initializer=give_way) as outer:

        def start_another() -> int:
            with ThreadPoolExecutor(1) as inner:
                return inner.submit(niceness).result()

        expected = min(before + NICENESS, 19)
        assert outer.submit(niceness).result() == expected
        assert outer.submit(start_another).result() == expected
    assert niceness() == before
