"""Text of `trine bench` for people."""

from collections.abc import Iterator, Sequence

from trine.runtime.commands.bench.measure import OpenedEngine, WorkloadResult
from trine.runtime.commands.bench.profile import GraphProfile, WorkloadProfile
from trine.runtime.commands.info.bundle_summary import table_lines

__all__ = ["engine_lines", "profile_lines"]

GIGA = 1e9
MB = 1e6


def engine_lines(opened: OpenedEngine, results: Sequence[WorkloadResult]) -> Iterator[str]:
    """Yield the table of one engine."""
    yield opened.engine.description
    yield f"loaded in {opened.load_s:.2f} s, memory grew by {opened.load_bytes / MB:,.0f} MB"
    rows: list[tuple[str, ...]] = [("", "rate", "p50 ms", "p95 ms", "p99 ms", "peak MB")]
    rows += [
        (
            result.title,
            f"{result.rate:,.2f} {result.unit}/s",
            *(f"{ms:,.1f}" for ms in (result.p50_ms, result.p95_ms, result.p99_ms)),
            f"{result.peak_bytes / MB:,.0f}",
        )
        for result in results
    ]
    yield from table_lines(rows)


def profile_lines(profile: WorkloadProfile) -> Iterator[str]:
    """Yield where one workload's time goes, and the rate of its matrix products."""
    yield f"{profile.title}: by stage"
    total = sum(profile.stages.values())
    yield from table_lines(
        [(name, f"{s * 1000:,.2f} ms", _share(s, total)) for name, s in profile.stages.items()]
    )
    for graph in profile.graphs:
        yield from _graph_lines(graph)


def _graph_lines(graph: GraphProfile) -> Iterator[str]:
    yield f"  {graph.graph} graph, by class of operator"
    total = sum(entry.seconds for entry in graph.classes)
    rows: list[tuple[str, ...]] = []
    for entry in graph.classes:
        operators = ", ".join(
            f"{name} {_share(seconds, total)}" for name, seconds in entry.operators.items()
        )
        share = _share(entry.seconds, total)
        rows.append((entry.name, f"{entry.seconds * 1000:,.2f} ms", share, operators))
    yield from table_lines(rows, "    ")
    yield (
        f"    matrix products at {graph.gemm_operations_per_second / GIGA:,.0f} G operations/s; "
        f"over the whole graph {graph.operations_per_second / GIGA:,.0f}"
    )


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
