"""Figures of what a classifier makes of perturbed texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lib.plots.style import (
    COLOURS,
    error_bars,
    heat_map,
    new_axes,
    new_panels,
    set_figure_title,
    set_labels,
)

PANELS = 4  # in a row


def severity_curves(
    scores: pd.DataFrame, *, clean: float, n: int, raw: pd.DataFrame | None = None
) -> Axes:
    """Macro F1 against severity, a panel a kind of perturbation.

    Parameters
    ----------
    scores : by (kind, severity): `macro_f1`, `low`, `high`
    clean : macro F1 of the texts as they are
    n : texts
    raw : as `scores`, of the classifier without cleaning; its kinds alone are drawn then
    """
    kinds = (scores if raw is None else raw).index.unique("kind")
    n_rows = -(-len(kinds) // PANELS)
    columns = min(PANELS, len(kinds))
    size = (2.4 * columns + 0.6, 2.0 * n_rows + 0.8)
    figure, panels = new_panels(n_rows, columns, size=size, sharex=True, sharey=True)
    for kind, ax in zip(kinds, panels.flat):
        ax.axhline(clean, color="0.5", linestyle=":", label="texts as they are")
        error_bars(ax, scores.xs(kind), "macro_f1", marker="o", markersize=4, label="perturbed")
        if raw is not None:
            style: dict[str, Any] = {"color": COLOURS[1], "marker": "s", "markersize": 4}
            error_bars(ax, raw.xs(kind), "macro_f1", label="without cleaning", **style)
        set_labels(ax, title=kind.replace("_", " "))
    for ax in panels.flat[len(kinds) :]:
        ax.set_axis_off()
    ax = panels[0, 0]
    ax.set_xticks(sorted(scores.index.unique("severity")))
    for ax in panels[-1]:
        ax.set_xlabel("severity")
    figure.supylabel("macro F1", fontsize=10)
    figure.legend(
        *ax.get_legend_handles_labels(), loc="outside lower right", ncols=3, frameon=False
    )
    set_figure_title(
        ax, f"How far does the score fall as texts get worse? (n = {n:,}; bars: intervals)"
    )
    return ax


def flip_rates(flips: pd.Series, *, n: int, ax: Axes | None = None) -> Axes:
    """Share of answers that change, in per cent, by kind of perturbation and severity.

    Parameters
    ----------
    flips : by (kind, severity), 0..1
    """
    table = 100 * flips.unstack("severity")
    table = table.iloc[np.argsort(-table.max(axis=1), kind="stable")]
    table.index = table.index.str.replace("_", " ")
    ax = ax or new_axes(
        width=2.4 + 0.8 * table.shape[1], height=1.2 + 0.36 * len(table), grid=False
    )
    heat_map(ax, table)
    ax.set_aspect("auto")
    set_labels(ax, title=f"Which answers change? (% of {n:,} texts)", xlabel="severity")
    return ax
