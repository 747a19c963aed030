"""The demonstration's page: one HTML file with its images inside and nothing from outside."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from trine.export.demo.bundle import DemoBundle
from trine.export.demo.report import facts, total_line
from trine.export.demo.search import Answer, Found, Hit, Speed

__all__ = ["page_html"]

LIMITS = (
    "nano is a small checkpoint trained on short English texts about software, their translations "
    "into five languages, Python functions and flat synthetic shapes and charts: photos, "
    "screenshots, text in images, everyday vocabulary and where things stand in an image mean "
    "little to it, and its multi-vectors are weaker than its single vectors here. It shows that "
    "the pipeline works; it says nothing about the quality of jina-embeddings-v4."
)

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1c2330; --soft: #5b6576;
  --line: #dfe3ea; --bar: #c5d7f7; --good: #0a7a3d; --goodbar: #bfe6cd; }
@media (prefers-color-scheme: dark) { :root { --page: #12151b; --card: #1b2029; --ink: #e6eaf1;
  --soft: #9aa5b8; --line: #2d3441; --bar: #2b4470; --good: #5fd08f; --goodbar: #1e4f35; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { margin: .5rem 0 0; font-size: 1.7rem; }
h2 { margin: 2.2rem 0 .2rem; font-size: 1.25rem; }
h3 { margin: 0 0 .5rem; font-size: 1.05rem; overflow-wrap: anywhere; }
p { margin: .4rem 0; }
.soft, figcaption, dt, .kind { color: var(--soft); }
.good { color: var(--good); font-weight: 600; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .6rem; }
dl div, .card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; }
dl div { padding: .5rem .8rem; }
dt { font-size: .85rem; }
dd { margin: 0; font-size: 1.1rem; }
.card { margin: .8rem 0; padding: .8rem 1rem; }
.rankings { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr));
  gap: .8rem 1.6rem; }
.kind { margin: 0; font-size: .85rem; }
ol { list-style: none; margin: 0; padding: 0; }
li { display: grid; grid-template-columns: 1.2rem 3.4rem auto minmax(0, 1fr); gap: .4rem;
  align-items: center; margin: .2rem 0; padding: .15rem .3rem; border-radius: .3rem;
  background: linear-gradient(90deg, var(--bar) var(--part), transparent var(--part)); }
li.right { --bar: var(--goodbar); }
.label { grid-column: -2; overflow-wrap: anywhere; }
.score { text-align: right; font-variant-numeric: tabular-nums; }
li img { width: 3rem; }
img { display: block; height: auto; border-radius: .3rem; background: #fff; }
pre, .code .label { font: .85rem/1.45 ui-monospace, monospace; }
pre { margin: .5rem 0; padding: .7rem; overflow-x: auto; background: var(--card);
  border: 1px solid var(--line); border-radius: .4rem; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: .8rem; }
figure { margin: 0; }
figure img { width: 100%; }
figcaption { font-size: .8rem; line-height: 1.3; }
details { margin: .8rem 0; }
summary { cursor: pointer; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { padding: .25rem .5rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
"""


def page_html(bundle: DemoBundle, found: Sequence[Found], speed: Speed) -> str:
    """Return the whole page as HTML text; it refers to nothing outside itself."""
    tiles = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts(bundle, speed)
    )
    sections = "".join(_section(part) for part in found)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Trine: the demonstration</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        "<h1>Trine: the demonstration</h1>\n"
        "<p>One bundle, three adapters, no PyTorch: texts, images and Python functions embedded "
        "on this machine and ranked by single vectors (cosine) and multi-vectors (MaxSim). "
        '<span class="good">✓</span> marks the expected hit.</p>\n'
        f"<p><strong>{escape(total_line(found))}</strong></p>\n"
        f'<p class="soft">{escape(LIMITS)}</p>\n<dl>{tiles}</dl>\n{sections}</body>\n</html>\n'
    )


def _section(part: Found) -> str:
    section = part.section
    cards = "".join(
        _card(answer, section.task == "code") for answer in part.answers if answer.query.shown
    )
    return (
        f"<section>\n<h2>{escape(section.title)}</h2>\n"
        f'<p class="soft">{len(section.queries)} queries, {len(section.candidates)} candidates, '
        f"adapter {escape(section.task)}. Expected hit first: {part.single_first} by single "
        f"vectors, {part.multi_first} by multi-vectors.</p>\n"
        f"{cards}{_all_queries(part)}{_all_candidates(part)}</section>\n"
    )


def _card(answer: Answer, is_code: bool) -> str:
    kind = "card code" if is_code else "card"
    return (
        f'<article class="{kind}"><h3>{escape(answer.query.text)}</h3><div class="rankings">'
        f"{_ranking('single vectors', answer.single)}{_ranking('multi-vectors', answer.multi)}"
        "</div></article>\n"
    )


def _ranking(name: str, hits: Sequence[Hit]) -> str:
    best = max(hits[0].score, 1e-9)
    items = "".join(
        f'<li class="{"right" if hit.right else "other"}" '
        f'style="--part: {100 * max(hit.score, 0.0) / best:.0f}%">'
        f'<span class="good">{"✓" if hit.right else ""}</span>'
        f'<span class="score">{hit.score:.3f}</span>{_thumbnail(hit)}'
        f'<span class="label">{escape(hit.candidate.label)}</span></li>'
        for hit in hits
    )
    return f'<div><p class="kind">{name}</p><ol>{items}</ol></div>'


def _thumbnail(hit: Hit) -> str:
    content = hit.candidate.content
    return _image(content, hit.candidate.label) if isinstance(content, Path) else ""


def _all_queries(part: Found) -> str:
    """Return a folded table of every query of the section, also those without a card."""
    rows = "".join(
        f"<tr><td>{escape(answer.query.text)}</td>{_first(answer.single[0])}"
        f"{_first(answer.multi[0])}</tr>"
        for answer in part.answers
    )
    return (
        f"<details><summary>All {len(part.answers)} queries and what came first</summary>"
        '<div class="wide"><table><thead><tr><th>query</th><th>single vectors</th>'
        f"<th>multi-vectors</th></tr></thead><tbody>{rows}</tbody></table></div></details>\n"
    )


def _first(hit: Hit) -> str:
    mark = '<span class="good">✓</span> ' if hit.right else "✗ "
    return f"<td>{mark}{escape(hit.candidate.label)}</td>"


def _all_candidates(part: Found) -> str:
    """Return a folded list of what was searched: images, functions or lines of text."""
    candidates = part.section.candidates
    if isinstance(candidates[0].content, Path):
        body = "".join(
            f"<figure>{_image(Path(candidate.content), candidate.label)}"
            f"<figcaption>{escape(candidate.label)}</figcaption></figure>"
            for candidate in candidates
        )
        return f'<div class="gallery">{body}</div>\n'
    if part.section.task == "code":
        body = "".join(f"<pre>{escape(str(candidate.content))}</pre>" for candidate in candidates)
    else:
        body = "".join(f"<p>{escape(candidate.label)}</p>" for candidate in candidates)
    return f"<details><summary>All {len(candidates)} candidates</summary>{body}</details>\n"


def _image(path: Path, label: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    source = f"data:image/png;base64,{data}"
    return f'<img src="{source}" alt="{escape(label)}" width="112" height="112">'
