"""Short queries sent to a server: each connection in turn, or at given times; and their times."""

import asyncio
import random
import time
from collections.abc import Sequence

import numpy as np
from serving_client import Answer, Connection, request_bytes

__all__ = ["QUERIES", "arrivals", "closed_loop", "open_loop", "percentile", "query_request"]

#: Distinct short queries.
QUERIES = [f"how does part {i} of the engine work in winter" for i in range(512)]


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile in milliseconds; NaN of none."""
    return round(float(np.percentile(values, share)) * 1000, 2) if values else float("nan")


def query_request(number: int, timeout: float | None = None) -> bytes:
    """Return a request for one short query, with a vector in base64 as OpenAI's client asks."""
    text = QUERIES[number % len(QUERIES)]
    return request_bytes({"input": text, "encoding_format": "base64"}, timeout=timeout)


async def closed_loop(port: int, seconds: float, connections: int) -> list[Answer]:
    """Return the answers to short queries, each connection asking as soon as it was answered."""
    end = time.perf_counter() + seconds
    answers: list[Answer] = []

    async def ask(first: int) -> None:
        connection, number = Connection(port), first
        while time.perf_counter() < end:
            answers.append(await connection.ask(query_request(number)))
            number += connections
        connection.close()

    await asyncio.gather(*map(ask, range(connections)))
    return answers


def arrivals(seconds: float, rate: float, even: bool) -> list[float]:
    """Return when queries come, `rate` a second: evenly spaced, or at random (Poisson)."""
    source, times = random.Random(0), [0.0]
    while times[-1] < seconds:
        times.append(times[-1] + (1 / rate if even else source.expovariate(rate)))
    return times[:-1]


async def open_loop(
    port: int, times: Sequence[float], timeout: float | None = None
) -> list[Answer | None]:
    """Return the answers to queries that come at given times, whatever is answered.

    None stands for a connection that broke.
    """
    answers = list[Answer | None]()
    idle: list[Connection] = []
    tasks: set[asyncio.Task[None]] = set()

    async def ask(number: int) -> None:
        connection = idle.pop() if idle else Connection(port)
        try:
            answers.append(await connection.ask(query_request(number, timeout)))
            idle.append(connection)
        except OSError:
            answers.append(None)

    start = time.perf_counter()
    for number, due in enumerate(times):
        await asyncio.sleep(max(start + due - time.perf_counter(), 0))
        task = asyncio.ensure_future(ask(number))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return answers
