"""Figures of training, techniques, search, cross-validation and ensembles."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lib.plots.evaluation import gains
from lib.plots.style import (
    COLOURS,
    error_bars,
    error_bars_across,
    hide_spines,
    horizontal_bars,
    legend_outside,
    new_axes,
    new_panels,
    set_figure_title,
    set_labels,
    set_rows,
    short,
    wrapped,
)

CURVES = {  # title of a panel -> its lines, column -> name
    "Loss": {"loss": "training", "eval_loss": "validation"},
    "Macro F1 on validation": {"eval_macro_f1": ""},
    "Learning rate": {"learning_rate": ""},
    "Gradient norm": {"grad_norm": ""},
}


def training_curves(history: pd.DataFrame, *, best_step: int | None = None) -> Axes:
    """Loss, macro F1, learning rate and gradient norm by step.

    A line marks the best checkpoint, once it is known.
    """
    _, panels = new_panels(2, 2, size=(9, 5), sharex=True)
    for ax, (title, lines) in zip(panels.flat, CURVES.items()):
        ax.set_title(title, loc="left")
        for (column, name), colour in zip(lines.items(), COLOURS):
            points = history.dropna(subset=[column])
            [line] = ax.plot(points["step"], points[column], label=name, color=colour)
            if len(points) < 25:
                line.set(marker="o", markersize=3.5)
        if best_step is not None:
            ax.axvline(best_step, color="0.4", linestyle=":", linewidth=1)
    first = panels[0, 0]
    first.legend(frameon=False)
    for ax in panels[1]:
        ax.set_xlabel("training step")
    title = f"How did training go? (dotted: step {best_step}, the best checkpoint)"
    if best_step is None:
        step = int(max(history["step"], default=0))
        title = f"Training so far: {step:,} steps"
    set_figure_title(first, title)
    return first


def trick_ledger(ledger: pd.DataFrame, *, n: int, n_seeds: int, ax: Axes | None = None) -> Axes:
    """Gain in macro F1 of each technique with its interval, best first, and what it costs.

    Parameters
    ----------
    ledger : from `ledger.trick_ledger`
    """
    table = ledger.dropna(subset="gain")
    table.index = [f"{name} ({cost:.1f}x time)" for name, cost in table["cost"].items()]
    title = "What does each technique gain over the plain recipe?"
    title += f" (n = {n:,} rows, {n_seeds} seeds)"
    xlabel = "gain in macro F1 (bars: intervals that hold together, over seeds and rows)"
    return gains(table, title=title, xlabel=xlabel, ax=ax)


def fold_scores(
    scores: pd.DataFrame, compared: pd.DataFrame, *, n: int, ax: Axes | None = None
) -> Axes:
    """Macro F1 of each fold (dots) and their mean with its interval, best member first.

    Parameters
    ----------
    scores : `member` and `macro_f1`, a row a fold
    compared : from `cross_validation.compare`
    """
    ax = ax or new_axes(height=1.2 + 0.5 * len(compared))
    names = []
    for y, (name, is_chosen) in enumerate(compared["chosen"].items()):
        colour = COLOURS[0] if is_chosen else "0.35"
        names.append(short(f"{name} (chosen)" if is_chosen else name))
        dots = scores.loc[scores["member"] == name, "macro_f1"]
        heights = [y + 0.22] * len(dots)
        ax.plot(dots, heights, "o", color=colour, alpha=0.5, markersize=4)
        bars = {"fmt": "s", "color": colour, "capsize": 3, "markersize": 5}
        error_bars_across(ax, compared.iloc[[y]], "macro_f1", [y], **bars)
    set_rows(ax, range(len(compared)), names)
    ax.set_ylim(len(compared) - 0.4, -0.4)
    ax.set_xlabel("macro F1 (dots: folds; squares: mean with its corrected 95 % interval)")
    n_folds = len(scores) // len(compared)
    set_labels(ax, title=f"Cross-validation (n = {n:,} texts, {n_folds} folds)")
    return ax


def search_history(trials: pd.DataFrame, *, n: int, ax: Axes | None = None) -> Axes:
    """Macro F1 of each trial, the best so far, and where pruned ones stood.

    Parameters
    ----------
    trials : from `search.search`
    n : rows that gave the values
    """
    ax = ax or new_axes(height=3.2)
    trials = trials[trials["state"] != "FAIL"]
    trials = trials.set_axis(range(1, len(trials) + 1))
    complete = trials.loc[trials["state"] == "COMPLETE", "value"]
    pruned = trials.loc[trials["state"] == "PRUNED", "stop_macro_f1"]
    best = trials["value"].cummax().ffill()
    ax.step(best.index, best, where="post", color=COLOURS[1], label="best so far")
    label = f"complete ({len(complete)})"
    ax.plot(complete.index, complete, "o", color=COLOURS[0], markersize=5, label=label)
    if len(pruned):
        label = f"pruned ({len(pruned)}), at its last look"
        ax.plot(pruned.index, pruned, "x", color="0.45", label=label)
    legend_outside(ax)
    title = f"What did the search find? (macro F1 on n = {n:,} texts)"
    set_labels(ax, title=title, xlabel="trial", ylabel="macro F1")
    ax.set_xlim(0.5, len(trials) + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


def importances(shares: dict[str, float], *, n_trials: int, ax: Axes | None = None) -> Axes:
    """Bars of the share of the variance of the values that each searched setting explains."""
    ax = ax or new_axes(height=1.0 + 0.32 * len(shares))
    values = list(shares.values())
    texts = [f"{share:.0%}" for share in values]
    horizontal_bars(ax, values, list(shares), texts)
    title = f"Which settings matter? (fANOVA, {n_trials} complete trials)"
    set_labels(ax, title=title, xlabel="share of the variance between trials")
    ax.set_xlim(0, max([0.05, *values]) * 1.15)
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    return ax


def parallel_coordinates(
    trials: pd.DataFrame,
    settings: Sequence[str],
    *,
    logarithmic: Sequence[str] = (),
    ax: Axes | None = None,
) -> Axes:
    """A line a complete trial through its settings to its value; the better, the darker.

    Settings with few values are spaced evenly.
    """
    width = min(9.0, 3.5 + 1.5 * len(settings))
    ax = ax or new_axes(width=width, height=3.4, grid=False)
    complete = trials[trials["state"] == "COMPLETE"].sort_values("value", kind="stable")
    values = complete["value"]
    shades = plt.get_cmap("cividis_r")(0.05 + 0.95 * _to_unit_range(values))
    axes = [_vertical_axis(complete[key], log=key in logarithmic) for key in settings]
    axes.append(_vertical_axis(values, even=False))
    lines = np.column_stack([heights for heights, _ in axes])
    for line, shade in zip(lines, shades):
        ax.plot(line, color=shade, linewidth=1.4, alpha=0.85)
    box = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.8}
    for x, (_, ticks) in enumerate(axes):
        ax.axvline(x, color="0.3", linewidth=1)
        for height, text in ticks.items():
            ax.text(x + 0.04, height, text, fontsize=8, va="center", bbox=box)
    names = [wrapped(key.replace("_", " ")) for key in settings]
    ax.set_xticks(range(len(axes)), [*names, "macro F1"])
    ax.set_yticks([])
    ax.set_xlim(-0.1, len(settings) + 0.5)
    ax.set_ylim(-0.06, 1.06)
    hide_spines(ax)
    title = "Which settings go together? "
    title += f"({len(complete)} complete trials; the better, the darker)"
    set_labels(ax, title=title)
    return ax


def _vertical_axis(
    values: pd.Series, *, log: bool = False, even: bool = True
) -> tuple[np.ndarray, dict[float, str]]:
    """Return the heights of values on a vertical axis, 0..1, and its ticks: height -> name.

    Words are spaced evenly, and so are at most five values where `even` is set.
    """
    values = values.astype(object).where(values.notna(), "none")
    kinds = sorted(values.unique(), key=lambda kind: (isinstance(kind, str), kind))
    words = any(isinstance(kind, str | bool) for kind in kinds)
    if words or (even and len(kinds) <= 5):
        return _evenly_spaced(values, kinds)
    scaled = values.astype(float)
    if log:
        scaled = np.log(scaled)
    ticks = {0.0: f"{values.min():.3g}", 1.0: f"{values.max():.3g}"}
    return _to_unit_range(scaled).to_numpy(), ticks


def _evenly_spaced(values: pd.Series, kinds: list) -> tuple[np.ndarray, dict[float, str]]:
    heights = dict.fromkeys(kinds, 0.5)
    if len(kinds) > 1:
        heights = dict(zip(kinds, np.linspace(0, 1, len(kinds))))
    ticks = {}
    for kind, height in heights.items():
        name = kind if isinstance(kind, str | bool) else f"{kind:g}"
        ticks[height] = short(name, 12)
    return values.map(heights).to_numpy(dtype=float), ticks


def _to_unit_range(values: pd.Series) -> pd.Series:
    """Shift and scale values to 0..1; equal values become 0."""
    width = values.max() - values.min()
    return (values - values.min()) / max(width, 1e-12)


def learning_curve(
    table: pd.DataFrame, law: Callable[[np.ndarray], np.ndarray], *, n: int, ax: Axes | None = None
) -> Axes:
    """Macro F1 by training size with its intervals, and the fitted law up to twice the largest.

    Parameters
    ----------
    table : from `learning_curve.learning_curve`
    law : training sizes -> macro F1
    n : held-out texts
    """
    ax = ax or new_axes(height=3.0)
    error_bars(ax, table, "macro_f1", fmt="o", label="measured")
    largest = table.index.max()
    x = np.geomspace(table.index.min(), 2 * largest, 60)
    fitted = x[x <= largest]
    expected = x[x >= largest]
    ax.plot(fitted, law(fitted), "-", color=COLOURS[1], label="power law")
    label = "expected, up to twice as many texts"
    ax.plot(expected, law(expected), "--", color=COLOURS[1], label=label)
    ax.legend(frameon=False, loc="lower right")
    title = f"TF-IDF by training size (n = {n:,} held-out texts)"
    set_labels(ax, title=title, ylabel="macro F1 (bars: 95 %)", xscale="log")
    ax.set_xlabel("training texts (logarithmic)")
    sizes = [*table.index, 2 * largest]
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.minorticks_off()
    return ax


def member_gains(curve: pd.DataFrame, *, n: int, ax: Axes | None = None) -> Axes:
    """Gain over the best member as further ones join a soft vote, with intervals.

    Parameters
    ----------
    curve : from `ensembles.gain_curve`
    """
    ax = ax or new_axes(height=2.8)
    error_bars(ax, curve, "gain", fmt="o-")
    ax.axhline(0, color="0.2", linewidth=1)
    first, *others = curve["member"]
    names = [wrapped(f"+ {name}") for name in others]
    ax.set_xticks(curve.index, [wrapped(first), *names])
    ax.set_xlim(0.6, len(curve) + 0.4)
    title = f"What does each further member add? (n = {n:,} texts)"
    set_labels(ax, title=title, xlabel="member that joins")
    ax.set_ylabel("gain in macro F1 (bars: 95 %)")
    return ax
