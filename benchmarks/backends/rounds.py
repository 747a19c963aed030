"""Rounds: each backend in turn, again and again, so that a slow minute hits all of them."""

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

from backends.messages import Absent, Loaded, Measured, Order
from backends.process import BackendProcess

__all__ = ["Arena", "Outcome", "cosines", "percentile", "run_case", "same_nearest"]

#: Fewest rows for which nearest neighbours are compared.
FEWEST_FOR_RANKS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a backend made of a case: measurements, or why there are none.

    Attributes:
        backend: its name.
        loaded: how it loaded; None if it did not.
        rounds: what was measured.
        absent: why it took no part; None if it did.
        worst_cosine, mean_cosine: of its vectors to the float32 reference's; None where there are
            none.
        same_nearest: part of the items whose nearest other item is the reference's.
    """

    backend: str
    loaded: Loaded | None
    rounds: tuple[Measured, ...]
    absent: Absent | None
    worst_cosine: float | None = None
    mean_cosine: float | None = None
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
    """What is the same for all backends.

    Attributes:
        rounds: how often each is measured; None for as often as the case says.
        alone: whether no process is kept between its rounds.
        order: makes a backend's order.
        python: its interpreter.
        logs: folder for what they print.
        said: told what happens.
    """

    rounds: int | None
    order: Callable[[str], Order]
    python: Callable[[str], Path]
    logs: Path
    said: Callable[[str], None]
    alone: bool = False

    def rounds_of(self, case: Case) -> int:
        """Return how many rounds a case has."""
        return self.rounds or case.rounds

    def room_of(self, case: Case) -> int:
        """Return the bytes that must stay free for a process to be kept."""
        return 1 << 62 if self.alone else case.room

    def start(self, backend: str) -> BackendProcess:
        """Start a backend's process and wait until it is loaded."""
        log = self.logs / f"{backend}.log"
        return BackendProcess(self.order(backend), self.python(backend), log)


def units(case: Case) -> int:
    """Return how many of its unit one call of a case does."""
    counts: Mapping[str, int] = {
        "tokens": sum(case.lengths),
        "images": len(case.images),
        "items": len(case.lengths) + len(case.images),
        "documents": len(case.lengths) - 1,
        "starts": 1,
    }
    return counts[case.unit]


def run_case(
    arena: Arena, case: Case, backends: Sequence[str], reference: NDArray[np.float32] | None
) -> list[Outcome]:
    """Measure the backends on a case, in turn in each round, and compare their vectors.

    Args:
        arena: how.
        case: what.
        backends: who.
        reference: float32 [items, hidden], normalised; None compares nothing.
    """
    outcomes = []
    for name, (loaded, rounds, absent) in _play(arena, case, backends).items():
        path = arena.logs / f"{name}.npy"
        cosine = mean = nearest = None
        if reference is not None and path.exists() and absent is None:
            vectors = np.load(path)
            found = cosines(vectors, reference)
            cosine, mean = float(found.min()), float(found.mean())
            nearest = same_nearest(vectors, reference)
        outcomes.append(
            Outcome(
                backend=name,
                loaded=loaded,
                rounds=tuple(rounds),
                absent=absent,
                worst_cosine=cosine,
                mean_cosine=mean,
                same_nearest=nearest,
            )
        )
    return outcomes


#: How it loaded, what was measured, why it is absent.
Played = tuple[Loaded | None, list[Measured], Absent | None]


def _play(arena: Arena, case: Case, backends: Sequence[str]) -> dict[str, Played]:
    """Load all, then measure each in turn, round after round.

    Between its rounds a process is kept, stopped; where memory does not suffice it is ended, and
    started anew for each round. From a cold start everybody is.
    """
    found: dict[str, Played] = {}
    running: dict[str, BackendProcess] = {}
    with ExitStack() as stack:
        for number in range(arena.rounds_of(case)):
            for name in backends:
                if name in running:
                    running[name].resume()
                    _note(found, name, running[name].measure())
                    running[name].pause()
                elif name not in found or found[name][2] is None:
                    process = _first_measured(arena, case, found, name, number)
                    keeps = number == 0 and found[name][2] is None and case.kind != "cold"
                    if keeps and available_bytes() > arena.room_of(case):
                        process.pause()
                        running[name] = stack.enter_context(process)
                    else:
                        process.end()
    return found


def _first_measured(
    arena: Arena, case: Case, found: dict[str, Played], name: str, number: int
) -> BackendProcess:
    """Start a backend, measure its first round, and in the first round of all its vectors."""
    process = arena.start(name)
    if name not in found:
        found[name] = _opened(process.opened)
        arena.said(f"  {name}: {_said(process.opened)}")
    if isinstance(process.opened, Absent):
        found[name] = (*found[name][:2], process.opened)
        return process
    measured = process.measure()
    if case.kind == "cold" and isinstance(measured, Measured):
        measured = _since_start(process, measured)
    _note(found, name, measured)
    if number == 0 and isinstance(measured, Measured):
        process.save_vectors(arena.logs / f"{name}.npy")
        arena.said(f"  {name}: {statistics.median(measured.seconds):.3f} s")
    return process


def available_bytes() -> int:
    """Return the memory that can be taken without swapping; a great deal where nobody knows."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # no Linux
    return 1 << 60


def _since_start(process: BackendProcess, measured: Measured) -> Measured:
    seconds = time.perf_counter() - process.started
    return Measured(
        seconds=[seconds], wall_s=seconds, cpu_s=measured.cpu_s, peak_bytes=measured.peak_bytes
    )


def _opened(opened: Loaded | Absent) -> Played:
    return (None, [], opened) if isinstance(opened, Absent) else (opened, [], None)


def _note(found: dict[str, Played], name: str, measured: Measured | Absent) -> None:
    loaded, rounds, _ = found[name]
    if isinstance(measured, Absent):
        found[name] = (loaded, rounds, measured)
    else:
        rounds.append(measured)


def _said(opened: Loaded | Absent) -> str:
    if isinstance(opened, Absent):
        return f"{opened.reason}: {opened.message}"
    return f"loaded in {opened.load_s:.2f} s"


def cosines(vectors: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosines of the rows of two float32 [N, D], float64 [N]; NaN if shapes differ."""
    if vectors.shape != reference.shape:
        return np.array([math.nan])
    products = (vectors.astype(np.float64) * reference).sum(axis=1)
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference, axis=1)
    quotients: NDArray[np.float64] = products / lengths
    return quotients


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
