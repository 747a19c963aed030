"""Writes the rows that were found as one HTML file with nothing from outside."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from trine.runtime.bulk.search import Dataset, Hit
from trine.runtime.bundle.atomic import write_file
from trine.runtime.commands.search.excerpts import excerpt, thumbnail

__all__ = ["write_page"]

PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{query}</title>
<style>
:root {{ color-scheme: light dark; --soft: #677; --line: #8884; }}
body {{ margin: 0 auto; max-width: 60rem; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 1.4rem; overflow-wrap: anywhere; }}
ol {{ list-style: none; padding: 0; }}
li {{ display: grid; grid-template-columns: 4rem minmax(0, 1fr); gap: .2rem 1rem; padding: .8rem 0;
  border-top: 1px solid var(--line); }}
.score, .place {{ color: var(--soft); font-variant-numeric: tabular-nums; }}
.place {{ font-size: .85rem; overflow-wrap: anywhere; }}
img {{ max-width: 100%; border-radius: .3rem; }}
p {{ margin: .3rem 0; overflow-wrap: anywhere; }}
dl {{ display: grid; grid-template-columns: auto minmax(0, 1fr); gap: 0 .8rem; margin: 0;
  font-size: .85rem; }}
dd {{ margin: 0; overflow-wrap: anywhere; }}
</style>
<h1>{query}</h1>
<p class="place">{count} of {rows} rows, by {scoring}</p>
<ol>
{hits}
</ol>
</html>
"""
#: Characters of a text or a column that are shown.
SHOWN = 600


def write_page(path: Path, query: str, dataset: Dataset, hits: Sequence[Hit]) -> None:
    """Write the page; a file that is there is replaced at the end.

    Args:
        path: of the file.
        query: that was asked.
        dataset: that was searched.
        hits: what was found, best first.
    """
    page = PAGE.format(
        query=escape(query),
        count=len(hits),
        rows=dataset.num_rows,
        scoring="MaxSim" if dataset.multi else "cosine",
        hits="\n".join(_entry(hit) for hit in hits),
    )
    with write_file(path) as partial:
        partial.write_text(page, encoding="utf-8")


def _entry(hit: Hit) -> str:
    text, image = excerpt(hit), thumbnail(hit)
    parts = [f'<div class="place">{escape(hit.id)} · {escape(hit.source)}:{hit.row}</div>']
    if image is not None:
        data = base64.b64encode(image).decode("ascii")
        parts.append(f'<img alt="" src="data:image/jpeg;base64,{data}">')
    if text is not None:
        parts.append(f"<p>{escape(text[:SHOWN])}</p>")
    shown = {name: value for name, value in hit.columns.items() if value != text}
    if shown:
        fields = (
            f"<dt>{escape(name)}</dt><dd>{escape(str(value)[:SHOWN])}</dd>"
            for name, value in shown.items()
        )
        parts.append(f"<dl>{''.join(fields)}</dl>")
    return f'<li><span class="score">{hit.score:.4f}</span><div>{"".join(parts)}</div></li>'
