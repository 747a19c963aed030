"""Markdown tables of a run: one a case, fastest first, each speed with its quality beside it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from report.record import Record, Row

__all__ = ["MIN_COSINE", "Standing", "case_lines", "cosine", "number", "standings"]

#: A backend counts as one to be beaten where its worst cosine to float32 is at least this.
MIN_COSINE = 0.99
#: Its requests come at a rate of each backend's own, so rates say nothing of one another.
OPEN_LOOP = "open-loop"
HEADING = (
    *("backend", "rate", "median ms", "p95 ms", "p99 ms", "calls", "CPU ms", "peak MB"),
    *("load s", "files MB", "worst cosine", "mean", "same nearest", "against the best competitor"),
)


@dataclass(frozen=True, slots=True)
class Standing:
    """One row of a case with its place.

    Attributes:
        row: the row.
        counts: whether its vectors are near enough to float32, or it has none to compare.
        own: whether it is Trine.
        ratio: its rate over the best counting competitor's; None without one.
    """

    row: Row
    counts: bool
    own: bool
    ratio: float | None


def standings(record: Record) -> dict[str, list[Standing]]:
    """Return each case's rows by name, fastest first, those that took no part last."""
    by_case: defaultdict[str, list[Row]] = defaultdict(list)
    for row in record.rows:
        by_case[row.case].append(row)
    found = {}
    for case, rows in by_case.items():
        competitors = [r.rate for r in rows if not _own(r) and _counts(r) and r.rate is not None]
        if case == OPEN_LOOP:
            competitors = []
        best = max(competitors, default=None)
        rows.sort(key=lambda row: -(row.rate or 0))
        found[case] = [
            Standing(row, _counts(row), _own(row), row.rate / best if row.rate and best else None)
            for row in rows
        ]
    return found


def case_lines(record: Record) -> Iterator[str]:
    """Yield a Markdown table a case, and the versions."""
    for rows in standings(record).values():
        yield from ("", f"### {rows[0].row.title}", "", *_table(rows))
    yield from ("", "Versions: " + "; ".join(_versions(record.rows)) + ".")


def _table(rows: Sequence[Standing]) -> Iterator[str]:
    yield "| " + " | ".join(HEADING) + " |"
    yield "|" + " --- |" + " ---: |" * (len(HEADING) - 1)
    for standing in rows:
        yield "| " + " | ".join(_cells(standing)) + " |"


def _cells(standing: Standing) -> tuple[str, ...]:
    row = standing.row
    name = f"**{row.backend}**" if standing.own else row.backend
    if row.absent is not None:
        return (name, row.absent.replace("|", "/"), *[""] * (len(HEADING) - 2))
    ratio = "" if standing.ratio is None else f"{standing.ratio:.2f} ×"
    worst, mean = cosine(row.worst_cosine), cosine(row.mean_cosine)
    return (
        name,
        "" if row.rate is None else f"{number(row.rate)} {row.unit}/s",
        *(number(n) for n in (row.median_ms, row.p95_ms, row.p99_ms)),
        str(row.calls),
        *(number(n) for n in (row.cpu_ms, row.peak_mb, row.load_s, row.file_mb)),
        worst if standing.counts else f"{worst} (does not count)",
        mean,
        "" if row.same_nearest is None else f"{100 * row.same_nearest:.0f} %",
        ratio,
    )


def cosine(value: float | None) -> str:
    """Return a cosine to five digits; nothing for none."""
    return "" if value is None else f"{value:.5f}"


def number(value: float | None) -> str:
    """Return a number to three digits, with separators from thousands up."""
    if value is None:
        return ""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _own(row: Row) -> bool:
    return row.backend.startswith("trine")


def _counts(row: Row) -> bool:
    return row.worst_cosine is None or row.worst_cosine >= MIN_COSINE


def _versions(rows: Sequence[Row]) -> list[str]:
    found = {f"{name} {version}" for row in rows for name, version in row.versions.items()}
    return sorted(found)
