"""Holds a run's results against Trine's goals."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from report.record import Record, Row
from report.tables import Standing, number, standings

__all__ = ["GOALS", "Goal", "Verdict", "verdicts"]

GB = 1e9
#: Trine's engine that a goal is of.
Side = Literal["int8", "fp32"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One line: how many times as fast as whom.

    Attributes:
        case: that it is of.
        against: a competitor's name; "best competitor" of those that count; "best fp32 competitor";
            "peak" for the share of the machine's 8-bit peak; "memory" for gigabytes, fewer being
            better.
        must: to be reached.
        aim: hoped for; None for nothing beyond.
        side: which of Trine's engines; the fastest of that precision whose vectors count.
        memory_share: at most so much of that competitor's peak memory; None for any.
    """

    case: str
    against: str
    must: float
    aim: float | None
    side: Side = "int8"
    memory_share: float | None = None


GOALS = (
    Goal(case="lognormal", against="transformers-bf16", must=5.5, aim=8),
    Goal(case="lognormal", against="onnx-int8-sorted", must=1.2, aim=1.5),
    Goal(case="ragged", against="best competitor", must=1.4, aim=1.7),
    Goal(case="passages", against="transformers-bf16", must=1.8, aim=2.3),
    Goal(case="passages", against="best competitor", must=1.0, aim=1.2),
    Goal(case="query", against="best competitor", must=1.0, aim=1.2),
    Goal(case="long", against="best competitor", must=1.7, aim=2, memory_share=0.25),
    Goal(case="longest", against="memory", must=6, aim=None),
    Goal(case="page", against="transformers-bf16", must=1.7, aim=2.2),
    Goal(case="preprocess", against="processor-torchvision", must=1.5, aim=3),
    Goal(case="ragged", against="best fp32 competitor", must=1.3, aim=1.5, side="fp32"),
    Goal(case="ragged", against="peak", must=0.7, aim=0.8),
    Goal(case="passages", against="peak", must=0.7, aim=0.8),
    Goal(case="maxsim", against="numpy", must=2, aim=None),
    Goal(case="cold", against="transformers-bf16", must=5, aim=10),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A goal and what was measured.

    Attributes:
        goal: the goal.
        title: of its case.
        own: Trine's row; None if none was measured.
        other: the row it is held against; None where there is none.
        value: in the goal's terms; None if it could not be measured.
        note: what else a reader should know.
    """

    goal: Goal
    title: str
    own: Row | None
    other: Row | None
    value: float | None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether what must be reached is; None if not measured."""
        if self.value is None:
            return None
        if self.goal.against == "memory":
            return self.value <= self.goal.must
        share = self.goal.memory_share
        if share is not None and (self.memory or 1.0) > share:
            return False
        return self.value >= self.goal.must

    @property
    def memory(self) -> float | None:
        """Trine's peak memory over the other's."""
        if self.own is None or self.other is None:
            return None
        if self.own.peak_mb is None or self.other.peak_mb is None:
            return None
        return self.own.peak_mb / self.other.peak_mb

    @property
    def reached(self) -> str:
        """What was measured, for people."""
        if self.value is None:
            return "not measured"
        if self.goal.against == "memory":
            return f"{self.value:.2f} GB"
        if self.goal.against == "peak":
            return f"{100 * self.value:.1f} %"
        return f"{self.value:.2f} ×"

    @property
    def wanted(self) -> str:
        """What must be reached, for people."""
        goal = self.goal
        if goal.against == "memory":
            return f"≤ {goal.must:g} GB"
        unit, scale = ("%", 100) if goal.against == "peak" else ("×", 1)
        aim = "" if goal.aim is None else f", aim {scale * goal.aim:g} {unit}"
        memory = "" if goal.memory_share is None else f", memory ≤ {goal.memory_share:g}"
        return f"≥ {scale * goal.must:g} {unit}{aim}{memory}"


def verdicts(record: Record) -> list[Verdict]:
    """Return what a run says of each goal."""
    by_case = standings(record)
    return [_verdict(goal, by_case.get(goal.case, []), record) for goal in GOALS]


def _verdict(goal: Goal, rows: Sequence[Standing], record: Record) -> Verdict:
    title = rows[0].row.title if rows else goal.case
    measured = [s for s in rows if s.row.rate is not None]
    own = next((s.row for s in measured if s.own and s.counts and _of_side(s.row, goal.side)), None)
    other = next(_opponents(goal, measured), None)
    value, note = None, ""
    if own is None or own.rate is None:
        pass
    elif goal.against == "memory":
        value = None if own.peak_mb is None else own.peak_mb / 1000
        note = f"{own.median_ms / 1000:.1f} s" if own.median_ms is not None else ""
    elif goal.against == "peak":
        value, note = _peak_share(own, record)
    elif other is not None and other.rate is not None:
        value = own.rate / other.rate
        if goal.memory_share is not None and own.peak_mb and other.peak_mb:
            note = f"memory {own.peak_mb / other.peak_mb:.2f} of its"
    return Verdict(goal=goal, title=title, own=own, other=other, value=value, note=note)


def _of_side(row: Row, side: Side) -> bool:
    """Return whether a row is of the engine a goal is of; thin parts have no precision."""
    return row.precision in (None, side)


def _opponents(goal: Goal, measured: Sequence[Standing]) -> Iterator[Row]:
    """Yield the competitors a goal may be held against, fastest first; a named one as it is."""
    for standing in measured:
        name = standing.row.backend
        if standing.own:
            continue
        best = goal.against == "best competitor" or (
            goal.against == "best fp32 competitor" and "fp32" in name
        )
        if name == goal.against or (best and standing.counts):
            yield standing.row


def _peak_share(own: Row, record: Record) -> tuple[float | None, str]:
    """Return the share of the arithmetic peak, and that of the best product in a note."""
    operations = record.operations.get(own.case)
    # The highest rate that anything reached: bare instructions may fall short of it too.
    roof = _int8(record.peaks, ("register", "onnxruntime", "onednn"))
    if operations is None or own.median_ms is None or roof is None:
        return None, ""
    rate = operations / (own.median_ms / 1000)
    product = _int8(record.peaks, ("onnxruntime", "onednn"))
    note = f"{rate / GB:,.0f} of {roof / GB:,.0f} G operations/s"
    if product is not None:
        note += f"; {100 * rate / product:.1f} % of the best product's {number(product / GB)}"
    return rate / roof, note


def _int8(peaks: Mapping[str, Mapping[str, float]], meters: Sequence[str]) -> float | None:
    return max((peaks[name]["int8"] for name in meters if name in peaks), default=None)
