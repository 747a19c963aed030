"""Plots of a run: for each case the rates as bars, fastest first, as a PNG."""

import io
from collections.abc import Sequence

from report.tables import Standing, number
from trine.runtime.errors import missing_package

__all__ = ["case_plot"]

#: Trine, competitors that count, competitors whose vectors are too far off.
OWN, COMPETITOR, OFF = "#0b6e4f", "#8a94a6", "#d8dce3"
DOTS_PER_INCH = 144


def case_plot(rows: Sequence[Standing]) -> bytes | None:
    """Return a PNG of a case's rates, or None if nobody was measured.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as cause:
        raise missing_package("matplotlib", "benchmarks", "to draw plots") from cause
    shown = [standing for standing in rows if standing.row.rate is not None][::-1]
    if not shown:
        return None
    figure = Figure(figsize=(7.5, 0.7 + 0.36 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rates = [standing.row.rate or 0.0 for standing in shown]
    colours = [OWN if s.own else COMPETITOR if s.counts else OFF for s in shown]
    bars = axes.barh([s.row.backend for s in shown], rates, color=colours)
    labels = [_label(standing) for standing in shown]
    axes.bar_label(bars, labels, padding=4, fontsize=8)
    axes.set_xlim(0, max(rates) * 1.28)
    axes.set_xlabel(f"{shown[0].row.unit} a second", fontsize=8)
    axes.tick_params(labelsize=8, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()


def _label(standing: Standing) -> str:
    cosine = standing.row.worst_cosine
    quality = "" if cosine is None else f"  cos {cosine:.4f}"
    return f"{number(standing.row.rate)}{quality}"
