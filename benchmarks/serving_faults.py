"""Counts what becomes of requests when a worker is killed, and when the server is ended."""

import asyncio
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field

import uvloop
from serving_client import Connection, ServerProcess, request_bytes

__all__ = ["measure_crash", "measure_drain"]

#: Connections that ask one request after the other.
CONNECTIONS = 32
#: Seconds of load before the event, and after a worker was killed.
BEFORE_S = 2.0
AFTER_S = 8.0
#: Seconds between two tries to connect to a server that does not listen.
RETRY_S = 0.02


@dataclass(slots=True)
class Load:
    """What requests came to, while it lasts.

    Attributes:
        statuses: of answers.
        broken: of requests that were not answered, when they were sent and their connection broke.
        refused: connections that could not be opened.
        until: when to stop, on `time.perf_counter()`'s clock.
    """

    until: float
    statuses: Counter[int] = field(default_factory=Counter)
    broken: list[tuple[float, float]] = field(default_factory=list)
    refused: int = 0


async def ask_on(port: int, load: Load, number: int) -> None:
    """Ask until the load's time is over."""
    connection = Connection(port)
    request = request_bytes({"input": f"how does part {number} of the engine work in winter"})
    while (sent := time.perf_counter()) < load.until:
        try:
            answer = await connection.ask(request)
            load.statuses[answer.status] += 1
        except ConnectionRefusedError:
            load.refused += 1
            await asyncio.sleep(RETRY_S)
        except OSError:
            load.broken.append((sent, time.perf_counter()))
    connection.close()


def measure_crash(server: ServerProcess) -> dict[str, object]:
    """Kill one of two workers under load with SIGKILL."""

    async def run() -> dict[str, object]:
        load = Load(time.perf_counter() + BEFORE_S + AFTER_S)
        asking = [asyncio.ensure_future(ask_on(server.port, load, i)) for i in range(CONNECTIONS)]
        await asyncio.sleep(BEFORE_S)
        before = server.workers()
        killed_at = time.perf_counter()
        os.kill(before[0], signal.SIGKILL)
        await asyncio.gather(*asking)
        after = server.workers()
        return {
            "answers_by_status": {str(k): v for k, v in sorted(load.statuses.items())},
            "broken_requests": len(load.broken),
            "of_them_sent_after_the_kill": sum(sent > killed_at for sent, _ in load.broken),
            "connections_refused": load.refused,
            "workers_before": len(before),
            "workers_after": len(after),
            "replaced": before[0] not in after and before[1] in after,
            "alive": server.process.poll() is None,
        }

    return uvloop.run(run())


def measure_drain(server: ServerProcess) -> dict[str, object]:
    """End a server of two workers under load with SIGTERM.

    A request that was accepted is answered with its vectors; one that comes later is answered with
    503, finds nobody listening, or a connection that is being closed. What was sent before the
    signal and breaks is a failure.
    """

    async def run() -> dict[str, object]:
        load = Load(time.perf_counter() + BEFORE_S + 1.0)
        asking = [asyncio.ensure_future(ask_on(server.port, load, i)) for i in range(CONNECTIONS)]
        await asyncio.sleep(BEFORE_S)
        ended_at = time.perf_counter()
        server.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*asking)
        code = await asyncio.to_thread(server.process.wait, 60)
        return {
            "answers_by_status": {str(k): v for k, v in sorted(load.statuses.items())},
            "broken_sent_before_the_signal": sum(sent < ended_at for sent, _ in load.broken),
            "broken_sent_after_the_signal": sum(sent >= ended_at for sent, _ in load.broken),
            "connections_refused": load.refused,
            "seconds_to_end": round(time.perf_counter() - ended_at, 2),
            "exit_code": code,
        }

    return uvloop.run(run())
