"""Embeds a stream of very many short texts and says how much memory it takes.

    trine sample-checkpoint CHECKPOINT --hidden-size 32 --num-heads 2 --num-kv-heads 1 \\
        --num-layers 1 --intermediate-size 64
    trine export CHECKPOINT BUNDLE --precision int8
    python benchmarks/stream.py BUNDLE [--engine NAME] [--items 1000000] [--out FILE]
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from machine import machine_record

from trine.runtime.embedder import Embedder
from trine.runtime.hardware.memory import resident_bytes

#: Times that memory is looked at.
LOOKS = 20


@dataclass(frozen=True, slots=True)
class Look:
    """How far a stream was after some seconds, and the process's resident bytes."""

    items: int
    seconds: float
    resident: int


def texts(count: int) -> Iterator[str]:
    """Yield texts that are never all there."""
    for number in range(count):
        yield f"item {number} of many"


def measure(embedder: Embedder, count: int) -> list[Look]:
    """Return what was seen while a stream of `count` texts went by."""
    looks, started, every = list[Look](), time.perf_counter(), max(count // LOOKS, 1)
    for number, _ in enumerate(embedder.encode_stream(texts(count), "retrieval"), 1):
        if number % every == 0:
            looks.append(Look(number, round(time.perf_counter() - started, 1), resident_bytes()))
            print(looks[-1], file=sys.stderr)
    return looks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    embedder = Embedder.load(arguments.bundle, engine=arguments.engine)
    looks = measure(embedder, arguments.items)
    growth = looks[-1].resident / looks[0].resident - 1
    print(
        f"{looks[-1].items:,} items in {looks[-1].seconds} s; {looks[-1].resident / 1e6:.0f} MB "
        f"resident, {growth:+.1%} since the first {looks[0].items:,}"
    )
    if arguments.out:
        record = machine_record() | {"looks": [asdict(look) for look in looks]}
        arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
