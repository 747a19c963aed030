"""Describes what a verification of a bundle found, as data and as text."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trine.runtime.bundle.golden import Modality
from trine.runtime.bundle.manifest import Tolerance
from trine.runtime.commands.info.bundle_summary import table_lines
from trine.runtime.commands.progress import format_bytes

__all__ = ["Check", "EngineVerification", "VerifyReport", "report_lines"]

TITLES = {
    "golden": "against the bundle's golden vectors",
    "torch": "against PyTorch in float32, on the checkpoint",
}
HEADING = (
    "task",
    "input",
    "head",
    "vectors",
    "mean cosine",
    "1st percentile",
    "worst cosine",
    "largest difference",
    "allowed",
    "",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """How far an engine's vectors of one task, modality and head are from a reference.

    Attributes:
        against: the bundle's golden vectors, or PyTorch in float32.
        task, modality, head: of the vectors.
        num_vectors: compared. The rows of a multi-vector count each with PyTorch, together with
            golden vectors.
        mean_cosine, p1_cosine: mean and first percentile of the cosines; None for golden vectors,
            of which only the worst is kept.
        min_cosine: the worst.
        max_difference: largest difference of one number.
        tolerance: what is allowed.
    """

    against: Literal["golden", "torch"]
    task: str
    modality: Modality
    head: Literal["single", "multi"]
    num_vectors: int
    mean_cosine: float | None
    p1_cosine: float | None
    min_cosine: float
    max_difference: float
    tolerance: Tolerance

    @property
    def passed(self) -> bool:
        """Whether both are within tolerance; what is not a number is not."""
        return (
            self.min_cosine >= self.tolerance.min_cosine
            and self.max_difference <= self.tolerance.max_difference
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineVerification:
    """The checks of one engine.

    Attributes:
        name: of the engine.
        checks: made.
        unchecked: tasks there is nothing to compare with: adapters added after the export.
    """

    name: str
    checks: tuple[Check, ...]
    unchecked: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What a verification found.

    Attributes:
        bundle: the folder.
        num_files, num_bytes: of the files that the manifest lists.
        problems: files that are not as they were written, a sentence each. If there are any, no
            engine was run, for what it returned would say nothing.
        engines: that were run.
        not_run: (engine, why it cannot run on this machine) of those that were not.
    """

    bundle: Path
    num_files: int
    num_bytes: int
    problems: tuple[str, ...]
    engines: tuple[EngineVerification, ...]
    not_run: tuple[tuple[str, str], ...] = ()

    @property
    def passed(self) -> bool:
        """Whether all files are as written and all checks passed."""
        return not self.problems and all(c.passed for e in self.engines for c in e.checks)


def report_lines(report: VerifyReport) -> Iterator[str]:
    """Yield the lines that `trine verify` prints."""
    yield str(report.bundle)
    if report.problems:
        yield f"files: {len(report.problems)} of {report.num_files} are not as written"
        yield from (f"  {problem}" for problem in report.problems)
        yield "engines: not run; copy the bundle again or export it again"
    else:
        yield f"files: {report.num_files}, {format_bytes(report.num_bytes)}, all as written"
    for engine in report.engines:
        for against, title in TITLES.items():
            checks = [check for check in engine.checks if check.against == against]
            if checks:
                yield f"engine {engine.name} {title}:"
                yield from table_lines([HEADING, *map(_cells, checks)])
        for task in engine.unchecked:
            yield f"engine {engine.name}: task {task} was added after the export and not checked"
    for name, why in report.not_run:
        yield f"engine {name}: not run here: {why}"
    num_failed = sum(not check.passed for engine in report.engines for check in engine.checks)
    if report.passed:
        yield "passed"
    elif num_failed:
        yield f"FAILED: {num_failed} checks are outside their tolerance"
    else:
        yield "FAILED"


def _cells(check: Check) -> tuple[str, ...]:
    allowed = f"{check.tolerance.min_cosine:g}, {check.tolerance.max_difference:.0e}"
    return (
        check.task,
        check.modality,
        check.head,
        str(check.num_vectors),
        _cosine(check.mean_cosine),
        _cosine(check.p1_cosine),
        _cosine(check.min_cosine),
        f"{check.max_difference:.1e}",
        allowed,
        "ok" if check.passed else "FAILED",
    )


def _cosine(value: float | None) -> str:
    return "-" if value is None else f"{value:.8f}"
