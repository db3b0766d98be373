"""Figures of what a classifier costs where it runs."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from lib.plots.style import COLOURS, new_panels, set_figure_title, set_labels, set_rows


def runtimes(table: pd.DataFrame, *, n: int) -> Axes:
    """Throughput and latency of a classifier by what computes its transformers.

    Parameters
    ----------
    table : `texts_per_second`, `p50_ms`, `p99_ms` and `passes`, indexed by runtime
    n : texts that were predicted one by one
    """
    table = table.sort_values("texts_per_second")
    places = range(len(table))
    _, panels = new_panels(1, 2, size=(9.0, 1.4 + 0.34 * len(table)), sharey=True)
    first, second = panels[0]
    colours = [COLOURS[0] if passes else "0.7" for passes in table["passes"]]
    bars = first.barh(places, table["texts_per_second"], color=colours)
    first.bar_label(bars, [f"{value:,.0f}" for value in table["texts_per_second"]], padding=3)
    first.margins(x=0.15)
    names = [name if ok else f"{name} (fails)" for name, ok in zip(table.index, table["passes"])]
    set_rows(first, places, names)
    set_labels(first, title="Many texts together", xlabel="texts a second (more is better)")
    second.hlines(places, table["p50_ms"], table["p99_ms"], color=colours, linewidth=3)
    second.scatter(table["p50_ms"], places, color=colours, zorder=3)
    second.set_xlim(left=0)
    set_rows(second, places, names)
    title = f"One text: median to 99th percentile (n = {n:,})"
    set_labels(second, title=title, xlabel="milliseconds (less is better)")
    set_figure_title(first, "What does the classifier cost, from raw text to answer?")
    return first
