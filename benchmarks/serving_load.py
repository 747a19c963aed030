"""Loads `trine serve`: throughput, latency, overload, a long soak, crashes, draining, documents.

Server and client run on one machine and share its processors. Every case starts a server of its
own. Capacity is what 64 connections get that each ask for one short query at a time.

    python benchmarks/serving_load.py BUNDLE
        [--cases throughput latency overload soak crash drain mixed] [--engine NAME]
        [--batch-tokens 2048] [--document-tokens 2000 4000] [--seconds 20]
        [--overload-seconds 120] [--requests 20000] [--out FILE]
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import uvloop
from machine import machine_record
from serving_client import Answer, ServerProcess, running_server
from serving_faults import measure_crash, measure_drain
from serving_loops import QUERIES, arrivals, closed_loop, open_loop, percentile
from serving_mixed import measure_mixed
from serving_soak import measure_soak

from trine import Embedder

#: Connections of the closed loop.
CONNECTIONS = 64
#: How many times `--seconds` queries come at half load: one in a hundred needs many.
LATENCY_TIMES = 3
#: Deadline of requests under overload, in seconds.
OVERLOAD_DEADLINE_S = 5.0
#: Parts of the overload, after each of which memory is looked at.
OVERLOAD_PARTS = 6
#: Turns of direct and served encoding, of whose ratios the median is reported: other work on the
#: machine then falls on both.
TURNS = 5


def in_order(times: Sequence[float], service: float) -> list[float]:
    """Return the latencies of a server that takes `service` seconds for each, one after another.

    No order of answering has fewer late ones where all take as long (the M/D/1 queue if the
    arrivals are random).
    """
    end, found = 0.0, []
    for come in times:
        end = max(end, come) + service
        found.append(end - come)
    return found


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
) -> dict[str, object]:
    """Compare the closed loop with direct encoding, in turns."""
    uvloop.run(closed_loop(server.port, seconds / TURNS, CONNECTIONS))
    direct_rate(embedder, 1.0)
    direct: list[float] = []
    served: list[float] = []
    direct_cpu: list[float] = []
    served_cpu: list[float] = []
    answers: list[Answer] = []
    for _ in range(TURNS):
        start, used = time.perf_counter(), time.process_time()
        direct.append(direct_rate(embedder, seconds / TURNS))
        texts = direct[-1] * (time.perf_counter() - start)
        direct_cpu.append((time.process_time() - used) / texts)
        start, used = time.perf_counter(), server.cpu_seconds()
        found = uvloop.run(closed_loop(server.port, seconds / TURNS, CONNECTIONS))
        served.append(len(found) / (time.perf_counter() - start))
        served_cpu.append((server.cpu_seconds() - used) / len(found))
        answers += found
    shares = [ours / theirs for ours, theirs in zip(served, direct, strict=True)]
    return {
        "direct_texts_per_s": round(statistics.median(direct), 1),
        "served_texts_per_s": round(statistics.median(served), 1),
        "share_of_direct": round(statistics.median(shares), 3),
        "shares": [round(share, 3) for share in shares],
        "direct_cpu_ms_per_text": round(statistics.median(direct_cpu) * 1000, 3),
        "served_cpu_ms_per_text": round(statistics.median(served_cpu) * 1000, 3),
        "not_200": sum(answer.status != 200 for answer in answers),
        "p50_ms": percentile([a.seconds for a in answers], 50),
        "p99_ms": percentile([a.seconds for a in answers], 99),
    }


def measure_capacity(server: ServerProcess, seconds: float) -> float:
    """Return texts a second of the closed loop."""
    uvloop.run(closed_loop(server.port, seconds / 4, CONNECTIONS))
    start = time.perf_counter()
    answers = uvloop.run(closed_loop(server.port, seconds / 2, CONNECTIONS))
    return len(answers) / (time.perf_counter() - start)


def measure_latency(server: ServerProcess, seconds: float, capacity: float) -> dict[str, object]:
    """Compare the latency of single requests with that at half the capacity.

    Queries come evenly spaced and at random, beside what the same arrivals would see of a server
    that takes the median single request's time for each, in order.
    """
    uvloop.run(closed_loop(server.port, seconds / 4, 1))
    single = [a.seconds for a in uvloop.run(closed_loop(server.port, seconds / 2, 1))]
    alone = statistics.median(single)
    result: dict[str, object] = {
        "single_p50_ms": percentile(single, 50),
        "single_p99_ms": percentile(single, 99),
        "asked_per_s": round(capacity / 2, 2),
    }
    for name, even in (("even", True), ("random", False)):
        times = arrivals(LATENCY_TIMES * seconds, capacity / 2, even)
        found = uvloop.run(open_loop(server.port, times))
        half = [answer.seconds for answer in found if answer is not None and answer.status == 200]
        ideal = in_order(times, alone)
        result[name] = {
            "requests": len(found),
            "p50_ms": percentile(half, 50),
            "p99_ms": percentile(half, 99),
            "p99_over_single_p50": round(percentile(half, 99) / 1000 / alone, 2),
            "in_order_p99_over_single_p50": round(percentile(ideal, 99) / 1000 / alone, 2),
            "not_200": len(found) - len(half),
        }
    return result


def measure_overload(server: ServerProcess, seconds: float, capacity: float) -> dict[str, object]:
    """Ask for three times the capacity."""
    uvloop.run(closed_loop(server.port, 2.0, CONNECTIONS))
    memory = [round(server.resident_mb(), 1)]
    found: list[Answer | None] = []
    for _ in range(OVERLOAD_PARTS):
        part = seconds / OVERLOAD_PARTS
        times = arrivals(part, 3 * capacity, even=False)
        found += uvloop.run(open_loop(server.port, times, OVERLOAD_DEADLINE_S))
        memory.append(round(server.resident_mb(), 1))
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
        "memory_mb": memory,
        "alive": server.process.poll() is None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    cases = ("throughput", "latency", "overload", "soak", "crash", "drain", "mixed")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--cases", nargs="+", choices=cases, default=cases)
    parser.add_argument("--engine", default="auto", help="of the bundle, served and direct")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--overload-seconds", type=float, default=120.0)
    parser.add_argument("--requests", type=int, default=20000)
    parser.add_argument("--capacity", type=float, help="texts a second; measured if not given")
    parser.add_argument("--threads", type=int, help="of the engine, served and direct")
    parser.add_argument("--batch-tokens", type=int, help="of the server's runs")
    parser.add_argument(
        "--document-tokens", nargs=2, type=int, default=(2000, 4000), help="least and most, mixed"
    )
    parser.add_argument("--out", type=Path, help="also write the JSON there")
    arguments = parser.parse_args()
    embedder = Embedder.load(arguments.bundle, engine=arguments.engine, threads=arguments.threads)
    options = ["--engine", arguments.engine]
    options += [] if arguments.threads is None else ["--threads", str(arguments.threads)]
    if arguments.batch_tokens is not None:
        options += ["--batch-tokens", str(arguments.batch_tokens)]
    capacity = arguments.capacity or 0.0
    runs: dict[str, Callable[[ServerProcess], object]] = {
        "throughput": lambda server: measure_throughput(server, embedder, arguments.seconds),
        "latency": lambda server: measure_latency(server, arguments.seconds, capacity),
        "overload": lambda server: measure_overload(server, arguments.overload_seconds, capacity),
        "soak": lambda server: measure_soak(server, embedder, arguments.requests),
        "crash": measure_crash,
        "drain": measure_drain,
        "mixed": lambda server: measure_mixed(
            server, arguments.seconds, *arguments.document_tokens
        ),
    }
    results: dict[str, object] = {}
    for case in arguments.cases:
        workers = 2 if case in ("crash", "drain") else 1
        # Documents that saturate a server wait long, and are to be computed all the same.
        more = ["--request-timeout", "600"] if case == "mixed" else []
        with running_server(arguments.bundle, [*options, *more], workers) as server:
            if case in ("latency", "overload") and not capacity:
                capacity = measure_capacity(server, arguments.seconds)
            results[case] = runs[case](server)
        print(case, json.dumps(results[case]), flush=True)
    record = {
        "benchmark": "serving_load",
        "bundle": arguments.bundle.name,
        "engine": embedder.description,
        "capacity_texts_per_s": round(capacity, 1),
        "load_average": os.getloadavg()[0],
        "results": results,
        **machine_record(),
    }
    line = json.dumps(record)
    print(line)
    if arguments.out is not None:
        arguments.out.write_text(line + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
