"""Finds the fastest engine, threads and budget for a bundle on this machine in the time given."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from trine.kernels.cpu.library import why_unavailable
from trine.runtime.bundle.bundle import Bundle
from trine.runtime.bundle.manifest import EngineEntry
from trine.runtime.commands.bench.measure import OpenedEngine, open_for_bench, workload_seconds
from trine.runtime.commands.bench.workloads import WORKLOADS, Workload
from trine.runtime.engines.native.entries import native_entry
from trine.runtime.engines.select import best_way, cpu_engine, engine_named, read_host
from trine.runtime.inference.batch_planner import BatchLimits
from trine.runtime.inference.runner import Runner

__all__ = ["Measured", "Setting", "Tuning", "pick_fastest", "tune"]

#: Budgets that are tried, in tokens.
BUDGETS = (512, 1024, 2048, 4096)
#: Texts that fill the largest budget; small ones among them, as in use.
PASSAGES = Workload(name="budget", title="12 texts of 64 to 512 tokens", lengths=(512, 64, 256) * 4)
QUERY, RAGGED = WORKLOADS[0], WORKLOADS[1]
#: Rates this near are equal; then the quicker answer to one query decides.
TIE = 0.03
FEWEST_CALLS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One way to run the bundle: an engine's name, threads of a run, tokens of a run."""

    engine: str
    threads: int
    batch_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A setting with its figures.

    Attributes:
        setting: what ran.
        tokens_per_s: median over the calls of one workload.
        query_ms: median latency of one query; None where it was not measured.
    """

    setting: Setting
    tokens_per_s: float
    query_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What a search came to.

    Attributes:
        engines: each engine and number of threads, on ragged texts and on one query.
        budgets: each budget of the best of them, on longer texts; empty where there was no time.
        best: what was chosen.
        before: what is taken without tuning, among `engines`.
    """

    engines: tuple[Measured, ...]
    budgets: tuple[Measured, ...]
    best: Setting
    before: Measured

    @property
    def after(self) -> Measured:
        """The chosen engine and threads, as measured among `engines`."""
        return next(m for m in self.engines if _same_engine(m.setting, self.best))


def tune(
    bundle: Bundle,
    cores: int,
    seconds: float,
    report: Callable[[Measured], None] = lambda measured: None,
) -> Tuning:
    """Measure the engines of one precision, then budgets of the fastest.

    Args:
        bundle: to tune; what was found for it before counts for nothing.
        cores: of this machine.
        seconds: to take, about; each setting has at least a few calls.
        report: called with each figure when it is there.

    Raises:
        EngineError: an engine cannot run here.
        DependencyError: an engine's package is not installed.
    """
    entries = list(_entries(bundle))
    threads = sorted({cores, max(1, cores // 2)}, reverse=True)
    share = seconds / 2 / (len(entries) * len(threads))
    measured = []
    for entry in entries:
        for count in threads:
            opened = _opened(bundle, entry, count)
            found = Measured(
                setting=Setting(
                    engine=entry.name, threads=count, batch_tokens=BatchLimits().tokens
                ),
                tokens_per_s=_rate(opened, RAGGED, BatchLimits().tokens, share / 2),
                query_ms=1000 * QUERY.count / _rate(opened, QUERY, BatchLimits().tokens, share / 2),
            )
            report(found)
            measured.append(found)
    fastest = pick_fastest(measured)
    budgets = tuple(_budgets(bundle, fastest, seconds / 2, report))
    best = pick_fastest(list(budgets)) if budgets else fastest
    untuned = best_way(cpu_engine(bundle), read_host(bundle, 0)).name
    return Tuning(
        engines=tuple(measured),
        budgets=budgets,
        best=best.setting,
        before=next(
            m for m in measured if (m.setting.engine, m.setting.threads) == (untuned, cores)
        ),
    )


def _entries(bundle: Bundle) -> Iterator[EngineEntry]:
    """Yield the engine that is taken untuned, by every runner that this machine has for it."""
    entry = cpu_engine(bundle)
    native = native_entry(entry)
    if native is not None and why_unavailable() is None:
        yield native
    if "cpu" in entry.devices:
        yield entry


def _opened(bundle: Bundle, entry: EngineEntry, threads: int) -> OpenedEngine:
    return open_for_bench(bundle, entry, next(iter(entry.decoders)), threads)


def _rate(opened: OpenedEngine, workload: Workload, batch_tokens: int, seconds: float) -> float:
    """Return tokens a second by the median of calls that take about `seconds`."""
    limits = BatchLimits(tokens=batch_tokens)
    runner = Runner(opened.runner.config, opened.engine, opened.table, limits)
    limited = dataclasses.replace(opened, runner=runner)
    times = workload_seconds(limited, workload, FEWEST_CALLS, seconds)
    return workload.count / float(np.median(times))


def _budgets(
    bundle: Bundle, fastest: Measured, seconds: float, report: Callable[[Measured], None]
) -> Iterator[Measured]:
    """Yield the rate of each budget, or nothing where calls would take too long."""
    call_s = PASSAGES.count / fastest.tokens_per_s
    if call_s * len(BUDGETS) * 2 > seconds:
        return
    chosen = fastest.setting
    opened = _opened(bundle, engine_named(bundle, chosen.engine), chosen.threads)
    for budget in BUDGETS:
        found = Measured(
            setting=Setting(engine=chosen.engine, threads=chosen.threads, batch_tokens=budget),
            tokens_per_s=_rate(opened, PASSAGES, budget, seconds / len(BUDGETS)),
            query_ms=None,
        )
        report(found)
        yield found


def pick_fastest(measured: list[Measured]) -> Measured:
    """Return the highest rate; among rates as good as equal the quickest query, else the first."""
    top = max(m.tokens_per_s for m in measured)
    near = [m for m in measured if m.tokens_per_s >= top * (1 - TIE)]
    return min(near, key=lambda m: m.query_ms or 0.0)


def _same_engine(a: Setting, b: Setting) -> bool:
    return (a.engine, a.threads) == (b.engine, b.threads)
