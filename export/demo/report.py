"""The demonstration's printed report."""

from collections.abc import Iterator, Sequence

from trine.export.demo.bundle import DemoBundle
from trine.export.demo.search import Answer, Found, Hit, Speed

__all__ = ["facts", "report_lines", "total_line"]

#: Widest label of a printed hit.
LABEL_WIDTH = 64


def report_lines(bundle: DemoBundle, found: Sequence[Found], speed: Speed) -> Iterator[str]:
    """Yield the report line by line: the shown rankings, the counts, the times and sizes."""
    for part in found:
        yield from _section_lines(part)
    yield "Expected hit first"
    yield from (f"  {line}" for line in _count_lines(found))
    yield ""
    yield "Times and sizes"
    yield from (f"  {name:<18} {value}" for name, value in facts(bundle, speed))


def facts(bundle: DemoBundle, speed: Speed) -> tuple[tuple[str, str], ...]:
    """Return the measured times and sizes as (name, value with unit)."""
    export = "kept from an earlier run" if bundle.export_s is None else f"{bundle.export_s:.1f} s"
    return (
        ("export", export),
        ("load", f"{bundle.load_s:.2f} s"),
        ("texts", f"{speed.texts_per_s:,.0f} a second"),
        ("images", f"{speed.images_per_s:,.0f} a second"),
        ("checkpoint", f"{bundle.checkpoint_bytes / 1e6:.1f} MB"),
        ("bundle", f"{bundle.bundle_bytes / 1e6:.1f} MB"),
        (
            "golden vectors",
            f"worst cosine {bundle.min_cosine:.7f}, difference {bundle.max_difference:.1e}",
        ),
    )


def total_line(found: Sequence[Found]) -> str:
    """Return the one-line verdict, with the numbers that were asked for."""
    single = sum(part.single_first for part in found)
    multi = sum(part.multi_first for part in found)
    queries = sum(len(part.answers) for part in found)
    missed = [part.section.title for part in found if not part.enough]
    verdict = f"too few right hits in: {', '.join(missed)}" if missed else "as expected"
    return f"{single} of {queries} right by single vectors, {multi} by multi-vectors: {verdict}"


def _section_lines(part: Found) -> Iterator[str]:
    yield part.section.title
    yield "─" * len(part.section.title)
    for answer in part.answers:
        if answer.query.shown:
            yield from _answer_lines(answer)
    yield ""


def _answer_lines(answer: Answer) -> Iterator[str]:
    yield f"  “{answer.query.text}”"
    for name, ranking in (("single", answer.single), ("multi", answer.multi)):
        for place, hit in enumerate(ranking):
            yield f"    {name if place == 0 else '':<6} {_hit(hit)}"


def _hit(hit: Hit) -> str:
    label = hit.candidate.label
    if len(label) > LABEL_WIDTH:
        label = f"{label[: LABEL_WIDTH - 1]}…"
    return f"{'✓' if hit.right else ' '} {hit.score:6.3f}  {label}"


def _count_lines(found: Sequence[Found]) -> Iterator[str]:
    for part in found:
        queries = len(part.answers)
        yield (
            f"{part.section.title:<32} "
            f"single {part.single_first:2} of {queries:2} (least {part.section.min_single:2})   "
            f"multi {part.multi_first:2} of {queries:2} (least {part.section.min_multi:2})"
        )
