"""The Markdown of a run: what was reached, how it was measured, then every case."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from report.goals import Verdict, verdicts
from report.record import Record
from report.tables import MIN_COSINE, case_lines, cosine, number

__all__ = ["goal_lines", "markdown", "replace_block"]

GIGA = 1e9
#: Around what a command writes into a page that people write otherwise.
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
HEADING = ("case", "against", "reached", "must", "", "Trine", "the other", "cosines", "")


def markdown(record: Record) -> str:
    """Return the whole run as Markdown."""
    return "\n".join([*about_lines(record), "", *goal_lines(record), *case_lines(record)]) + "\n"


def about_lines(record: Record) -> Iterator[str]:
    """Yield on what, from what and how it was measured."""
    machine, settings = record.machine, record.settings
    yield f"CPU: {machine['cpu']}, {machine['threads']} threads. Commit {machine['commit']}."
    yield ""
    yield (
        f"Checkpoint {settings['checkpoint']}, task {settings['task']}, interleaved rounds, each "
        "backend in its own process. Rates are medians; CPU ms is processor time of all "
        "threads, the nearest to energy where the processor shows no counter; peak MB is resident "
        "memory while running, mapped files included, loading left out; cosines are of the case's "
        "vectors to float32 PyTorch. A competitor counts where its worst cosine is at least "
        f"{MIN_COSINE}."
    )
    if record.peaks:
        yield ""
        yield "Peaks: " + "; ".join(_peaks(record)) + "."


def _peaks(record: Record) -> Iterator[str]:
    for name, found in record.peaks.items():
        shape = found.get("shape")
        at = "" if shape is None else " at " + "×".join(map(str, shape))
        kinds = ", ".join(
            f"{kind} {number(found[kind] / GIGA)} {unit}"
            for kind, unit in (("int8", "GOP/s"), ("float32", "GFLOP/s"), ("read", "GB/s"))
            if kind in found
        )
        yield f"{name} {kinds}{at}"


def goal_lines(record: Record) -> Iterator[str]:
    """Yield the table of what was to be reached."""
    yield "| " + " | ".join(HEADING) + " |"
    yield "|" + " --- |" * len(HEADING)
    for verdict in verdicts(record):
        yield "| " + " | ".join(_goal_cells(verdict)) + " |"


def _goal_cells(verdict: Verdict) -> Sequence[str]:
    own, other = verdict.own, verdict.other
    against = verdict.goal.against
    if other is not None and other.backend != against:
        against = f"{against}: {other.backend}"
    both = [cosine(row.worst_cosine) for row in (own, other) if row is not None]
    return (
        verdict.title,
        against,
        f"**{verdict.reached}**",
        verdict.wanted,
        {True: "met", False: "missed", None: ""}[verdict.met],
        *("" if r is None else f"{number(r.rate)} {r.unit}/s ({r.calls})" for r in (own, other)),
        " / ".join(filter(None, both)),
        verdict.note,
    )


def replace_block(page: Path, lines: Sequence[str]) -> None:
    """Put lines between the marks of a page.

    Raises:
        ValueError: the page has no marks.
    """
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(
            f"{page} has no lines {BEGIN!r} and {END!r}; put them where the table goes"
        )
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    page.write_text("\n".join([before + BEGIN, *lines, END]) + after, encoding="utf-8")
