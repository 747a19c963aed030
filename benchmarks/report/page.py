"""A run as one HTML page that needs no other file: what was reached first, then every case."""

import base64
import html
from collections.abc import Iterator, Mapping, Sequence

from report.goals import Verdict, verdicts
from report.record import Record
from report.summary import about_lines
from report.tables import Standing, cosine, number, standings

__all__ = ["html_page"]

STYLE = """
:root { color-scheme: light dark; --own: #0b6e4f; --soft: #6b7486; --line: #8a94a640;
  --card: #8a94a614; --bad: #b3261e; --track: #8a94a633; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 68rem; margin: 3rem auto; padding: 0 1rem }
h1 { font-size: 1.9rem; margin-bottom: .3rem; letter-spacing: -.01em }
h2 { font-size: 1.2rem; margin: 3rem 0 .6rem } p.about { color: var(--soft); max-width: 50rem }
.goals { display: grid; grid-template-columns: repeat(auto-fill, minmax(17.5rem, 1fr)); gap: .8rem;
  margin: 1.5rem 0 }
.goal { background: var(--card); border-radius: 10px; padding: .8rem 1rem; }
.goal h3 { font-size: .86rem; font-weight: 600; margin: 0 } .goal small { color: var(--soft);
  display: block; line-height: 1.4 } .goal .value { font-size: 1.75rem; font-weight: 650;
  letter-spacing: -.02em } .met .value { color: var(--own) } .missed .value { color: var(--bad) }
.track { position: relative; height: 7px; border-radius: 4px; background: var(--track);
  margin: .3rem 0 .5rem } .track i { position: absolute; inset: 0 auto 0 0; border-radius: 4px;
  background: var(--own) } .missed .track i { background: var(--bad) }
.track b { position: absolute; top: -3px; bottom: -3px; width: 2px; background: currentColor }
nav { font-size: .86rem; line-height: 2 } nav a { margin-right: .9rem; color: var(--own);
  text-decoration: none; white-space: nowrap } nav a:hover { text-decoration: underline }
img { max-width: min(100%, 48rem); background: #fff; border-radius: 8px }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-size: .82rem; width: 100%;
  font-variant-numeric: tabular-nums } th, td { text-align: right; padding: .28rem .55rem;
  border-bottom: 1px solid var(--line); white-space: nowrap } th { font-weight: 500;
  color: var(--soft) } th:first-child, td:first-child, td.said { text-align: left }
td.said { white-space: normal } tr.own td { font-weight: 600; color: var(--own) }
tr.off td { color: var(--soft) }
@media (prefers-color-scheme: dark) { :root { --own: #4fd1a5; --bad: #ff8a80; --soft: #9aa4b5 } }
"""
HEADING = (
    *("backend", "rate", "against best competitor", "median ms", "p95", "p99", "calls", "CPU ms"),
    *("peak MB", "load s", "files MB", "worst cosine", "mean", "same nearest"),
)


def html_page(record: Record, plots: Mapping[str, bytes]) -> str:
    """Return the page.

    Args:
        record: of the run.
        plots: PNG files by case's name; a case without one has its table only.
    """
    return "\n".join(_page(record, plots))


def _page(record: Record, plots: Mapping[str, bytes]) -> Iterator[str]:
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>Trine benchmarks</title><style>{STYLE}</style></head><body>"
    yield "<h1>How fast is Trine here?</h1>"
    yield from (f'<p class="about">{html.escape(line)}</p>' for line in about_lines(record) if line)
    found = verdicts(record)
    if any(verdict.value is not None for verdict in found):
        yield '<div class="goals">'
        yield from (_card(verdict) for verdict in found if verdict.value is not None)
        yield "</div>"
    by_case = standings(record)
    links = (
        f'<a href="#{html.escape(name)}">{html.escape(rows[0].row.title)}</a>'
        for name, rows in by_case.items()
    )
    yield "<nav>" + " ".join(links) + "</nav>"
    for name, rows in by_case.items():
        yield f'<h2 id="{html.escape(name)}">{html.escape(rows[0].row.title)}</h2>'
        if name in plots:
            data = base64.b64encode(plots[name]).decode("ascii")
            text = html.escape(f"Bars of the rates of {rows[0].row.title}")
            yield f'<img alt="{text}" src="data:image/png;base64,{data}">'
        yield from _table(rows)
    yield "</body></html>"


def _card(verdict: Verdict) -> str:
    goal, value = verdict.goal, verdict.value or 0.0
    against = goal.against
    if verdict.other is not None and verdict.other.backend != against:
        against = f"{against}, {verdict.other.backend}"
    top = 1.15 * max(value, goal.must, goal.aim or 0)
    kind = "met" if verdict.met else "missed"
    against = {"peak": "the 8-bit peak", "memory": "its memory"}.get(against, against)
    notes = [f"{verdict.own.backend} against {against}" if verdict.own else against]
    notes += [f"wanted {verdict.wanted}", verdict.note]
    lines = "".join(f"<small>{html.escape(note)}</small>" for note in notes if note)
    return (
        f'<div class="goal {kind}"><h3>{html.escape(verdict.title)}</h3>'
        f'<div class="value">{html.escape(verdict.reached)}</div>'
        f'<div class="track"><i style="width:{100 * value / top:.1f}%"></i>'
        f'<b style="left:{100 * goal.must / top:.1f}%" title="must"></b></div>{lines}</div>'
    )


def _table(rows: Sequence[Standing]) -> Iterator[str]:
    yield '<div class="scroll"><table>' + _cells("th", HEADING)
    for standing in rows:
        row = standing.row
        if row.absent is not None:
            name, said = html.escape(row.backend), html.escape(row.absent)
            span = len(HEADING) - 1
            cell = f'<td class="said" colspan="{span}">{said}</td>'
            yield f'<tr class="off"><td>{name}</td>{cell}</tr>'
            continue
        kind = "own" if standing.own else "" if standing.counts else "off"
        cells = (
            row.backend,
            f"{number(row.rate)} {row.unit}/s",
            "" if standing.ratio is None else f"{standing.ratio:.2f} ×",
            *(number(n) for n in (row.median_ms, row.p95_ms, row.p99_ms)),
            str(row.calls),
            *(number(n) for n in (row.cpu_ms, row.peak_mb, row.load_s, row.file_mb)),
            cosine(row.worst_cosine),
            cosine(row.mean_cosine),
            "" if row.same_nearest is None else f"{100 * row.same_nearest:.0f} %",
        )
        yield _cells("td", cells, kind)
    yield "</table></div>"


def _cells(tag: str, texts: Sequence[str], kind: str = "") -> str:
    inner = "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts)
    return f'<tr class="{kind}">{inner}</tr>' if kind else f"<tr>{inner}</tr>"
