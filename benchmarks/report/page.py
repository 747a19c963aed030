"""A run as one HTML page that needs no other file: what was won first, then every case."""

import base64
import html
from collections.abc import Iterator, Mapping, Sequence

from report.record import Record, Row
from report.tables import MIN_COSINE, Standing, number, standings

__all__ = ["html_page"]

STYLE = """
:root { color-scheme: light dark; --own: #0b6e4f; --soft: #8a94a6; --line: #8a94a655; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 3rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
p.about, small { color: var(--soft); } img { max-width: 100%; background: #fff; border-radius: 4px }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .86rem; width: 100%; }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child, td.said { text-align: left; } th { font-weight: 500; }
tr.own td { font-weight: 600; color: var(--own); } tr.off td { color: var(--soft); }
@media (prefers-color-scheme: dark) { tr.own td { color: #4fd1a5; } }
"""
SUMMARY_HEADING = ("case", "Trine", "best peer", "ratio", "worst cosine", "peer's", "peak MB")
HEADING = ("contestant", "rate", "median ms", "p95", "p99", "CPU ms", "peak MB", "load s", "cosine")


def html_page(record: Record, plots: Mapping[str, bytes]) -> str:
    """Return the page.

    Args:
        record: of the run.
        plots: PNG files by case's name; a case without one has its table only.
    """
    return "\n".join(_page(record, plots))


def _page(record: Record, plots: Mapping[str, bytes]) -> Iterator[str]:
    machine, settings = record.machine, record.settings
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>Trine benchmarks</title><style>{STYLE}</style></head><body>"
    yield "<h1>How fast is Trine here?</h1>"
    about = (
        f"{machine['cpu']}, {machine['threads']} threads; checkpoint {settings['checkpoint']}, "
        f"{settings['rounds']} interleaved rounds, a process each; commit {machine['commit']}."
    )
    yield f'<p class="about">{html.escape(about)}</p>'
    by_case = standings(record)
    yield from _summary(by_case)
    yield (
        f"<p><small>A peer counts from a worst cosine to float32 PyTorch of {MIN_COSINE}; "
        "those below are shown grey. Ratios are of median rates.</small></p>"
    )
    for name, rows in by_case.items():
        yield f'<h2 id="{html.escape(name)}">{html.escape(rows[0].row.title)}</h2>'
        if name in plots:
            data = base64.b64encode(plots[name]).decode("ascii")
            text = html.escape(f"Bars of the rates of {rows[0].row.title}")
            yield f'<img alt="{text}" src="data:image/png;base64,{data}">'
        yield from _table(rows)
    yield "</body></html>"


def _summary(by_case: Mapping[str, Sequence[Standing]]) -> Iterator[str]:
    yield '<div class="scroll"><table>' + _cells("th", SUMMARY_HEADING)
    for rows in by_case.values():
        taken = [standing for standing in rows if standing.row.rate is not None]
        own = next((s for s in taken if s.own and s.counts), None)
        peer = next((s for s in taken if not s.own and s.counts), None)
        if own is None:
            continue
        ratio = "" if own.ratio is None else f"{own.ratio:.2f} ×"
        cells = (
            own.row.title,
            f"{number(own.row.rate)} {own.row.unit}/s",
            "none" if peer is None else f"{number(peer.row.rate)} ({peer.row.contestant})",
            ratio,
            _cosine(own.row),
            "" if peer is None else _cosine(peer.row),
            number(own.row.peak_mb),
        )
        yield _cells("td", cells)
    yield "</table></div>"


def _table(rows: Sequence[Standing]) -> Iterator[str]:
    yield '<div class="scroll"><table>' + _cells("th", HEADING)
    for standing in rows:
        row = standing.row
        if row.absent is not None:
            name, said = html.escape(row.contestant), html.escape(row.absent)
            span = len(HEADING) - 1
            cell = f'<td class="said" colspan="{span}">{said}</td>'
            yield f'<tr class="off"><td>{name}</td>{cell}</tr>'
            continue
        kind = "own" if standing.own else "" if standing.counts else "off"
        numbers = (row.median_ms, row.p95_ms, row.p99_ms, row.cpu_ms, row.peak_mb, row.load_s)
        rate = f"{number(row.rate)} {row.unit}/s"
        cells = (row.contestant, rate, *(number(n) for n in numbers), _cosine(row))
        yield _cells("td", cells, kind)
    yield "</table></div>"


def _cells(tag: str, texts: Sequence[str], kind: str = "") -> str:
    inner = "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts)
    return f'<tr class="{kind}">{inner}</tr>' if kind else f"<tr>{inner}</tr>"


def _cosine(row: Row) -> str:
    return "" if row.worst_cosine is None else f"{row.worst_cosine:.5f}"
