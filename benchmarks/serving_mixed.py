"""Short queries at a low rate beside documents that saturate the server."""

import asyncio
import json
import random
import time
from dataclasses import dataclass, field

import uvloop
from serving_client import Answer, Connection, ServerProcess, request_bytes
from serving_loops import arrivals, open_loop, percentile, query_request

__all__ = ["measure_mixed"]

#: Connections that ask for one document after the other.
CONNECTIONS = 8
#: Queries a second.
RATE = 2.0
#: Documents computed before the clock starts: the server learns what a run costs from a few of
#: each size.
WARM_UP = 12
#: Token ids of documents are below this: in every vocabulary the single bytes.
IDS = 256
#: Seconds until a document that was refused is sent again.
AGAIN_S = 0.5
#: Seconds within which the documents of one run are answered.
TOGETHER_S = 0.1


@dataclass(slots=True)
class Documents:
    """What the documents came to.

    Attributes:
        answered: with 200.
        refused: with anything else.
        ends: when each was answered, on `time.perf_counter()`'s clock, and its tokens.
    """

    answered: int = 0
    refused: int = 0
    ends: list[tuple[float, int]] = field(default_factory=list)

    def tokens_per_s(self) -> float:
        """Return the tokens a second from one run's end to another's.

        Documents of a run are answered together: those of the first only start the clock.
        """
        first, last = self.ends[0][0], self.ends[-1][0]
        later = sum(tokens for end, tokens in self.ends if end > first + TOGETHER_S)
        return later / (last - first) if later else float("nan")

    def add(self, answer: Answer) -> None:
        """Count an answer."""
        if answer.status == 200:
            self.answered += 1
            tokens = json.loads(answer.body)["usage"]["total_tokens"]
            self.ends.append((time.perf_counter(), tokens))
        else:
            self.refused += 1


def document_request(source: random.Random, least: int, most: int) -> bytes:
    """Return a request for one document, as token ids."""
    ids = source.choices(range(IDS), k=source.randint(least, most))
    return request_bytes({"input": ids, "encoding_format": "base64"})


def measure_mixed(
    server: ServerProcess, seconds: float, least: int, most: int
) -> dict[str, object]:
    """Measure queries' times and documents' throughput.

    Args:
        server: running.
        seconds: for which both are asked.
        least, most: tokens of a document.
    """

    async def run() -> dict[str, object]:
        source, documents, warm = random.Random(1), Documents(), Documents()
        ended = asyncio.Event()
        ready = asyncio.Event()

        async def ask_documents() -> None:
            connection = Connection(server.port)
            while not ended.is_set():
                answer = await connection.ask(document_request(source, least, most))
                (documents if ready.is_set() else warm).add(answer)
                if answer.status != 200:
                    await asyncio.sleep(AGAIN_S)
                if warm.answered >= WARM_UP:
                    ready.set()
            connection.close()

        async def ask_queries_first() -> None:
            connection = Connection(server.port)
            number = 0
            while not ready.is_set():
                await connection.ask(query_request(number))
                number += 1
                await asyncio.sleep(1 / RATE)
            connection.close()

        asking = [asyncio.ensure_future(ask_documents()) for _ in range(CONNECTIONS)]
        await ask_queries_first()
        answers = await open_loop(server.port, arrivals(seconds, RATE, even=False))
        rate = documents.tokens_per_s()
        ended.set()
        await asyncio.gather(*asking)
        times = [a.seconds for a in answers if a is not None and a.status == 200]
        return {
            "document_tokens": [least, most],
            "queries": len(answers),
            "queries_not_200": len(answers) - len(times),
            "query_p50_ms": percentile(times, 50),
            "query_p99_ms": percentile(times, 99),
            "documents_tokens_per_s": round(rate, 1),
            "documents_not_200": documents.refused,
        }

    return uvloop.run(run())
