"""Figures of the label review: doubtful labels, detectors of label errors, what a review finds."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lib.plots.style import (
    COLOURS,
    error_bars_across,
    legend_outside,
    new_axes,
    new_panels,
    set_figure_title,
    set_labels,
    set_rows,
)


def issue_scores(scores: pd.Series, flagged: pd.Series, *, ax: Axes | None = None) -> Axes:
    """Histogram of label-issue scores on a logarithmic count axis, flagged rows apart."""
    ax = ax or new_axes(height=3.0)
    parts = [scores[~flagged], scores[flagged]]
    names = ["not flagged", f"flagged ({flagged.sum():,})"]
    bins = np.linspace(0, 1, 41).tolist()
    ax.hist(parts, bins, stacked=True, color=[COLOURS[5], COLOURS[1]], label=names)
    title = f"How doubtful are the labels? (n = {len(scores):,})"
    set_labels(ax, title=title, ylabel="rows (logarithmic)", yscale="log")
    ax.set_xlabel("1 - out-of-fold probability of the given label")
    ax.legend(frameon=False)
    return ax


def detectors(table: pd.DataFrame, *, n: int, n_seeds: int) -> Axes:
    """AUPRC of each detector of planted label errors, by rate and kind of noise.

    Parameters
    ----------
    table : from `laboratory.with_intervals`
    """
    by_kind = table.groupby("kind", sort=False)
    means = table.groupby("detector")["value"].mean()
    order = list(means.sort_values().index)
    size = (9.0, 1.6 + 0.42 * len(order))
    _, panels = new_panels(1, len(by_kind), size=size, sharex=True, sharey=True)
    for (kind, rows), ax in zip(by_kind, panels[0]):
        _detectors_by_rate(ax, rows, order)
        set_labels(ax, title=f"{kind} errors", xlabel="AUPRC (1 is perfect)", xlim=(0, 1))
        set_rows(ax, range(len(order)), order)
    legend_outside(panels[0, -1])
    title = f"Which detector finds planted label errors? (n = {n:,} rows, {n_seeds} seeds; "
    set_figure_title(panels[0, 0], title + "bars: 95 % intervals over seeds)")
    return panels[0, 0]


def _detectors_by_rate(ax: Axes, table: pd.DataFrame, order: list[str]) -> None:
    by_rate = table.groupby("rate")
    for i, (rate, scores) in enumerate(by_rate):
        rows = scores.set_index("detector").reindex(order)
        offset = (i + 0.5) / len(by_rate) - 0.5
        positions = np.arange(len(order)) + 0.6 * offset
        label = f"{rate:.0%} wrong"
        points = {"fmt": "o", "color": COLOURS[i % len(COLOURS)], "markersize": 4}
        error_bars_across(ax, rows, "value", positions, capsize=2, label=label, **points)
