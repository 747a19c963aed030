"""A long run of mixed requests, every vector checked against direct encoding."""

import asyncio
import base64
import io
import json
import random
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import uvloop
from numpy.typing import NDArray
from PIL import Image
from serving_client import Answer, Connection, ServerProcess, request_bytes

from trine import Embedder, ImageText

__all__ = ["measure_soak"]

#: Words of the texts.
WORDS = "how does the engine work in winter and what breaks first".split()  # noqa: SIM905
#: Seconds after which a request counts as stuck.
STUCK_S = 120.0
#: Largest difference to direct encoding: another batch, another order of summation.
TOLERANCE = 1e-4
#: Share of the requests after which memory is first looked at: what batches need at most comes by
#: chance, and has come by then.
WARM_UP = 0.25


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
                image = make_image(source)
                items.append(ImageText((image,)))
                inputs.append({"image": base64.b64encode(image).decode()})
            else:
                length = source.choice([3, 8, 30, 200])
                items.append(" ".join(source.choices(WORDS, k=length)))
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


def make_image(source: random.Random) -> bytes:
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
    """Soak a server; growth is that of memory after `WARM_UP` of the requests to the end's."""
    count = uvloop.run(soak(server, make_probes(embedder, 300), requests))
    memory = count.memory
    warm = statistics.median(memory[int(len(memory) * WARM_UP) :][:5])
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
