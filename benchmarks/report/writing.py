"""Writes what people read beside a run's JSON."""

from pathlib import Path

from report.page import html_page
from report.plots import case_plot
from report.record import read_record
from report.summary import markdown
from report.tables import standings

__all__ = ["write_report"]


def write_report(path: Path) -> list[Path]:
    """Write NAME.md, NAME.html and NAME-<case>.png beside NAME.json, and return their paths.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    record = read_record(path)
    written = [path.with_suffix(".md"), path.with_suffix(".html")]
    plots = {}
    for case, rows in standings(record).items():
        plot = case_plot(rows)
        if plot is not None:
            plots[case] = plot
            written.append(path.with_name(f"{path.stem}-{case}.png"))
            written[-1].write_bytes(plot)
    written[0].write_text(markdown(record), encoding="utf-8")
    written[1].write_text(html_page(record, plots), encoding="utf-8")
    return written
