"""Figures of training, techniques, search, cross-validation and ensembles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lib.plots.evaluation import gains
from lib.plots.style import (
    COLOURS,
    distances,
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
        for (column, name), colour in zip(lines.items(), COLOURS):
            points = history.dropna(subset=[column])
            marker = "o" if len(points) < 25 else None
            options: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 3.5}
            ax.plot(points["step"], points[column], label=name, **options)
        if best_step is not None:
            ax.axvline(best_step, color="0.4", linestyle=":", linewidth=1)
        ax.set_title(title, loc="left")
    panels[0, 0].legend(frameon=False)
    for ax in panels[1]:
        ax.set_xlabel("training step")
    if best_step is None:
        step = int(history["step"].max()) if len(history) else 0
        title = f"Training so far: {step:,} steps"
    else:
        title = f"How did training go? (dotted: step {best_step}, the best checkpoint)"
    set_figure_title(panels[0, 0], title)
    return panels[0, 0]


def trick_ledger(ledger: pd.DataFrame, *, n: int, n_seeds: int, ax: Axes | None = None) -> Axes:
    """Gain in macro F1 of each technique with its interval, best first, and what it costs.

    Parameters
    ----------
    ledger : from `ledger.trick_ledger`
    """
    table = ledger.dropna(subset="gain")
    names = [f"{name} ({cost:.1f}x time)" for name, cost in table["cost"].items()]
    title = "What does each technique gain over the plain recipe?"
    return gains(
        table.set_axis(names),
        title=f"{title} (n = {n:,} rows, {n_seeds} seeds)",
        xlabel="gain in macro F1 (bars: intervals that hold together, over seeds and rows)",
        ax=ax,
    )


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
    errors = distances(compared, "macro_f1").T
    names = []
    for y, ((name, row), error) in enumerate(zip(compared.iterrows(), errors)):
        colour = COLOURS[0] if row["chosen"] else "0.35"
        dots = scores.loc[scores["member"] == name, "macro_f1"]
        ax.plot(dots, np.full(len(dots), y + 0.22), "o", color=colour, alpha=0.5, markersize=4)
        options: dict[str, Any] = {"fmt": "s", "color": colour, "capsize": 3, "markersize": 5}
        ax.errorbar(row["macro_f1"], y, xerr=error[:, None], **options)
        names.append(short(f"{name} (chosen)" if row["chosen"] else name))
    set_rows(ax, range(len(compared)), names)
    ax.set_ylim(len(compared) - 0.4, -0.4)
    n_folds = len(scores) // len(compared)
    set_labels(
        ax,
        title=f"Cross-validation (n = {n:,} texts, {n_folds} folds)",
        xlabel="macro F1 (dots: folds; squares: mean with its corrected 95 % interval)",
    )
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
    set_labels(
        ax,
        title=f"What did the search find? (macro F1 on n = {n:,} texts)",
        xlabel="trial",
        ylabel="macro F1",
        xlim=(0.5, len(trials) + 0.5),
    )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


def importances(shares: dict[str, float], *, n_trials: int, ax: Axes | None = None) -> Axes:
    """Bars of the share of the variance of the values that each searched setting explains."""
    ax = ax or new_axes(height=1.0 + 0.32 * len(shares))
    values = list(shares.values())
    horizontal_bars(ax, values, list(shares), [f"{share:.0%}" for share in values])
    set_labels(
        ax,
        title=f"Which settings matter? (fANOVA, {n_trials} complete trials)",
        xlabel="share of the variance between trials",
        xlim=(0, max([0.05, *values]) * 1.15),
    )
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
    ax = ax or new_axes(width=min(9.0, 3.5 + 1.5 * len(settings)), height=3.4, grid=False)
    complete = trials[trials["state"] == "COMPLETE"].sort_values("value", kind="stable")
    values = complete["value"]
    goodness = (values - values.min()) / max(values.max() - values.min(), 1e-9)
    shades = plt.get_cmap("cividis_r")(0.05 + 0.95 * goodness)
    axes = [_vertical_axis(complete[key], log=key in logarithmic) for key in settings]
    axes.append(_vertical_axis(values, log=False, even=False))
    for line, shade in zip(np.column_stack([heights for heights, _ in axes]), shades):
        ax.plot(line, color=shade, linewidth=1.4, alpha=0.85)
    box = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.8}
    for x, (_, ticks) in enumerate(axes):
        ax.axvline(x, color="0.3", linewidth=1)
        for height, text in ticks.items():
            ax.text(x + 0.04, height, text, fontsize=8, va="center", bbox=box)
    names = [wrapped(key.replace("_", " ")) for key in settings]
    ax.set_xticks(range(len(axes)), [*names, "macro F1"])
    ax.set_yticks([])
    hide_spines(ax)
    title = f"Which settings go together? ({len(complete)} complete trials; "
    set_labels(
        ax,
        title=title + "the better, the darker)",
        xlim=(-0.1, len(settings) + 0.5),
        ylim=(-0.06, 1.06),
    )
    return ax


def _vertical_axis(
    values: pd.Series, *, log: bool, even: bool = True
) -> tuple[np.ndarray, dict[float, str]]:
    """Return the heights of values on a vertical axis, 0..1, and its ticks: height -> name.

    Words are spaced evenly, and so are at most five values where `even` is set.
    """
    values = values.astype(object).where(values.notna(), "none")
    kinds = sorted(values.unique(), key=lambda kind: (isinstance(kind, str), kind))
    words = any(isinstance(kind, str | bool) for kind in kinds)
    if words or (even and len(kinds) <= 5):
        steps = np.linspace(0, 1, len(kinds)) if len(kinds) > 1 else [0.5]
        names = [kind if isinstance(kind, str | bool) else f"{kind:g}" for kind in kinds]
        heights = values.map(dict(zip(kinds, steps))).to_numpy(dtype=float)
        return heights, {step: short(name, 12) for step, name in zip(steps, names)}
    scaled = values.astype(float)
    if log:
        scaled = np.log(scaled)
    heights = (scaled - scaled.min()) / max(float(np.ptp(scaled)), 1e-12)
    return heights.to_numpy(), {0.0: f"{values.min():.3g}", 1.0: f"{values.max():.3g}"}


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
    scores = table["macro_f1"]
    error = distances(table, "macro_f1")
    options: dict[str, Any] = {"fmt": "o", "color": COLOURS[0], "capsize": 3}
    ax.errorbar(table.index, scores, yerr=error, label="measured", **options)
    sizes = [*table.index, 2 * table.index.max()]
    x = np.geomspace(min(sizes), sizes[-1], 60)
    fitted = x[x <= sizes[-1] / 2]
    expected = x[x >= sizes[-1] / 2]
    ax.plot(fitted, law(fitted), "-", color=COLOURS[1], label="power law")
    label = "expected, up to twice as many texts"
    ax.plot(expected, law(expected), "--", color=COLOURS[1], label=label)
    ax.legend(frameon=False, loc="lower right")
    set_labels(
        ax,
        title=f"TF-IDF by training size (n = {n:,} held-out texts)",
        xlabel="training texts (logarithmic)",
        ylabel="macro F1 (bars: 95 %)",
        xscale="log",
    )
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
    error = distances(curve, "gain")
    ax.errorbar(curve.index, curve["gain"], yerr=error, fmt="o-", color=COLOURS[0], capsize=3)
    ax.axhline(0, color="0.2", linewidth=1)
    first, *others = curve["member"]
    names = [wrapped(first), *(wrapped(f"+ {name}") for name in others)]
    ax.set_xticks(curve.index, names)
    ax.set_xlim(0.6, len(curve) + 0.4)
    set_labels(
        ax,
        title=f"What does each further member add? (n = {n:,} texts)",
        xlabel="member that joins",
        ylabel="gain in macro F1 (bars: 95 %)",
    )
    return ax
