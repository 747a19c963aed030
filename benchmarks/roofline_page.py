"""Writes docs/roofline.md: rooflines of a model with every published number of jina-embeddings-v4.

python benchmarks/roofline_page.py
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trine.export.sample.config import sample_model
from trine.export.sample.spec import SampleSpec
from trine.runtime.commands.roofline.page import roofline_page

RESULTS = Path(__file__).resolve().parent / "results"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "roofline.md"
#: The published image prompt has 3 tokens before the image's span, its two markers, and 6 after
#: it, with the published tokenizer.
SCAFFOLD_TOKENS = 11


def main() -> None:
    PAGE.write_text(page_text(), encoding="utf-8")
    print(PAGE)


def page_text() -> str:
    """Return the page, with what `gpu.py` measured where there are results of it."""
    page = roofline_page(sample_model(SampleSpec.full()), "jina-embeddings-v4", SCAFFOLD_TOKENS)
    records = [json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob("*-gpu.json"))]
    return page + "".join(f"{line}\n" for record in records for line in measured_lines(record))


def measured_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table of one result of `gpu.py`: measured beside predicted rates."""
    device, versions = record["device"]["name"], f"driver {record['driver']}"
    yield f"\n## Measured: {device}, {versions}\n"
    yield "| engine | run | measured | predicted best | share | worst golden cosine |"
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    for row in record["measured"]:
        best = "–" if row["predicted"] is None else f"{row['predicted']:,.1f}"
        share = "–" if row["share"] is None else f"{row['share']:.0%}"
        rate = f"{row['measured']:,.1f} {row['unit']}/s"
        cosine = f"{row['golden_cosine']:.5f}"
        yield f"| {row['engine']} | {row['run']} | {rate} | {best} | {share} | {cosine} |"
    for engine, why in record["failures"].items():
        yield f"\n{engine} was not measured: {why}"


if __name__ == "__main__":
    main()
