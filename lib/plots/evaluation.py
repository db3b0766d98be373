"""Figures of scores, confusions, calibration and selective prediction."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.ticker import PercentFormatter

from lib.plots.style import (
    COLOURS,
    MARKERS,
    distances,
    heat_map,
    hide_spines,
    legend_outside,
    line_styles,
    new_axes,
    new_panels,
    set_figure_title,
    set_labels,
    set_rows,
    short,
)

# classes of a confusion matrix whose cells have numbers, whose columns have names
MAX_NUMBERED, MAX_NAMED = 15, 60
MIN_ROWS_IN_BIN = 10  # for the share of a bin to be drawn
# verdict on a gain -> colour and marker
VERDICTS = {"better": (COLOURS[2], "^"), "worse": (COLOURS[1], "v"), "inconclusive": ("0.45", "o")}


def scores_with_intervals(
    scores: pd.DataFrame,
    *,
    title: str,
    xlabel: str = "score (bars: intervals over rows)",
    ax: Axes | None = None,
) -> Axes:
    """Points with interval bars: `scores` has `value`, `low`, `high`, rows by (metric, model)."""
    groups = scores.groupby(level=0, sort=False)
    ax = ax or new_axes(height=1.0 + 0.2 * (len(scores) + len(groups)))
    models = scores.index.get_level_values(1).unique()
    styles = {}
    for i, model in enumerate(models):
        styles[model] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
    ticks = []
    y = 0.0
    for _, rows in groups:
        ticks.append(y + (len(rows) - 1) * 0.35 / 2)
        for ((_, model), value), error in zip(rows["value"].items(), distances(rows, "value").T):
            options: dict[str, Any] = {"capsize": 3, "markersize": 5, **styles[model]}
            ax.errorbar(value, y, xerr=error[:, None], **options)
            y += 0.35
        y += 0.35
    handles = [
        plt.Line2D([], [], linestyle="", label=short(model), **style)
        for model, style in styles.items()
    ]
    legend_outside(ax, handles=handles)
    set_rows(ax, ticks, [short(metric) for metric in groups.groups])
    ax.set_ylim(y - 0.35, -0.35)
    set_labels(ax, title=title, xlabel=xlabel)
    return ax


def gains(table: pd.DataFrame, *, title: str, xlabel: str, ax: Axes | None = None) -> Axes:
    """A `gain` with `low`, `high` and `verdict` for each row of a table, best first."""
    table = table.sort_values("gain", kind="stable")
    ax = ax or new_axes(height=1.2 + 0.34 * len(table))
    errors = distances(table, "gain").T
    for y, (gain, verdict, error) in enumerate(zip(table["gain"], table["verdict"], errors)):
        colour, marker = VERDICTS[verdict]
        options: dict[str, Any] = {"fmt": marker, "color": colour, "capsize": 3, "markersize": 5}
        ax.errorbar(gain, y, xerr=error[:, None], **options)
    ax.axvline(0, color="0.2", linewidth=1)
    handles = []
    for verdict, (colour, marker) in VERDICTS.items():
        handle = plt.Line2D([], [], linestyle="", color=colour, marker=marker, label=verdict)
        handles.append(handle)
    legend_outside(ax, handles=handles)
    set_rows(ax, range(len(table)), [short(name, 60) for name in table.index])
    ax.locator_params(axis="x", nbins=4)  # beside long names there is little room
    set_labels(ax, title=title, xlabel=xlabel, ylim=(-0.6, len(table) - 0.4))
    return ax


def detectable_gains(table: pd.DataFrame, *, sizes: pd.Series, ax: Axes | None = None) -> Axes:
    """Minimum detectable gain in accuracy, a line a split.

    Parameters
    ----------
    table : a column a split; indexed by the share of rows where one of two models alone is right
    sizes : rows of each split; splits of one size share a line
    """
    ax = ax or new_axes(height=2.8)
    for (n, splits), style in zip(sizes.groupby(sizes).groups.items(), line_styles()):
        label = f"{', '.join(splits)} (n = {n:,})"
        ax.plot(100 * table.index, 100 * table[splits[0]], label=label, **style)
    ax.legend(frameon=False, loc="upper left")
    set_labels(
        ax,
        title="How large must a gain be to show? (paired test, 80 % power)",
        xlabel="rows where one model alone is right (%)",
        ylabel="gain in accuracy (points)",
    )
    ax.set_ylim(bottom=0)
    return ax


def confusion_matrix(counts: pd.DataFrame, *, title: str, ax: Axes | None = None) -> Axes:
    """Confusion counts with shares of the true class as shades.

    More than `MAX_NUMBERED` classes have no numbers, and classes that are taken for one another
    stand together. More than `MAX_NAMED` have their names at the side alone.
    """
    n = int(counts.to_numpy().sum())
    title = f"{title} (n = {n:,})"
    xlabel = "predicted"
    if len(counts) <= MAX_NUMBERED:
        size = 2.6 + 0.7 * len(counts)
        ax = ax or new_axes(width=size + 1.6, height=size, grid=False)
        heat_map(ax, counts, shares=True)
    else:
        size = 5.5 + 0.085 * len(counts)
        ax = ax or new_axes(width=size + 1.0, height=size, grid=False)
        # constrained layout would measure every name several times
        ax.figure.set_layout_engine("none")  # type: ignore[union-attr]
        _shades(ax, counts)
        title += "; confused classes stand together"
    if len(counts) > MAX_NAMED:
        xlabel += ", in the order of the labels"
    set_labels(ax, title=title, xlabel=xlabel, ylabel="label")
    return ax


def _shades(ax: Axes, counts: pd.DataFrame) -> None:
    """Draw shares of the true class as shades alone, small ones darker than in proportion."""
    order = _by_confusion(counts.to_numpy(dtype=float))
    values = counts.to_numpy(dtype=float)[np.ix_(order, order)]
    shares = values / np.maximum(1, values.sum(axis=1, keepdims=True))
    image = ax.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.5, fraction=0.03, pad=0.02)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1))
    bar.set_label("share of the label's rows")
    bar.outline.set_visible(False)  # type: ignore[operator]
    names = [short(counts.index[i]) for i in order]
    size = 7 if len(names) <= MAX_NAMED else 6
    columns = names if len(names) <= MAX_NAMED else []
    ax.set_xticks(range(len(columns)), columns, rotation=90, fontsize=size)
    ax.set_yticks(range(len(names)), names, fontsize=size)
    ax.tick_params(length=0)
    hide_spines(ax)


def _by_confusion(counts: np.ndarray) -> np.ndarray:
    """Return an order of the classes in which those are near that are taken for one another.

    It is the order of the leaves of an average linkage; the closeness of two classes is the mean of
    the two shares that one is taken for the other.
    """
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    distance = 1 - (shares + shares.T) / 2
    np.fill_diagonal(distance, 0)
    linkage = hierarchy.linkage(squareform(distance), "average", optimal_ordering=True)
    return hierarchy.leaves_list(linkage)


def accuracy_by_length(table: pd.DataFrame, *, overall: float, ax: Axes | None = None) -> Axes:
    """Accuracy in bins of length, with 95 % Wilson intervals."""
    ax = ax or new_axes(height=3.0)
    error = distances(table, "accuracy")
    x = range(len(table))
    ax.errorbar(x, table["accuracy"], yerr=error, fmt="o", color=COLOURS[0], capsize=3)
    ax.axhline(overall, color="0.5", linestyle=":", label=f"all rows: {overall:.3f}")
    ax.set_xticks(x, [f"{name}\n(n = {n:,})" for name, n in table["n"].items()])
    title = "Is it weaker on short or long texts? (bars: 95 % Wilson interval)"
    set_labels(ax, title=title, xlabel="words", ylabel="accuracy")
    ax.legend(frameon=False)
    return ax


def reliability(bins: dict[str, pd.DataFrame], *, ax: Axes | None = None) -> Axes:
    """Accuracy against confidence, a line a model, from `metrics.reliability_bins`.

    Bins of few rows are left out where every model has larger ones; a point grows with its rows.
    """
    ax = ax or new_axes(width=5.5, height=4.6)
    ax.plot([0, 1], [0, 1], color="0.5", linestyle=":", label="as sure as right")
    fullest = min(table["n"].max() for table in bins.values())
    min_rows = MIN_ROWS_IN_BIN if fullest >= MIN_ROWS_IN_BIN else 1
    for (model, table), colour, marker in zip(bins.items(), COLOURS, MARKERS):
        n = int(table["n"].sum())
        shown = table[table["n"] >= min_rows]
        points = (shown["confidence"], shown["accuracy"])
        ax.plot(*points, color=colour, linewidth=1)
        ax.scatter(
            *points, s=8 + 150 * shown["n"] / n, color=colour, marker=marker, label=short(model)
        )
    set_labels(
        ax,
        title=f"Is a model as sure as it is right? (n = {n:,}; bins of {min_rows} or more)",
        xlabel="mean confidence in a bin (larger: more rows)",
        ylabel="share right in a bin",
        xlim=(0, 1.02),
        ylim=(0, 1.02),
    )
    ax.legend(frameon=False)
    return ax


def conformal(tables: dict[str, pd.DataFrame], *, n: int) -> Axes:
    """Coverage that prediction sets promised and kept, and what it costs in classes named.

    Parameters
    ----------
    tables : by method, each from `selective.conformal_table`
    """
    _, panels = new_panels(1, 2, size=(9, 3.6))
    kept, cost = panels[0]
    promised = np.unique([coverage for table in tables.values() for coverage in table.index])
    kept.plot([promised[0], 1], [promised[0], 1], color="0.5", linestyle=":", label="as promised")
    for i, ((name, table), style) in enumerate(zip(tables.items(), line_styles())):
        marker = MARKERS[i % 4]
        error = distances(table, "covered")
        x = table.index + 0.003 * i
        kept.errorbar(x, table["covered"], yerr=error, fmt=marker, capsize=3, **style)
        kept.plot([], [], marker=marker, label=name, **style)
        cost.plot(table.index, table["mean_size"], marker=marker, label=name, **style)
    held = "texts whose set holds their class"
    set_labels(kept, title="Do the sets hold the right class?", ylabel=held)
    set_labels(cost, title="How many classes do they name?", ylabel="classes in a set (mean)")
    for ax in (kept, cost):
        ax.set_xlabel("coverage promised")
        ax.set_xticks(promised)
        ax.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    kept.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    kept.legend(frameon=False)
    set_figure_title(kept, f"Prediction sets (n = {n:,} texts; bars: 95 % intervals)")
    return kept


def accuracy_answered(tables: dict[str, pd.DataFrame], *, n: int, ax: Axes | None = None) -> Axes:
    """Accuracy on the texts that a model is surest of, by the share of them.

    Parameters
    ----------
    tables : by model, each from `selective.accuracy_coverage_curve`
    """
    ax = ax or new_axes(height=3.2)
    for (name, table), style, marker in zip(tables.items(), line_styles(), MARKERS * 8):
        options: dict[str, Any] = {"marker": marker, "markersize": 4, "label": short(name), **style}
        ax.plot(table.index, table["accuracy"], **options)
        shade: dict[str, Any] = {"color": style["color"], "alpha": 0.12, "linewidth": 0}
        ax.fill_between(table.index, table["low"], table["high"], **shade)
    ax.invert_xaxis()
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.legend(frameon=False, loc="lower right")
    title = "How right is it where it answers only what it is surest of?"
    set_labels(
        ax,
        title=f"{title} (n = {n:,}; shades: 95 % intervals)",
        xlabel="share of texts that are answered",
        ylabel="accuracy on them",
    )
    return ax
