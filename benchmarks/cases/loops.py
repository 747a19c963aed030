"""Load on a model: clients that wait for their answers, and requests that arrive when they like."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

__all__ = ["closed_loop", "open_loop"]


def closed_loop(
    request: Callable[[], object], clients: int, count: int
) -> tuple[float, list[float]]:
    """Send `count` requests from `clients` threads, each sending its next when its last came back.

    Returns:
        Seconds for all of them, and seconds of each.
    """
    latencies: list[float] = []
    lock = threading.Lock()

    def serve() -> None:
        started = time.perf_counter()
        request()
        with lock:
            latencies.append(time.perf_counter() - started)

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        for future in [pool.submit(serve) for _ in range(count)]:
            future.result()
    return time.perf_counter() - started, latencies


def open_loop(
    request: Callable[[], object], rate: float, count: int, seed: int = 0
) -> tuple[float, list[float]]:
    """Send `count` requests at random moments (Poisson), whether earlier ones are answered or not.

    Args:
        request: one request; safe from several threads.
        rate: requests a second on average.
        count: of requests.
        seed: of the moments.

    Returns:
        Seconds for all of them, and seconds of each from the moment it was due: waiting counts.
    """
    due = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))
    latencies: list[float] = []
    lock = threading.Lock()
    started = time.perf_counter()

    def serve(moment: float) -> None:
        request()
        with lock:
            latencies.append(time.perf_counter() - started - moment)

    # A thread a request: none may wait for another's thread.
    with ThreadPoolExecutor(count) as pool:
        futures = []
        for moment in due.tolist():
            time.sleep(max(0.0, moment - (time.perf_counter() - started)))
            futures.append(pool.submit(serve, moment))
        for future in futures:
            future.result()
    return time.perf_counter() - started, latencies
