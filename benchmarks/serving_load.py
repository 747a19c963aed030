"""Loads `trine serve`: throughput, latency at half load, overload, and a long mixed soak.

Server and client run on one machine and share its processors. Every case starts a server of its
own. Capacity is what 64 connections get that each ask for one short query at a time.

    python benchmarks/serving_load.py BUNDLE [--cases throughput latency overload soak]
        [--seconds 20] [--overload-seconds 120] [--requests 20000] [--threads N] [--out FILE]
"""

import argparse
import asyncio
import base64
import io
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from machine import machine_record
from numpy.typing import NDArray
from PIL import Image
from serving_client import Answer, Connection, ServerProcess, request_bytes, running_server

from trine import Embedder, ImageText

#: Connections of the closed loop.
CONNECTIONS = 64
#: Distinct short queries.
QUERIES = [f"how does part {i} of the engine work in winter" for i in range(512)]
#: Deadline of requests under overload, in seconds.
OVERLOAD_DEADLINE_S = 5.0
#: Seconds after which a request counts as stuck.
STUCK_S = 120.0
#: Largest difference to direct encoding: another batch, another order of summation.
TOLERANCE = 1e-4


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


async def open_loop(
    port: int, seconds: float, rate: float, timeout: float | None = None
) -> list[Answer | None]:
    """Return the answers to queries that come at `rate` a second at random, whatever is answered.

    None stands for a connection that broke.
    """
    source, answers = random.Random(0), list[Answer | None]()
    idle: list[Connection] = []
    tasks: set[asyncio.Task[None]] = set()

    async def ask(number: int) -> None:
        connection = idle.pop() if idle else Connection(port)
        try:
            answers.append(await connection.ask(query_request(number, timeout)))
            idle.append(connection)
        except (OSError, asyncio.IncompleteReadError):
            answers.append(None)

    start = due = time.perf_counter()
    number = 0
    while due < start + seconds:
        due += source.expovariate(rate)
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        task = asyncio.ensure_future(ask(number))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        number += 1
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return answers


def direct_rate(embedder: Embedder, seconds: float) -> float:
    """Return texts a second of direct encoding, 64 at a time, with the server's budget."""
    end, count, start = time.perf_counter() + seconds, 0, time.perf_counter()
    while time.perf_counter() < end:
        first = count % len(QUERIES)
        embedder.encode_text(QUERIES[first : first + CONNECTIONS], task="retrieval")
        count += CONNECTIONS
    return count / (time.perf_counter() - start)


def measure_throughput(
    server: ServerProcess, embedder: Embedder, seconds: float
) -> dict[str, float]:
    """Compare the closed loop with direct encoding, which runs before and after it."""
    asyncio.run(closed_loop(server.port, seconds / 4, CONNECTIONS))
    direct_rate(embedder, 1.0)
    before = direct_rate(embedder, seconds / 2)
    start = time.perf_counter()
    answers = asyncio.run(closed_loop(server.port, seconds, CONNECTIONS))
    rate = len(answers) / (time.perf_counter() - start)
    after = direct_rate(embedder, seconds / 2)
    direct = (before + after) / 2
    return {
        "direct_texts_per_s": round(direct, 1),
        "served_texts_per_s": round(rate, 1),
        "share_of_direct": round(rate / direct, 3),
        "not_200": sum(answer.status != 200 for answer in answers),
        "p50_ms": percentile([a.seconds for a in answers], 50),
        "p99_ms": percentile([a.seconds for a in answers], 99),
    }


def measure_latency(server: ServerProcess, seconds: float, capacity: float) -> dict[str, float]:
    """Compare the latency of single requests with that at half the capacity."""
    asyncio.run(closed_loop(server.port, seconds / 4, 1))
    single = [a.seconds for a in asyncio.run(closed_loop(server.port, seconds / 2, 1))]
    found = asyncio.run(open_loop(server.port, seconds, capacity / 2))
    half = [answer.seconds for answer in found if answer is not None and answer.status == 200]
    return {
        "single_p50_ms": percentile(single, 50),
        "single_p99_ms": percentile(single, 99),
        "half_load_p50_ms": percentile(half, 50),
        "half_load_p99_ms": percentile(half, 99),
        "p99_over_single_p50": round(percentile(half, 99) / max(percentile(single, 50), 1e-9), 2),
        "not_200": len(found) - len(half),
    }


def measure_overload(server: ServerProcess, seconds: float, capacity: float) -> dict[str, object]:
    """Ask for three times the capacity."""
    asyncio.run(closed_loop(server.port, 2.0, CONNECTIONS))
    memory = server.resident_mb()
    found = asyncio.run(open_loop(server.port, seconds, 3 * capacity, OVERLOAD_DEADLINE_S))
    by_status: dict[int, list[float]] = {}
    for answer in found:
        by_status.setdefault(answer.status if answer else 0, []).append(
            answer.seconds if answer else 0.0
        )
    accepted = by_status.get(200, [])
    return {
        "asked_per_s": round(len(found) / seconds, 1),
        "answers_by_status": {str(k): len(v) for k, v in sorted(by_status.items())},
        "broken_connections": len(by_status.get(0, [])),
        "accepted_p99_ms": percentile(accepted, 99),
        "accepted_after_deadline": sum(s > OVERLOAD_DEADLINE_S for s in accepted),
        "refused_p50_ms": percentile(by_status.get(429, []), 50),
        "refused_p99_ms": percentile(by_status.get(429, []), 99),
        "memory_mb": [round(memory, 1), round(server.resident_mb(), 1)],
        "alive": server.process.poll() is None,
    }


@dataclass(frozen=True, slots=True)
class Probe:
    """A request whose answer is known.

    Attributes:
        request: as sent.
        single: float32 [B, D], or None.
        multi: float32 [T, d] of each item, or None.
    """

    request: bytes
    single: NDArray[np.float32] | None
    multi: list[NDArray[np.float32]] | None


@dataclass(slots=True)
class SoakCount:
    """What a soak came to."""

    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    stuck: int = 0
    worst: float = 0.0
    memory: list[float] = field(default_factory=list)


def make_probes(embedder: Embedder, number: int) -> list[Probe]:
    """Return requests of every kind with what direct encoding says of them."""
    source = random.Random(1)
    words = " ".join(QUERIES).split()
    probes = []
    for _ in range(number):
        task = source.choice(["retrieval", "code"])
        prompt = source.choice(["query", "passage"])
        multi = source.random() < 0.2
        dim = source.choice([None, 128]) if not multi else None
        items: list[str | ImageText] = []
        inputs: list[dict[str, str]] = []
        for _ in range(source.choice([1, 1, 1, 2, 5])):
            if source.random() < 0.1:
                picture = make_picture(source)
                items.append(ImageText((picture,)))
                inputs.append({"image": base64.b64encode(picture).decode()})
            else:
                length = source.choice([3, 8, 30, 200])
                items.append(" ".join(source.choices(words, k=length)))
                inputs.append({"text": str(items[-1])})
        found = embedder.encode(
            items,
            task=task,
            prompt_name=prompt,
            truncate_dim=dim,
            return_single=not multi,
            return_multivector=multi,
        )
        body: dict[str, object] = {"input": inputs, "task": f"{task}.{prompt}"}
        body |= {"return_multivector": True} if multi else {}
        body |= {} if dim is None else {"dimensions": dim}
        probes.append(Probe(request_bytes(body), found.single, found.multi))
    return probes


def make_picture(source: random.Random) -> bytes:
    """Return a small PNG of random pixels."""
    width, height = (28 * source.randint(2, 5) for _ in range(2))
    pixels = np.random.default_rng(source.randrange(1 << 30)).integers(
        0, 256, (height, width, 3), np.uint8
    )
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def malformed(source: random.Random) -> bytes:
    """Return a request that must be refused."""
    bodies: list[object] = [
        b"{",
        b"\xff" * 100,
        {"input": 3},
        {"input": [{"image": "not base64 !"}]},
        {"input": [{"image": base64.b64encode(b"GIF89a").decode()}]},
        {"input": "a", "task": "poetry"},
        {"input": "a", "dimensions": 10**6},
        {"input": [[10**9]]},
        {"model": "jina-embeddings-v4"},
    ]
    return request_bytes(source.choice(bodies))


def difference(probe: Probe, answer: Answer) -> float:
    """Return the largest difference of an answer's numbers to those of direct encoding."""
    rows = json.loads(answer.body)["data"]
    if probe.multi is not None:
        found = [np.array(row["embeddings"], np.float32) for row in rows]
        pairs = list(zip(found, probe.multi, strict=True))
    elif probe.single is not None:
        pairs = [(np.array([row["embedding"] for row in rows], np.float32), probe.single)]
    else:
        raise ValueError("a probe has vectors")
    if any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    return max(float(np.abs(a - b).max()) for a, b in pairs)


async def soak(server: ServerProcess, probes: Sequence[Probe], requests: int) -> SoakCount:
    """Send mixed requests: 5 % malformed, 2 % whose client leaves."""
    count, numbers = SoakCount(), iter(range(requests))

    async def ask(seed: int) -> None:
        source, connection = random.Random(seed), Connection(server.port)
        for number in numbers:
            if number % max(requests // 50, 1) == 0:
                count.memory.append(round(server.resident_mb(), 1))
            probe, chance = source.choice(probes), source.random()
            try:
                async with asyncio.timeout(STUCK_S):
                    if chance < 0.02:
                        count.kinds["left"] += 1
                        await connection.leave(probe.request, source.random() * 0.02)
                    elif chance < 0.07:
                        count.kinds["malformed"] += 1
                        answer = await connection.ask(malformed(source))
                        count.statuses[answer.status] += 1
                        count.wrong += not 400 <= answer.status < 500
                    else:
                        count.kinds["good"] += 1
                        answer = await connection.ask(probe.request)
                        count.statuses[answer.status] += 1
                        off = difference(probe, answer) if answer.status == 200 else float("inf")
                        count.worst = max(count.worst, off)
                        count.wrong += off > TOLERANCE
            except TimeoutError:
                count.stuck += 1

    await asyncio.gather(*map(ask, range(32)))
    return count


def measure_soak(server: ServerProcess, embedder: Embedder, requests: int) -> dict[str, object]:
    """Soak a server; memory is that after a tenth of the requests, and at the end."""
    count = asyncio.run(soak(server, make_probes(embedder, 300), requests))
    memory = count.memory
    warm = statistics.median(memory[len(memory) // 10 :][:5])
    end = statistics.median(memory[-5:])
    return {
        "requests": dict(count.kinds),
        "answers_by_status": {str(k): v for k, v in sorted(count.statuses.items())},
        "wrong": count.wrong,
        "stuck": count.stuck,
        "largest_difference": count.worst,
        "memory_mb_over_time": memory,
        "memory_growth": round(end / warm - 1, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    cases = ("throughput", "latency", "overload", "soak")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--cases", nargs="+", choices=cases, default=cases)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--overload-seconds", type=float, default=120.0)
    parser.add_argument("--requests", type=int, default=20000)
    parser.add_argument("--threads", type=int, help="of the engine, served and direct")
    parser.add_argument("--out", type=Path, help="also write the JSON there")
    arguments = parser.parse_args()
    embedder = Embedder.load(arguments.bundle, threads=arguments.threads)
    options = [] if arguments.threads is None else ["--threads", str(arguments.threads)]
    results: dict[str, object] = {}
    with running_server(arguments.bundle, options) as server:
        throughput = measure_throughput(server, embedder, arguments.seconds)
    capacity = throughput["served_texts_per_s"]
    runs: dict[str, Callable[[ServerProcess], object]] = {
        "latency": lambda server: measure_latency(server, arguments.seconds, capacity),
        "overload": lambda server: measure_overload(server, arguments.overload_seconds, capacity),
        "soak": lambda server: measure_soak(server, embedder, arguments.requests),
    }
    results["throughput"] = throughput
    print("throughput", json.dumps(throughput), flush=True)
    for case in arguments.cases:
        if case in runs:
            with running_server(arguments.bundle, options) as server:
                results[case] = runs[case](server)
            print(case, json.dumps(results[case]), flush=True)
    record = {
        "benchmark": "serving_load",
        "bundle": arguments.bundle.name,
        "results": results,
        **machine_record(),
    }
    line = json.dumps(record)
    print(line)
    if arguments.out is not None:
        arguments.out.write_text(line + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
