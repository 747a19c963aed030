"""Times an engine of a bundle on the workloads, from token ids and patches to vectors."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trine.runtime.bundle.bundle import EMBEDDING_NAME, TOKENIZER_NAME, Bundle
from trine.runtime.bundle.manifest import EngineEntry
from trine.runtime.commands.bench.workloads import Workload, sequences_of
from trine.runtime.engines.base import Engine, EngineOptions
from trine.runtime.engines.opening import open_engine
from trine.runtime.hardware.memory import resident_bytes
from trine.runtime.inference.batch_planner import BatchLimits
from trine.runtime.inference.embedding_table import EmbeddingTable
from trine.runtime.inference.runner import Runner
from trine.runtime.outputs import Heads
from trine.runtime.preprocessing.tokenizer import TextTokenizer

__all__ = [
    "OpenedEngine",
    "WorkloadResult",
    "call_seconds",
    "measure_workload",
    "open_for_bench",
    "workload_seconds",
]

#: Calls of a workload: at least so many, and more until the time is over.
FEWEST_CALLS = {True: 20, False: 3}
SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedEngine:
    """An engine with what surrounds it, and what loading it took.

    Attributes:
        bundle, entry: it is of.
        engine: loaded, with the decoder of `task`.
        runner: around it.
        table: of token embeddings, which the runner reads.
        tokenizer: of the bundle.
        task: whose adapter is used.
        threads: of one run; None for one a processor.
        load_s: seconds to load, imports included.
        load_bytes: by which resident memory grew.
    """

    bundle: Bundle
    entry: EngineEntry
    engine: Engine
    runner: Runner
    table: EmbeddingTable
    tokenizer: TextTokenizer
    task: str
    threads: int | None
    load_s: float
    load_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadResult:
    """One workload on one engine.

    Attributes:
        workload: its name.
        title: for people.
        unit: what the rate counts.
        rate: units a second, by the median.
        p50_ms, p95_ms, p99_ms: of a call.
        calls: that were timed.
        peak_bytes: most resident memory of this process so far, mapped files included.
    """

    workload: str
    title: str
    unit: str
    rate: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    calls: int
    peak_bytes: int


def open_for_bench(
    bundle: Bundle, entry: EngineEntry, task: str, threads: int | None, device: int = 0
) -> OpenedEngine:
    """Return an engine with one task's decoder loaded.

    Args:
        bundle, entry: of the engine.
        task: whose decoder.
        threads: of one run on the processor; None for one a processor.
        device: ordinal of the GPU, for engines that run on one.

    Raises:
        EngineError: it cannot run here.
        DependencyError: its package is not installed.
    """
    before, started = resident_bytes(), time.perf_counter()
    engine = open_engine(
        bundle, entry, EngineOptions(threads=threads, tasks=(task,), device=device)
    )
    model = bundle.manifest.model
    table = EmbeddingTable(bundle.path(EMBEDDING_NAME), model.decoder)
    runner = Runner(model, engine, table, BatchLimits())
    tokenizer = TextTokenizer(bundle.path(TOKENIZER_NAME))
    return OpenedEngine(
        bundle=bundle,
        entry=entry,
        engine=engine,
        runner=runner,
        table=table,
        tokenizer=tokenizer,
        task=task,
        threads=threads,
        load_s=time.perf_counter() - started,
        load_bytes=max(0, resident_bytes() - before),
    )


def measure_workload(opened: OpenedEngine, workload: Workload) -> WorkloadResult:
    """Return the rate and latencies of a workload; its first call is a warm-up."""
    seconds = workload_seconds(opened, workload, FEWEST_CALLS[workload.latency], SECONDS)
    p50, p95, p99 = np.quantile(seconds, (0.5, 0.95, 0.99)).tolist()
    return WorkloadResult(
        workload=workload.name,
        title=workload.title,
        unit=workload.unit,
        rate=workload.count / p50,
        p50_ms=p50 * 1000,
        p95_ms=p95 * 1000,
        p99_ms=p99 * 1000,
        calls=len(seconds),
        peak_bytes=_peak_bytes(),
    )


def workload_seconds(
    opened: OpenedEngine, workload: Workload, fewest: int, seconds: float
) -> list[float]:
    """Return the seconds of a workload's calls, as `call_seconds` does."""
    sequences = sequences_of(workload, opened.bundle.manifest.model, opened.tokenizer)
    with opened.engine.adapters.hold([opened.task]) as handles:
        adapters = [handles[opened.task]] * len(sequences)
        hidden_size = opened.bundle.manifest.model.decoder.hidden_size
        heads = Heads(single=True, multi=False, dim=hidden_size)
        return call_seconds(
            lambda: opened.runner.encode(sequences, adapters, heads),
            fewest,
            seconds,
        )


def call_seconds(call: Callable[[], object], fewest: int, seconds: float = SECONDS) -> list[float]:
    """Return the seconds of calls after one that is not counted: `fewest`, or `seconds` of them."""
    call()
    taken: list[float] = []
    ends = time.perf_counter() + seconds
    while len(taken) < fewest or time.perf_counter() < ends:
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return taken


def _peak_bytes() -> int:
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # no Linux
    return resident_bytes()
