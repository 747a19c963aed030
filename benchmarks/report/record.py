"""A run's JSON: rows of numbers, and nothing in tables and plots that is not in them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.rounds import Outcome, percentile
from cases.case import Case

__all__ = ["Record", "Row", "read_record", "rows_of", "write_record"]

MB = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One backend on one case; what it has not is None.

    Attributes:
        case, title: the case's name and its text for people.
        backend: its name.
        absent: "missing", "unsupported" or "failed", with the message; None if it took part.
        unit: what the rate counts.
        rate: units a second, by the median of the rounds' medians.
        median_ms, p50_ms, p95_ms, p99_ms: of a call, or of a request under load.
        cpu_ms: processor time of a call, all threads: what it costs in energy, nearly.
        joules: of a call, by the processors' own counters where they can be read.
        peak_mb: most resident memory while it ran, mapped files included.
        load_s, load_peak_mb: to load, and the most memory until then.
        file_mb: size of the files read.
        worst_cosine, mean_cosine: to the float32 reference at this shape.
        same_nearest: part of the items whose nearest other item is the reference's.
        precision: of one of Trine's engines.
        rounds: seconds of each call of each round.
        versions: of its packages.
    """

    case: str
    title: str
    backend: str
    absent: str | None = None
    unit: str
    rate: float | None = None
    median_ms: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    cpu_ms: float | None = None
    joules: float | None = None
    peak_mb: float | None = None
    load_s: float | None = None
    load_peak_mb: float | None = None
    file_mb: float | None = None
    worst_cosine: float | None = None
    mean_cosine: float | None = None
    same_nearest: float | None = None
    precision: str | None = None
    rounds: list[list[float]] = dataclasses.field(default_factory=list)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def calls(self) -> int:
        """How many calls were timed."""
        return sum(len(seconds) for seconds in self.rounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A run.

    Attributes:
        machine: as `machine.machine_record` has it.
        settings: of the run: checkpoint, bundle, task, threads, rounds, small.
        rows: results.
        peaks: what the machine reaches at best, as `peaks.meters.measure_peaks` returns it.
        operations: of the linear layers by case, two a weight and token.
    """

    machine: dict[str, Any]
    settings: dict[str, Any]
    rows: Sequence[Row]
    peaks: dict[str, Any] = dataclasses.field(default_factory=dict)
    operations: dict[str, int] = dataclasses.field(default_factory=dict)


def rows_of(case: Case, outcomes: Sequence[Outcome], precisions: Mapping[str, str]) -> list[Row]:
    """Return a row for each backend of a case.

    Args:
        case: the case.
        outcomes: what came of it.
        precisions: of Trine's engines by backend.
    """
    return [_row(case, outcome, precisions.get(outcome.backend)) for outcome in outcomes]


def _row(case: Case, outcome: Outcome, precision: str | None) -> Row:
    loaded, absent = outcome.loaded, outcome.absent
    row = Row(
        case=case.name,
        title=case.title,
        backend=outcome.backend,
        unit=case.unit,
        precision=precision,
        absent=None if absent is None else f"{absent.reason}: {absent.message}",
    )
    if loaded is not None:
        row = dataclasses.replace(
            row,
            load_s=loaded.load_s,
            load_peak_mb=loaded.load_peak_bytes / MB,
            file_mb=loaded.file_bytes / MB,
            versions=loaded.versions,
        )
    if absent is not None or not outcome.rounds:
        return row
    latencies = outcome.latencies
    joules = [r.joules for r in outcome.rounds if r.joules is not None]
    return dataclasses.replace(
        row,
        rate=outcome.rate(case),
        median_ms=outcome.median_s() * 1000,
        p50_ms=percentile(latencies, 0.5) * 1000,
        p95_ms=percentile(latencies, 0.95) * 1000,
        p99_ms=percentile(latencies, 0.99) * 1000,
        cpu_ms=sum(r.cpu_s for r in outcome.rounds) / len(latencies) * 1000,
        joules=sum(joules) / len(latencies) if joules else None,
        peak_mb=max(r.peak_bytes for r in outcome.rounds) / MB,
        worst_cosine=outcome.worst_cosine,
        mean_cosine=outcome.mean_cosine,
        same_nearest=outcome.same_nearest,
        rounds=[measured.seconds for measured in outcome.rounds],
    )


def write_record(path: Path, record: Record) -> None:
    """Write a run as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = dataclasses.asdict(record)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_record(path: Path) -> Record:
    """Return the run that `write_record` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = [Row(**row) for row in content.pop("rows")]
    return Record(rows=rows, **content)
