"""Writes what `trine export` prints when it is done."""

from collections.abc import Iterator

from trine.export.options import EngineMeasurement, EngineReport, ExportReport, QuantisedLayers
from trine.runtime.bundle.golden import worst
from trine.runtime.commands.info.bundle_summary import table_lines
from trine.runtime.commands.progress import format_bytes

__all__ = ["export_lines"]


def export_lines(report: ExportReport) -> Iterator[str]:
    """Yield the lines of the report."""
    yield f"{report.bundle}: {report.source_id}, tasks {', '.join(report.tasks)}"
    for engine in report.engines:
        yield from _engine_lines(engine)
    for note in report.notes:
        yield f"  note: {note}"
    peak = "" if report.peak_bytes is None else f", peak memory {format_bytes(report.peak_bytes)}"
    yield f"  {format_bytes(report.num_bytes)} in {report.seconds:.1f} s{peak}"


def _engine_lines(engine: EngineReport) -> Iterator[str]:
    yield f"engine {engine.name}{'' if engine.written else ': NOT WRITTEN'}"
    for reason in engine.below_floor:
        yield f"  below its accuracy threshold: {reason}"
    if engine.below_floor and not engine.written:
        yield (
            "  what would help: --calibration with inputs like yours, a wider --precision, "
            "--min-cosine to say what is enough, or --allow-below-threshold to keep it all the same"
        )
    for name, size in engine.graphs:
        yield f"  {name:<44} {format_bytes(size):>9}"
    if engine.quantised is not None:
        yield from _quantised_lines(engine.quantised)
    if engine.wider:
        yield f"  kept wider: {len(engine.wider)} layers and operations"
        for tensor in engine.wider:
            yield f"    {tensor.name}: {tensor.precision.weight}; {tensor.reason}"
    if engine.plan_loss is not None:
        yield (
            f"  fake-quantised in the float32 reference, {len(engine.plan_loss.losses)} "
            f"inputs: mean cosine {1 - engine.plan_loss.mean:.5f}, worst "
            f"{1 - engine.plan_loss.worst:.5f}"
        )
    if engine.measured is None:
        yield "  the engine was not run here; it is tested when it is loaded (--check runs it now)"
    else:
        yield from _measurement_lines(engine.measured)


def _quantised_lines(layers: QuantisedLayers) -> Iterator[str]:
    yield (
        f"  in fewer than 16 bits: {layers.count} of {layers.total} layers; the rest has 16, but "
        "for the following"
    )
    if layers.count < layers.total / 2:
        yield (
            f"  that is what a mean cosine of {layers.min_cosine:g} leaves; a smaller --min-cosine "
            "leaves more"
        )


def _measurement_lines(found: EngineMeasurement) -> Iterator[str]:
    for head in ("single", "multi"):
        cosine, difference = worst([d for d in found.deviations if d.head == head])
        yield (
            f"  {head}-vectors against the float32 reference: worst cosine {cosine:.7f}, "
            f"largest difference {difference:.1e}"
        )
    rows: list[tuple[str, ...]] = [
        ("task", "input", "head", "mean", "p1", "worst", "nDCG@10", "scores' Pearson")
    ]
    for vectors, ranking in zip(found.vectors, found.rankings, strict=True):
        rows.append(
            (
                vectors.task,
                vectors.modality,
                vectors.head,
                f"{vectors.mean:.5f}",
                f"{vectors.p1:.5f}",
                f"{vectors.worst:.5f}",
                f"{ranking.ndcg_at_10:.4f}",
                f"{ranking.pearson:.5f}",
            )
        )
    if found.vectors:
        yield "  cosines with float32 and rankings of the built-in corpus:"
        yield from table_lines(rows, "    ")
    speed = "" if found.tokens_per_s is None else f", {found.tokens_per_s:,.0f} tokens/s"
    yield (
        f"  a task's decoder loads in {found.load_s:.2f} s; this process grew by "
        f"{format_bytes(found.resident_bytes)}{speed}"
        + (", from memory-mapped weights given back as it runs" if found.mapped else "")
    )
