"""Every figure: `plots.x(data, *, ax=None) -> Axes`; `plots.show(axes)` puts it into the notebook."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

COLOURS = [
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#F0E442",
    "#000000",
]  # Okabe and Ito 2008: safe for the colour-blind
LEAST_IN_BIN = 10  # rows of a bin, for its share to be drawn
STYLE: dict[str, Any] = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
}


def show(axes: Axes) -> None:
    """Display an Axes' figure with its title as the text for readers who cannot see it, and close it."""
    from IPython.display import display

    display(axes.figure, metadata=_alt_text(axes))
    plt.close(axes.figure)  # type: ignore[arg-type]


def live(draw: Callable[..., Axes]) -> Callable[..., None]:
    """Return a function that draws with `draw` in one place of the notebook: each call replaces the last figure."""
    from IPython.display import display

    place: list[Any] = []

    def redraw(*args: Any, **options: Any) -> None:
        axes = draw(*args, **options)
        if place:
            place[0].update(axes.figure, metadata=_alt_text(axes))
        else:
            place.append(display(axes.figure, display_id=True, metadata=_alt_text(axes)))
        plt.close(axes.figure)  # type: ignore[arg-type]

    return redraw


def _alt_text(axes: Axes) -> dict[str, Any]:
    figure = axes.figure
    titles = [figure.get_suptitle(), *(ax.get_title(loc="left") for ax in figure.axes)]
    return {
        "image/png": {
            "alt": "Figure: " + "; ".join(title.replace("\n", " ") for title in titles if title)
        }
    }


def class_balance(balance: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Bars of rows a class, from `profiling.label_balance`."""
    ax = ax or _axes(height=0.9 + 0.35 * len(balance))
    bars = ax.barh(range(len(balance)), balance["n"][::-1], color=COLOURS[0])
    ax.set_yticks(range(len(balance)), [_short(name) for name in balance.index[::-1]])
    ax.bar_label(
        bars,
        [f"{n:,} ({share:.1%})" for n, share in zip(balance["n"][::-1], balance["share"][::-1])],
        padding=3,
    )
    _label(
        ax,
        title=f"Rows a class (n = {balance['n'].sum():,})",
        xlabel="rows",
        xlim=(0, balance["n"].max() * 1.2),
    )
    ax.grid(axis="y", visible=False)
    return ax


def lengths(words: pd.Series, labels: pd.Series, *, ax: Axes | None = None) -> Axes:
    """Cumulative share of texts by length in words, one line a class, on a logarithmic axis."""
    ax = ax or _axes(height=3.6)
    for (name, values), style in zip(words.groupby(labels), _line_styles()):
        ordered = np.sort(values.clip(lower=1))
        ax.step(
            ordered,
            np.arange(1, len(ordered) + 1) / len(ordered),
            where="post",
            label=f"{_short(name)} (median {np.median(ordered):.0f})",
            **style,
        )
    _label(
        ax,
        xscale="log",
        title=f"How long are the texts? (n = {len(words):,})",
        xlabel="words (logarithmic)",
        ylabel="share of texts up to this length",
    )
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.legend(frameon=False, fontsize=9)
    return ax


def features_by_class(features: pd.DataFrame, labels: pd.Series, *, titles: dict[str, str]) -> Axes:
    """Box plots of several features by class, a panel each, in two columns where they are many; whiskers from the 5th to the 95th percentile."""
    columns = 1 if len(titles) <= 5 else 2
    rows = -(-len(titles) // columns)
    with plt.rc_context(STYLE):
        size = (4 + 4 * columns, 0.6 + (0.7 + 0.24 * labels.nunique()) * rows)
        figure, panels = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for ax in panels.flat[len(titles) :]:
        ax.remove()
    for ax, (column, title) in zip(panels.flat, titles.items()):
        groups = [
            (name, values.dropna().to_numpy())
            for name, values in features[column].groupby(labels.to_numpy())
        ][::-1]
        ax.boxplot(
            [values for _, values in groups],
            orientation="horizontal",
            whis=(5, 95),
            showfliers=False,
            widths=0.6,
            medianprops={"color": COLOURS[1]},
        )
        ax.set_yticks(range(1, len(groups) + 1), [_short(name) for name, _ in groups])
        ax.set_title(title, loc="left")
        ax.grid(axis="y", visible=False)
    figure.suptitle(
        f"Linguistic features by class (n = {len(features):,}; boxes: quartiles, whiskers: 5 % to 95 %)",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    return panels[0, 0]


def receipts(receipts: pd.DataFrame, *, n: int, ax: Axes | None = None) -> Axes:
    """Bars of the share of texts that each cleaning rule changed."""
    ax = ax or _axes(height=0.9 + 0.32 * len(receipts))
    table = receipts[::-1]
    bars = ax.barh(table.index, table["n_texts"] / n, color=COLOURS[0])
    ax.bar_label(
        bars,
        [
            f"{int(count):,} texts" + (f", {int(chars):+,} characters" if count else "")
            for count, chars in zip(table["n_texts"], -table["chars_removed"])
        ],
        padding=3,
        fontsize=9,
    )
    _label(
        ax,
        title=f"How often did each rule change a text? (n = {n:,})",
        xlabel="share of texts",
        xlim=(0, max(0.02, (table["n_texts"] / n).max()) * 1.6),
    )
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.set_xticks([tick for tick in ax.get_xticks() if 0 <= tick <= 1])
    ax.grid(axis="y", visible=False)
    return ax


def leak_matrices(matrices: dict[str, pd.DataFrame]) -> Axes:
    """Near-duplicate pairs by the splits of their rows, a panel a split; off the diagonal is a leak."""
    with plt.rc_context({**STYLE, "axes.grid": False}):
        _, panels = plt.subplots(1, len(matrices), figsize=(4 * len(matrices), 3.5))
    top = max(1, *(int(matrix.to_numpy().max()) for matrix in matrices.values()))
    for ax, (title, matrix) in zip(np.atleast_1d(panels), matrices.items()):
        _heat(ax, matrix, top=top)
        _label(ax, title=title, xlabel="split of the other text", ylabel="split of one text")
    return np.atleast_1d(panels)[0]


def issue_scores(scores: pd.Series, flagged: pd.Series, *, ax: Axes | None = None) -> Axes:
    """Histogram of label-issue scores on a logarithmic count axis, flagged rows apart."""
    ax = ax or _axes(height=3.0)
    bins = np.linspace(0, 1, 41).tolist()
    ax.hist(
        [scores[~flagged], scores[flagged]],
        bins=bins,
        stacked=True,
        color=[COLOURS[5], COLOURS[1]],
        label=["not flagged", f"flagged ({int(flagged.sum()):,})"],
    )
    _label(
        ax,
        yscale="log",
        title=f"How doubtful are the labels? (n = {len(scores):,})",
        xlabel="1 - out-of-fold probability of the given label",
        ylabel="rows (logarithmic)",
    )
    ax.legend(frameon=False)
    return ax


def detectors(table: pd.DataFrame, *, n: int, n_seeds: int) -> Axes:
    """AUPRC of each detector of planted label errors, by rate and kind of noise, from `laboratory.with_intervals`."""
    kinds, rates = list(dict.fromkeys(table["kind"])), sorted(set(table["rate"]))
    order = table.groupby("detector")["value"].mean().sort_values().index.tolist()
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            1,
            len(kinds),
            figsize=(9.0, 1.6 + 0.42 * len(order)),
            sharex=True,
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
    for kind, ax in zip(kinds, panels[0]):
        for place, rate in enumerate(rates):
            rows = (
                table[(table["kind"] == kind) & (table["rate"] == rate)]
                .set_index("detector")
                .reindex(order)
            )
            y = np.arange(len(order)) + 0.6 * ((place + 0.5) / len(rates) - 0.5)
            error = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
            ax.errorbar(
                rows["value"],
                y,
                xerr=error,
                fmt="o",
                color=COLOURS[place % len(COLOURS)],
                capsize=2,
                markersize=4,
                label=f"{rate:.0%} wrong",
            )
        _label(ax, title=f"{kind} errors", xlabel="AUPRC (1 is perfect)", xlim=(0, 1))
        ax.set_yticks(range(len(order)), order)
        ax.grid(axis="y", visible=False)
    panels[0][-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    title = f"Which detector finds planted label errors? (n = {n:,} rows, {n_seeds} seeds; bars: 95 % intervals over seeds)"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return panels[0][0]


def expected_yield(
    table: pd.DataFrame, *, k: int, rate: float, n_seeds: int, ax: Axes | None = None
) -> Axes:
    """Real errors to expect among the first rows of a ranking, from `depth.outlook`, and where the queue ends."""
    ax = ax or _axes(height=3.0)
    ax.errorbar(
        table.index,
        table["errors"],
        yerr=[table["errors"] - table["low"], table["high"] - table["errors"]],
        fmt="o-",
        color=COLOURS[0],
        capsize=3,
    )
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
    title = f"What does looking find? (read off {rate:.0%} of planted errors; {n_seeds} seeds, bars: 95 % intervals over them)"
    _label(
        ax,
        title=title,
        xlabel="rows looked at, the most doubtful first (logarithmic)",
        ylabel="real errors among them",
        xscale="log",
    )
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    return ax


def training_curves(history: pd.DataFrame, *, best_step: int | None = None) -> Axes:
    """Loss, macro F1, learning rate and gradient norm by step; a line marks the best checkpoint, once it is known."""
    panels_of = {
        "Loss": [("loss", "training"), ("eval_loss", "validation")],
        "Macro F1 on validation": [("eval_macro_f1", "validation")],
        "Learning rate": [("learning_rate", "")],
        "Gradient norm": [("grad_norm", "")],
    }
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(2, 2, figsize=(9, 5), sharex=True)
    for ax, (title, lines) in zip(panels.flat, panels_of.items()):
        for (column, name), colour in zip(lines, COLOURS):
            points = history.dropna(subset=[column])
            ax.plot(
                points["step"],
                points[column],
                color=colour,
                label=name,
                marker="o" if len(points) < 25 else None,
                markersize=3.5,
            )
        if best_step is not None:
            ax.axvline(best_step, color="0.4", linestyle=":", linewidth=1)
        ax.set_title(title, loc="left")
        if len(lines) > 1:
            ax.legend(frameon=False)
    for ax in panels[1]:
        ax.set_xlabel("training step")
    step = int(history["step"].max()) if len(history) else 0
    title = (
        f"Training so far: {step:,} steps"
        if best_step is None
        else f"How did training go? (dotted: step {best_step}, the best checkpoint)"
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return panels[0, 0]


def scores_with_intervals(scores: pd.DataFrame, *, title: str, ax: Axes | None = None) -> Axes:
    """Points with interval bars: `scores` has `value`, `low`, `high`, rows by (metric, model)."""
    groups = scores.groupby(level=0, sort=False)
    ax = ax or _axes(height=0.9 + 0.28 * (len(scores) + len(groups)))
    models = list(dict.fromkeys(scores.index.get_level_values(1)))
    ticks, names, y = [], [], 0.0
    for metric, rows in groups:
        ticks.append(y + (len(rows) - 1) * 0.35 / 2)
        names.append(_short(str(metric)))
        for (_, model), row in rows.iterrows():
            colour = COLOURS[models.index(model) % len(COLOURS)]
            ax.errorbar(
                row["value"],
                y,
                xerr=[
                    [max(0, row["value"] - row["low"])],
                    [max(0, row["high"] - row["value"])],
                ],  # a corrected interval may lie beside its value
                fmt="os^D"[models.index(model) % 4],
                color=colour,
                capsize=3,
                markersize=5,
            )
            y += 0.35
        y += 0.35
    handles = [
        plt.Line2D(
            [], [], marker="os^D"[i % 4], linestyle="", color=COLOURS[i % len(COLOURS)], label=model
        )
        for i, model in enumerate(models)
    ]
    ax.legend(handles=handles, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.set_yticks(ticks, names)
    ax.set_ylim(y - 0.35, -0.35)
    _label(ax, title=title, xlabel="score (bars: intervals over rows)")
    ax.grid(axis="y", visible=False)
    return ax


def detectable_gains(table: pd.DataFrame, *, sizes: pd.Series, ax: Axes | None = None) -> Axes:
    """Smallest gain in accuracy that a split can show (columns), by the share of rows where one of two models alone is right (index)."""
    ax = ax or _axes(height=2.8)
    for (n, parts), style in zip(
        sizes.groupby(sizes).groups.items(), _line_styles()
    ):  # splits of one size share a line
        ax.plot(
            100 * table.index,
            100 * table[parts[0]],
            label=f"{', '.join(parts)} (n = {n:,})",
            **style,
        )
    ax.legend(frameon=False, loc="upper left")
    _label(
        ax,
        title="How large must a gain be to show? (paired test, 80 % power)",
        xlabel="rows where one model alone is right (%)",
        ylabel="gain in accuracy (points)",
    )
    ax.set_ylim(bottom=0)
    return ax


def trick_ledger(ledger: pd.DataFrame, *, n: int, n_seeds: int, ax: Axes | None = None) -> Axes:
    """Gain in macro F1 of each technique with its interval, best first, and what it costs, from `ledger.trick_ledger`."""
    table = ledger.dropna(subset="gain")
    title = (
        f"What does each technique gain over the plain recipe? (n = {n:,} rows, {n_seeds} seeds)"
    )
    named = table.set_axis(
        [f"{name} ({cost:.1f}x time)" for name, cost in zip(table.index, table["cost"])]
    )
    return gains(
        named,
        title=title,
        xlabel="gain in macro F1 (bars: intervals that hold together, over seeds and rows)",
        ax=ax,
    )


def fold_scores(
    scores: pd.DataFrame, compared: pd.DataFrame, *, n: int, ax: Axes | None = None
) -> Axes:
    """Macro F1 of each fold (dots) and their mean with its interval, best member first, from `cross_validation.compare`."""
    ax = ax or _axes(height=1.2 + 0.5 * len(compared))
    for y, (name, row) in enumerate(compared.iterrows()):
        colour = COLOURS[0] if row["chosen"] else "0.35"
        of_folds = scores.loc[scores["member"] == name, "macro_f1"]
        ax.plot(
            of_folds, np.full(len(of_folds), y + 0.22), "o", color=colour, alpha=0.5, markersize=4
        )
        ax.errorbar(
            row["macro_f1"],
            y,
            xerr=[[row["macro_f1"] - row["low"]], [row["high"] - row["macro_f1"]]],
            fmt="s",
            color=colour,
            capsize=3,
            markersize=5,
        )
    ax.set_yticks(
        range(len(compared)),
        [
            _short(f"{name} (chosen)" if row["chosen"] else name)
            for name, row in compared.iterrows()
        ],
    )
    ax.set_ylim(len(compared) - 0.4, -0.4)
    n_scores = len(scores) // len(compared)
    _label(
        ax,
        title=f"Cross-validation (n = {n:,} texts, {n_scores} folds)",
        xlabel="macro F1 (dots: folds; squares: mean with its corrected 95 % interval)",
    )
    ax.grid(axis="y", visible=False)
    return ax


def search_history(trials: pd.DataFrame, *, n: int, ax: Axes | None = None) -> Axes:
    """Macro F1 of each trial, the best so far, and where pruned ones stood, from `search.search`; `n` rows gave the values."""
    ax = ax or _axes(height=3.2)
    trials = trials[trials["state"] != "FAIL"].assign(order=lambda t: range(1, len(t) + 1))
    complete, pruned = (trials[trials["state"] == state] for state in ("COMPLETE", "PRUNED"))
    ax.step(
        trials["order"],
        trials["value"].cummax().ffill(),
        where="post",
        color=COLOURS[1],
        label="best so far",
    )
    ax.plot(
        complete["order"],
        complete["value"],
        "o",
        color=COLOURS[0],
        markersize=5,
        label=f"complete ({len(complete)})",
    )
    if len(pruned):
        ax.plot(
            pruned["order"],
            pruned["stop_macro_f1"],
            "x",
            color="0.45",
            label=f"pruned ({len(pruned)}), at its last look",
        )
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _label(
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
    ax = ax or _axes(height=1.0 + 0.32 * len(shares))
    bars = ax.barh(range(len(shares)), list(shares.values())[::-1], color=COLOURS[0])
    ax.set_yticks(range(len(shares)), list(shares)[::-1])
    ax.bar_label(bars, [f"{share:.0%}" for share in list(shares.values())[::-1]], padding=3)
    title = f"Which settings matter? (fANOVA, {n_trials} complete trials)"
    _label(
        ax,
        title=title,
        xlabel="share of the variance between trials",
        xlim=(0, max([0.05, *shares.values()]) * 1.15),
    )
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.grid(axis="y", visible=False)
    return ax


def parallel_coordinates(
    trials: pd.DataFrame,
    settings: Sequence[str],
    *,
    logarithmic: Sequence[str] = (),
    ax: Axes | None = None,
) -> Axes:
    """A line a complete trial through its settings to its value; the better, the darker. Settings with few values are spaced evenly."""
    ax = ax or _axes(width=min(9.0, 2.0 + 1.5 * (len(settings) + 1)), height=3.4, grid=False)
    complete = trials[trials["state"] == "COMPLETE"].sort_values("value", kind="stable")
    heights, names = zip(
        *(
            _upright(complete[key], log=key in logarithmic, even=key != "value")
            for key in (*settings, "value")
        )
    )
    low, high = complete["value"].min(), complete["value"].max()
    for place, line in enumerate(np.column_stack(heights)):
        shade = plt.get_cmap("cividis_r")(
            0.05 + 0.95 * (complete["value"].iloc[place] - low) / max(high - low, 1e-9)
        )
        ax.plot(line, color=shade, linewidth=1.4, alpha=0.85)
    for x, ticks in enumerate(names):
        ax.axvline(x, color="0.3", linewidth=1)
        for height, text in ticks.items():
            ax.text(
                x + 0.04,
                height,
                text,
                fontsize=8,
                va="center",
                bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.8},
            )
    ax.set_xticks(
        range(len(names)), [_wrapped(key.replace("_", " ")) for key in settings] + ["macro F1"]
    )
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    _label(
        ax,
        title=f"Which settings go together? ({len(complete)} complete trials; the better, the darker)",
        xlim=(-0.1, len(settings) + 0.5),
        ylim=(-0.06, 1.06),
    )
    return ax


def _upright(values: pd.Series, *, log: bool, even: bool) -> tuple[np.ndarray, dict[float, str]]:
    """Return the heights of values on a vertical axis, 0..1, and its ticks: height -> name. Few values, or words, are spaced evenly."""
    values = values.astype(object).where(values.notna(), "none")
    kinds = sorted(values.unique(), key=lambda kind: (isinstance(kind, str), kind))
    numbers = not any(isinstance(kind, str | bool) for kind in kinds)
    if (even and len(kinds) <= 5) or not numbers:
        at = {
            kind: place / (len(kinds) - 1) if len(kinds) > 1 else 0.5
            for place, kind in enumerate(kinds)
        }
        return values.map(at).to_numpy(dtype=float), {
            height: _short(kind if isinstance(kind, str | bool) else f"{kind:g}", 12)
            for kind, height in at.items()
        }
    scaled = np.log(values.astype(float)) if log else values.astype(float)
    heights = ((scaled - scaled.min()) / max(float(np.ptp(scaled)), 1e-12)).to_numpy()
    return heights, {0.0: f"{values.min():.3g}", 1.0: f"{values.max():.3g}"}


def learning_curve(
    table: pd.DataFrame, law: Callable[[np.ndarray], np.ndarray], *, n: int, ax: Axes | None = None
) -> Axes:
    """Macro F1 by training size with its intervals, and the fitted law up to twice the largest size, from `learning_curve.learning_curve`."""
    ax = ax or _axes(height=3.0)
    largest = table.index.max()
    error = [table["macro_f1"] - table["low"], table["high"] - table["macro_f1"]]
    ax.errorbar(
        table.index,
        table["macro_f1"],
        yerr=error,
        fmt="o",
        color=COLOURS[0],
        capsize=3,
        label="measured",
    )
    along = np.geomspace(table.index.min(), 2 * largest, 60)
    for part, line, label in (
        (along <= largest, "-", "power law"),
        (along >= largest, "--", "expected, up to twice as many texts"),
    ):
        ax.plot(along[part], law(along[part]), line, color=COLOURS[1], label=label)
    ax.legend(frameon=False, loc="lower right")
    _label(
        ax,
        title=f"TF-IDF by training size (n = {n:,} held-out texts)",
        xlabel="training texts (logarithmic)",
        ylabel="macro F1 (bars: 95 %)",
        xscale="log",
    )
    ax.set_xticks(
        [*table.index, 2 * largest], [f"{size:,}" for size in (*table.index, 2 * largest)]
    )
    ax.minorticks_off()
    return ax


def gains(table: pd.DataFrame, *, title: str, xlabel: str, ax: Axes | None = None) -> Axes:
    """A `gain` with its interval (`low`, `high`) and `verdict` for each row of a table, best first."""
    table = table.sort_values("gain", kind="stable")
    ax = ax or _axes(height=1.2 + 0.34 * len(table))
    colour = {"better": COLOURS[2], "worse": COLOURS[1], "inconclusive": "0.45"}
    marker = {"better": "^", "worse": "v", "inconclusive": "o"}
    for y, row in enumerate(table.itertuples()):
        error = [[row.gain - row.low], [row.high - row.gain]]
        ax.errorbar(
            row.gain,
            y,
            xerr=error,
            fmt=marker[row.verdict],
            color=colour[row.verdict],
            capsize=3,
            markersize=5,
        )
    ax.axvline(0, color="0.2", linewidth=1)
    ax.set_yticks(range(len(table)), list(table.index))
    handles = [
        plt.Line2D(
            [], [], marker=marker[verdict], linestyle="", color=colour[verdict], label=verdict
        )
        for verdict in colour
    ]
    ax.legend(handles=handles, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _label(ax, title=title, xlabel=xlabel, ylim=(-0.6, len(table) - 0.4))
    ax.grid(axis="y", visible=False)
    return ax


def member_gains(curve: pd.DataFrame, *, n: int, ax: Axes | None = None) -> Axes:
    """Gain over the best member as further ones join a soft vote, with intervals, from `ensembles.gain_curve`."""
    ax = ax or _axes(height=2.8)
    error = [curve["gain"] - curve["low"], curve["high"] - curve["gain"]]
    ax.errorbar(curve.index, curve["gain"], yerr=error, fmt="o-", color=COLOURS[0], capsize=3)
    ax.axhline(0, color="0.2", linewidth=1)
    ax.set_xticks(
        curve.index,
        [_wrapped(f"{'+ ' if place else ''}{name}") for place, name in enumerate(curve["member"])],
    )
    ax.set_xlim(0.6, len(curve) + 0.4)
    _label(
        ax,
        title=f"What does each further member add? (n = {n:,} texts)",
        xlabel="member that joins",
        ylabel="gain in macro F1 (bars: 95 %)",
    )
    return ax


def conformal(tables: dict[str, pd.DataFrame], *, n: int) -> Axes:
    """Coverage that prediction sets promised and kept, and what it costs in classes named, from `abstention.conformal_table`."""
    with plt.rc_context(STYLE):
        figure, (kept, cost) = plt.subplots(1, 2, figsize=(9, 3.6))
    lowest = min(table.index.min() for table in tables.values())
    kept.plot([lowest, 1], [lowest, 1], color="0.5", linestyle=":", label="as promised")
    for place, ((name, table), style) in enumerate(zip(tables.items(), _line_styles())):
        x = table.index + 0.003 * place
        kept.errorbar(
            x,
            table["covered"],
            yerr=[table["covered"] - table["low"], table["high"] - table["covered"]],
            fmt="os^D"[place % 4],
            capsize=3,
            **style,
        )
        kept.plot([], [], marker="os^D"[place % 4], label=name, **style)
        cost.plot(table.index, table["mean_size"], marker="os^D"[place % 4], label=name, **style)
    _label(
        kept,
        title="Do the sets hold the right class?",
        xlabel="coverage promised",
        ylabel="texts whose set holds their class",
    )
    _label(
        cost,
        title="How many classes do they name?",
        xlabel="coverage promised",
        ylabel="classes in a set (mean)",
    )
    for ax in (kept, cost):
        ax.set_xticks(sorted({coverage for table in tables.values() for coverage in table.index}))
        ax.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    kept.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    kept.legend(frameon=False)
    figure.suptitle(
        f"Prediction sets (n = {n:,} texts; bars: 95 % intervals)", x=0.01, ha="left", fontsize=11
    )
    return kept


def accuracy_answered(tables: dict[str, pd.DataFrame], *, n: int, ax: Axes | None = None) -> Axes:
    """Accuracy on the texts that a model is surest of, by the share of them, from `abstention.accuracy_coverage_curve`."""
    ax = ax or _axes(height=3.2)
    for (name, table), style, marker in zip(tables.items(), _line_styles(), "os^D" * 8):
        ax.plot(
            table.index, table["accuracy"], marker=marker, markersize=4, label=_short(name), **style
        )
        ax.fill_between(
            table.index, table["low"], table["high"], color=style["color"], alpha=0.12, linewidth=0
        )
    ax.invert_xaxis()
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.legend(frameon=False, loc="lower right")
    title = f"How right is it where it answers only what it is surest of? (n = {n:,}; shades: 95 % intervals)"
    _label(ax, title=title, xlabel="share of texts that are answered", ylabel="accuracy on them")
    return ax


def confusion_matrix(counts: pd.DataFrame, *, title: str, ax: Axes | None = None) -> Axes:
    """Confusion counts with shares of the true class as shades."""
    size = 2.6 + 0.7 * len(counts)
    ax = ax or _axes(width=size + 1.6, height=size, grid=False)
    _heat(ax, counts, shares=True)
    _label(
        ax,
        title=f"{title} (n = {int(counts.to_numpy().sum()):,})",
        xlabel="predicted",
        ylabel="label",
    )
    return ax


def reliability(bins: dict[str, pd.DataFrame], *, ax: Axes | None = None) -> Axes:
    """Accuracy against confidence, a line a model, from `metrics.reliability_bins`; bins of few rows are left out, the others' size is drawn."""
    ax = ax or _axes(width=5.5, height=4.6)
    ax.plot([0, 1], [0, 1], color="0.5", linestyle=":", label="as sure as right")
    least = LEAST_IN_BIN if min(table["n"].max() for table in bins.values()) >= LEAST_IN_BIN else 1
    for (model, table), colour, marker in zip(bins.items(), COLOURS, "os^D"):
        shown = table[table["n"] >= least]
        ax.plot(shown["confidence"], shown["accuracy"], color=colour, linewidth=1)
        ax.scatter(
            shown["confidence"],
            shown["accuracy"],
            s=8 + 150 * shown["n"] / table["n"].sum(),
            color=colour,
            marker=marker,
            label=model,
        )
    n = int(next(iter(bins.values()))["n"].sum())
    _label(
        ax,
        title=f"Is a model as sure as it is right? (n = {n:,}; bins of {least} or more)",
        xlabel="mean confidence in a bin (larger: more rows)",
        ylabel="share right in a bin",
        xlim=(0, 1.02),
        ylim=(0, 1.02),
    )
    ax.legend(frameon=False)
    return ax


def accuracy_by_length(table: pd.DataFrame, *, overall: float, ax: Axes | None = None) -> Axes:
    """Accuracy in bins of length, with 95 % Wilson intervals."""
    ax = ax or _axes(height=3.0)
    errors = np.stack([table["accuracy"] - table["low"], table["high"] - table["accuracy"]])
    ax.errorbar(
        range(len(table)), table["accuracy"], yerr=errors, fmt="o", color=COLOURS[0], capsize=3
    )
    ax.axhline(overall, color="0.5", linestyle=":", label=f"all rows: {overall:.3f}")
    ax.set_xticks(
        range(len(table)), [f"{name}\n(n = {n:,})" for name, n in zip(table.index, table["n"])]
    )
    _label(
        ax,
        title="Is it weaker on short or long texts? (bars: 95 % Wilson interval)",
        xlabel="words",
        ylabel="accuracy",
    )
    ax.legend(frameon=False)
    return ax


def token_lengths(n_tokens: Sequence[int], *, max_length: int, ax: Axes | None = None) -> Axes:
    """Histogram of lengths in tokens, special tokens counted, on a logarithmic axis; a line marks the limit, and colour what is longer."""
    values, limit = np.asarray(n_tokens), max_length + 0.5
    low, high = min(values.min() - 0.5, 0.8 * limit), max(values.max() + 0.5, 1.25 * limit)
    step = np.log(high / low) / 40
    powers = np.arange(
        np.floor(np.log(low / limit) / step), np.ceil(np.log(high / limit) / step) + 1
    )
    edges = np.unique(
        np.floor(limit * np.exp(step * powers)) + 0.5
    )  # between two whole numbers, and one of them the limit
    ax = ax or _axes(height=3.2)
    groups = {
        "read whole": (values[values <= max_length], COLOURS[5]),
        "cut": (values[values > max_length], COLOURS[1]),
    }
    for name, (part, colour) in groups.items():
        ax.hist(part, bins=edges.tolist(), color=colour, label=f"{name} ({len(part):,})")
    ax.axvline(limit, color="0.2", linestyle=":", label=f"limit: {max_length:,} tokens")
    share = (values > max_length).mean()
    title = f"{share:.1%} of the texts are longer than the {max_length:,} tokens that the model reads (n = {len(values):,})"
    _label(
        ax,
        xscale="log",
        title=title,
        xlabel="tokens, special ones counted (logarithmic)",
        ylabel="texts",
    )
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.legend(frameon=False, fontsize=9)
    return ax


def distinctive_terms(
    terms: pd.DataFrame, balance: pd.DataFrame, *, confidence: float = 0.95, max_classes: int = 12
) -> Axes:
    """Most telling words of each class with their intervals, a panel a class, from `profiling.distinctive_terms` and `label_balance`.

    Characters that the font lacks are drawn as boxes. With more than `max_classes` classes the largest are shown.
    """
    shown = balance.head(max_classes)
    n_columns = 2 if len(shown) in (2, 4) else min(3, max(1, len(shown)))
    n_rows, n_terms = max(1, -(-len(shown) // n_columns)), max([3, *terms.groupby("label").size()])
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            n_rows,
            n_columns,
            figsize=(max(6.0, 3.3 * n_columns), 0.8 + (0.9 + 0.19 * n_terms) * n_rows),
            sharex=True,
            squeeze=False,
        )
    for ax, (label, size) in zip(grid.flat, shown["n"].items()):
        rows = terms[terms["label"] == label].reset_index(drop=True)
        errors = np.stack([rows["log_odds"] - rows["low"], rows["high"] - rows["log_odds"]])
        ax.errorbar(
            rows["log_odds"],
            rows.index,
            xerr=errors,
            fmt="o",
            color=COLOURS[0],
            markersize=4,
            elinewidth=1,
            capsize=2,
        )
        ax.axvline(0, color="0.2", linewidth=1)
        ax.set_yticks(rows.index, [_drawable(term, 18) for term in rows["term"]], fontsize=9)
        ax.set_ylim(n_terms - 0.4, -0.6)
        ax.set_title(
            f"{_drawable(label, 30)}\nn = {size:,}" + ("" if len(rows) else "; no word tells it"),
            loc="left",
            fontsize=9,
        )
        ax.tick_params(labelbottom=True)
        ax.grid(axis="y", visible=False)
    for ax in grid.flat[len(shown) :]:
        ax.remove()
    which = (
        f"; the {len(shown)} largest of {len(balance)} classes" if len(shown) < len(balance) else ""
    )
    figure.suptitle(
        f"Which words tell a class from the others? (n = {balance['n'].sum():,} texts{which})",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    figure.supxlabel(
        f"log-odds ratio of the word in the class against all others (bars: {confidence:.0%} interval of the one word)",
        fontsize=9,
    )
    return grid[0, 0]


def _drawable(name: object, width: int) -> str:
    """Return a short name with a box for each character that the font lacks."""
    from matplotlib import font_manager

    glyphs = font_manager.get_font(
        font_manager.findfont(font_manager.FontProperties())
    ).get_charmap()
    return _short(
        "".join(
            character if ord(character) in glyphs or character.isspace() else "□"
            for character in str(name)
        ),
        width,
    )


def _label(ax: Axes, *, title: str, **properties: Any) -> None:
    ax.set(**properties)
    ax.set_title(title, loc="left")


def _axes(*, width: float = 8.0, height: float, grid: bool = True) -> Axes:
    with plt.rc_context({**STYLE, "axes.grid": grid}):
        return plt.subplots(figsize=(width, height))[1]


def _heat(
    ax: Axes, counts: pd.DataFrame, *, shares: bool = False, top: float | None = None
) -> None:
    values = counts.to_numpy(dtype=float)
    shade = values / np.maximum(1, values.sum(axis=1, keepdims=True)) if shares else values
    top = top or max(1e-9, shade.max())
    ax.imshow(shade, cmap="Blues", vmin=0, vmax=top)
    for i, j in np.ndindex(*values.shape):
        text = f"{values[i, j]:,.0f}" + (f"\n{shade[i, j]:.0%}" if shares else "")
        ax.text(
            j,
            i,
            text,
            ha="center",
            va="center",
            fontsize=9,
            color="white" if shade[i, j] > 0.6 * top else "black",
        )
    ax.set_xticks(range(values.shape[1]), [_wrapped(name) for name in counts.columns])
    ax.set_yticks(range(values.shape[0]), [_wrapped(name) for name in counts.index])
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _line_styles() -> list[dict[str, Any]]:
    return [
        {"color": colour, "linestyle": line}
        for line in ("-", "--", ":", "-.")
        for colour in COLOURS
    ] * 8


def _short(name: object, width: int = 34) -> str:
    text = " ".join(str(name).split()) or "(blank)"
    return _plain(text if len(text) <= width else text[: width - 1] + "…")


def _wrapped(name: object) -> str:
    return "\n".join(textwrap.wrap(_short(name, 30), 13)) or "(blank)"


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # matplotlib would set it as mathematics
