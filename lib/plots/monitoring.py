"""Figures of predictions that come in."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lib.plots.style import (
    COLOURS,
    error_bars,
    hide_spines,
    legend_outside,
    new_axes,
    set_labels,
    set_rows,
)


def drift(
    p_values: pd.DataFrame, *, limit: float, names: list[str], ax: Axes | None = None
) -> Axes:
    """How unlike the reference each batch is, a row a signal; what is reported bears a mark.

    Parameters
    ----------
    p_values : a row a batch, a column a signal; missing where it was not measured
    limit : below it a signal is reported
    names : of the batches
    """
    n, n_signals = p_values.shape
    ax = ax or new_axes(width=3 + 0.5 * max(6, n), height=1.4 + 0.32 * n_signals, grid=False)
    # the colour turns dark at the limit, whatever it is
    shade = np.log10(p_values.clip(lower=1e-300)) / np.log10(limit)
    ax.imshow(shade.T, cmap="Blues", vmin=0, vmax=2, aspect="auto")
    for batch, signal in np.argwhere((p_values < limit).to_numpy()):
        ax.text(batch, signal, "!", color="white", ha="center", va="center", weight="bold")
    ax.set_xticks(range(n), names, rotation=45, ha="right")
    set_rows(ax, range(n_signals), list(p_values))
    hide_spines(ax)
    title = "What differs from the reference, and since when? (! is an alarm)"
    set_labels(ax, title=title)
    return ax


def accuracy_by_batch(table: pd.DataFrame, *, expected: float, ax: Axes | None = None) -> Axes:
    """Estimated and measured accuracy of each batch, with their intervals.

    Parameters
    ----------
    table : by (batch, "estimated" or "measured"): `value`, `low`, `high`, `n`
    expected : accuracy on the reference
    """
    ax = ax or new_axes(height=3)
    ax.axhline(expected, color="0.5", linestyle=":", label="reference")
    for i, (kind, rows) in enumerate(table.groupby(level="accuracy")):
        shifted = rows.droplevel("accuracy")
        shifted.index = shifted.index + 0.15 * i
        style = {"color": COLOURS[i], "marker": "os"[i], "linestyle": "", "label": kind}
        error_bars(ax, shifted, "value", **style)
    ax.set_xticks(table.index.unique("batch"))
    legend_outside(ax)
    title = f"How many answers are right? (at most {table['n'].max():,.0f} texts a batch)"
    set_labels(ax, title=title, xlabel="batch", ylabel="share (bars: intervals)")
    return ax
