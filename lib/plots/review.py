"""Figures of the label review: doubtful labels, detectors of label errors, what a review finds."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lib.plots.style import (
    COLOURS,
    THOUSANDS,
    distances,
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
    ax.hist(
        [scores[~flagged], scores[flagged]],
        bins=np.linspace(0, 1, 41).tolist(),
        stacked=True,
        color=[COLOURS[5], COLOURS[1]],
        label=["not flagged", f"flagged ({int(flagged.sum()):,})"],
    )
    set_labels(
        ax,
        yscale="log",
        title=f"How doubtful are the labels? (n = {len(scores):,})",
        xlabel="1 - out-of-fold probability of the given label",
        ylabel="rows (logarithmic)",
    )
    ax.legend(frameon=False)
    return ax


def detectors(table: pd.DataFrame, *, n: int, n_seeds: int) -> Axes:
    """AUPRC of each detector of planted label errors, by rate and kind of noise.

    Parameters
    ----------
    table : from `laboratory.with_intervals`
    """
    kinds = table["kind"].unique()
    order = table.groupby("detector")["value"].mean().sort_values().index.tolist()
    size = (9.0, 1.6 + 0.42 * len(order))
    _, panels = new_panels(1, len(kinds), size=size, sharex=True, sharey=True, layout="constrained")
    for kind, ax in zip(kinds, panels[0]):
        _detectors_by_rate(ax, table[table["kind"] == kind], order, sorted(table["rate"].unique()))
        set_labels(ax, title=f"{kind} errors", xlabel="AUPRC (1 is perfect)", xlim=(0, 1))
        set_rows(ax, range(len(order)), order)
    legend_outside(panels[0, -1])
    title = f"Which detector finds planted label errors? (n = {n:,} rows, {n_seeds} seeds; "
    set_figure_title(panels[0, 0], title + "bars: 95 % intervals over seeds)")
    return panels[0, 0]


def _detectors_by_rate(ax: Axes, table: pd.DataFrame, order: list[str], rates: list[float]) -> None:
    for position, rate in enumerate(rates):
        rows = table[table["rate"] == rate].set_index("detector").reindex(order)
        ax.errorbar(
            rows["value"],
            np.arange(len(order)) + 0.6 * ((position + 0.5) / len(rates) - 0.5),
            xerr=distances(rows, "value"),
            fmt="o",
            color=COLOURS[position % len(COLOURS)],
            capsize=2,
            markersize=4,
            label=f"{rate:.0%} wrong",
        )


def expected_yield(
    table: pd.DataFrame, *, k: int, rate: float, n_seeds: int, ax: Axes | None = None
) -> Axes:
    """Real errors to expect among the first rows of a ranking, and where the queue ends.

    Parameters
    ----------
    table : from `review_budget.expected_yield`
    k : rows in the queue
    """
    ax = ax or new_axes(height=3.0)
    error = distances(table, "errors")
    ax.errorbar(table.index, table["errors"], yerr=error, fmt="o-", color=COLOURS[0], capsize=3)
    for rows, row in table.iterrows():
        ax.annotate(
            f"{row['recall']:.0%} found",
            (rows, row["errors"]),
            xytext=(0, 14),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color="0.3",
        )
    ax.axvline(max(k, 1), color=COLOURS[1], linestyle="--", label=f"the queue: {k:,} rows")
    ax.legend(frameon=False, loc="upper left")
    title = f"What does looking find? (read off {rate:.0%} of planted errors; {n_seeds} seeds, "
    set_labels(
        ax,
        title=title + "bars: 95 % intervals over them)",
        xlabel="rows looked at, the most doubtful first (logarithmic)",
        ylabel="real errors among them",
        xscale="log",
    )
    ax.xaxis.set_major_formatter(THOUSANDS)
    return ax
