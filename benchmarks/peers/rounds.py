"""Rounds: each contestant in turn, again and again, so that a slow minute hits all of them."""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cases.case import Case
from numpy.typing import NDArray

from peers.messages import Absent, Loaded, Measured, Order
from peers.process import ContestantProcess

__all__ = ["Arena", "Outcome", "percentile", "run_case", "worst_cosine"]

#: Fewest rows for which nearest neighbours are compared.
FEWEST_FOR_RANKS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a contestant made of a case: measurements, or why there are none.

    Attributes:
        contestant: its name.
        loaded: how it loaded; None if it did not.
        rounds: what was measured.
        absent: why it took no part; None if it did.
        worst_cosine: of its vectors to the float32 reference's; None where there are none.
        same_nearest: part of the items whose nearest other item is the reference's.
    """

    contestant: str
    loaded: Loaded | None
    rounds: tuple[Measured, ...]
    absent: Absent | None
    worst_cosine: float | None = None
    same_nearest: float | None = None

    @property
    def latencies(self) -> list[float]:
        """Seconds of every call."""
        return list(itertools.chain.from_iterable(r.seconds for r in self.rounds))

    def median_s(self) -> float:
        """Return the median, in seconds, of the rounds' medians."""
        return statistics.median(statistics.median(r.seconds) for r in self.rounds)

    def rate(self, case: Case) -> float:
        """Return tokens, images, items, documents or starts a second, by the median."""
        if case.kind == "load":
            return len(case.lengths) / statistics.median(r.wall_s for r in self.rounds)
        return units(case) / self.median_s()


@dataclass(frozen=True, slots=True)
class Arena:
    """What is the same for all contestants.

    Attributes:
        rounds: how often each is measured.
        order: makes a contestant's order.
        python: its interpreter.
        logs: folder for what they print.
        said: told what happens.
    """

    rounds: int
    order: Callable[[str], Order]
    python: Callable[[str], Path]
    logs: Path
    said: Callable[[str], None]

    def start(self, contestant: str) -> ContestantProcess:
        """Start a contestant's process and wait until it is loaded."""
        log = self.logs / f"{contestant}.log"
        return ContestantProcess(self.order(contestant), self.python(contestant), log)


def units(case: Case) -> int:
    """Return how many of its unit one call of a case does."""
    counts: Mapping[str, int] = {
        "tokens": sum(case.lengths),
        "images": len(case.pictures),
        "items": len(case.lengths) + len(case.pictures),
        "documents": len(case.lengths) - 1,
        "starts": 1,
    }
    return counts[case.unit]


def run_case(
    arena: Arena, case: Case, contestants: Sequence[str], reference: NDArray[np.float32] | None
) -> list[Outcome]:
    """Measure the contestants on a case, in turn in each round, and compare their vectors.

    Args:
        arena: how.
        case: what.
        contestants: who.
        reference: float32 [items, hidden], normalised; None compares nothing.
    """
    play = _alone if case.alone else _together
    outcomes = []
    for name, (loaded, rounds, absent) in play(arena, case, contestants).items():
        path = arena.logs / f"{name}.npy"
        cosine = nearest = None
        if reference is not None and path.exists() and absent is None:
            vectors = np.load(path)
            cosine = worst_cosine(vectors, reference)
            nearest = same_nearest(vectors, reference)
        outcomes.append(
            Outcome(
                contestant=name,
                loaded=loaded,
                rounds=tuple(rounds),
                absent=absent,
                worst_cosine=cosine,
                same_nearest=nearest,
            )
        )
    return outcomes


#: How it loaded, what was measured, why it is absent.
Played = tuple[Loaded | None, list[Measured], Absent | None]


def _together(arena: Arena, case: Case, contestants: Sequence[str]) -> dict[str, Played]:
    """All processes at once, all but one of them stopped."""
    found: dict[str, Played] = {}
    with ExitStack() as stack:
        running: dict[str, ContestantProcess] = {}
        for name in contestants:
            process = stack.enter_context(arena.start(name))
            found[name] = _opened(process.opened)
            arena.said(f"  {name}: {_said(process.opened)}")
            if isinstance(process.opened, Loaded):
                _note(found, name, process.measure(), keep=False)
                process.save_vectors(arena.logs / f"{name}.npy")
                process.pause()
                running[name] = process
        for _ in range(arena.rounds):
            for name, process in running.items():
                if found[name][2] is None:
                    process.resume()
                    _note(found, name, process.measure(), keep=True)
                    process.pause()
    return found


def _alone(arena: Arena, case: Case, contestants: Sequence[str]) -> dict[str, Played]:
    """One process at a time, a new one in each round."""
    found: dict[str, Played] = {}
    for number in range(arena.rounds):
        for name in contestants:
            if name in found and found[name][2] is not None:
                continue
            with arena.start(name) as process:
                if number == 0:
                    found[name] = _opened(process.opened)
                    arena.said(f"  {name}: {_said(process.opened)}")
                if isinstance(process.opened, Absent):
                    found[name] = (*found[name][:2], process.opened)
                    continue
                measured = process.measure()
                if case.kind == "cold" and isinstance(measured, Measured):
                    measured = _since_start(process, measured)
                _note(found, name, measured, keep=True)
                if number == 0 and isinstance(measured, Measured):
                    process.save_vectors(arena.logs / f"{name}.npy")
    return found


def _since_start(process: ContestantProcess, measured: Measured) -> Measured:
    seconds = time.perf_counter() - process.started
    return Measured(
        seconds=[seconds], wall_s=seconds, cpu_s=measured.cpu_s, peak_bytes=measured.peak_bytes
    )


def _opened(opened: Loaded | Absent) -> Played:
    return (None, [], opened) if isinstance(opened, Absent) else (opened, [], None)


def _note(found: dict[str, Played], name: str, measured: Measured | Absent, keep: bool) -> None:
    loaded, rounds, _ = found[name]
    if isinstance(measured, Absent):
        found[name] = (loaded, rounds, measured)
    elif keep:
        rounds.append(measured)


def _said(opened: Loaded | Absent) -> str:
    if isinstance(opened, Absent):
        return f"{opened.reason}: {opened.message}"
    return f"loaded in {opened.load_s:.2f} s"


def worst_cosine(vectors: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Return the least cosine of the rows of two float32 [N, D]."""
    if vectors.shape != reference.shape:
        return math.nan
    products = (vectors.astype(np.float64) * reference).sum(axis=1)
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference, axis=1)
    return float((products / lengths).min())


def same_nearest(vectors: NDArray[np.float32], reference: NDArray[np.float32]) -> float | None:
    """Return the part of rows whose nearest other row is the same; None for fewer than 4 rows."""
    if len(vectors) < FEWEST_FOR_RANKS or vectors.shape != reference.shape:
        return None
    nearest = []
    for rows in (vectors, reference):
        scores = rows @ rows.T
        np.fill_diagonal(scores, -np.inf)
        nearest.append(scores.argmax(axis=1))
    return float((nearest[0] == nearest[1]).mean())


def percentile(seconds: Sequence[float], part: float) -> float:
    """Return the value below which `part` of the values lie, by linear interpolation."""
    return float(np.quantile(np.array(seconds), part))
