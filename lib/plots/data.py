"""Figures of the texts and their labels, before and after cleaning."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from lib.plots.style import (
    COLOURS,
    THOUSANDS,
    error_bars_across,
    heat_map,
    horizontal_bars,
    line_styles,
    new_axes,
    new_panels,
    set_figure_title,
    set_labels,
    set_rows,
    short,
)

MAX_CLASSES = 12  # the largest, where each has a line or a panel of its own


def class_balance(balance: pd.DataFrame, *, max_classes: int = 40, ax: Axes | None = None) -> Axes:
    """Bars of rows a class, from `profiling.label_balance`; of many classes the largest."""
    shown = balance.head(max_classes)
    ax = ax or new_axes(height=0.9 + 0.35 * len(shown))
    counts = shown["n"]
    names = [short(name) for name in shown.index]
    texts = []
    for n, share in zip(counts, shown["share"]):
        texts.append(f"{n:,} ({share:.1%})")
    horizontal_bars(ax, counts, names, texts)
    counted = _counted(balance["n"].sum(), shown=len(shown), of=len(balance))
    set_labels(ax, title=f"Rows a class ({counted})", xlabel="rows")
    ax.set_xlim(0, counts.max() * 1.2)
    return ax


def lengths(
    words: pd.Series,
    labels: pd.Series,
    *,
    max_classes: int = MAX_CLASSES,
    ax: Axes | None = None,
) -> Axes:
    """Cumulative share of texts by length in words, one line a class, on a logarithmic axis.

    With more than `max_classes` classes the largest are shown.
    """
    ax = ax or new_axes(height=3.6)
    names = _largest(labels, max_classes)
    for name, style in zip(names, line_styles()):
        values = words[labels == name]
        ordered = np.sort(values.clip(lower=1))
        share = np.arange(1, len(ordered) + 1) / len(ordered)
        label = f"{short(name)} (median {np.median(ordered):.0f})"
        ax.step(ordered, share, where="post", label=label, **style)
    counted = _counted(len(words), shown=len(names), of=labels.nunique())
    title = f"How long are the texts? ({counted})"
    set_labels(ax, title=title, xlabel="words (logarithmic)", xscale="log")
    ax.set_ylabel("share of texts up to this length")
    ax.xaxis.set_major_formatter(THOUSANDS)
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.legend(frameon=False, fontsize=9)
    return ax


def token_lengths(n_tokens: Sequence[int], *, max_length: int, ax: Axes | None = None) -> Axes:
    """Histogram of lengths in tokens, special ones counted, on a logarithmic axis.

    A line marks the limit, and colour what is longer.
    """
    values = np.asarray(n_tokens)
    edges = _length_bins(values, max_length)
    is_cut = values > max_length
    parts = {"read whole": values[~is_cut], "cut": values[is_cut]}
    ax = ax or new_axes(height=3.2)
    for (name, part), colour in zip(parts.items(), (COLOURS[5], COLOURS[1])):
        label = f"{name} ({len(part):,})"
        ax.hist(part, bins=edges, color=colour, label=label)
    label = f"limit: {max_length:,} tokens"
    ax.axvline(max_length + 0.5, color="0.2", linestyle=":", label=label)
    title = f"{is_cut.mean():.1%} of the texts are longer than the {max_length:,} tokens"
    title += f" that the model reads (n = {len(values):,})"
    set_labels(ax, title=title, ylabel="texts", xscale="log")
    ax.set_xlabel("tokens, special ones counted (logarithmic)")
    ax.xaxis.set_major_formatter(THOUSANDS)
    ax.yaxis.set_major_formatter(THOUSANDS)
    ax.legend(frameon=False, fontsize=9)
    return ax


def _length_bins(values: np.ndarray, max_length: int) -> list[float]:
    """Return edges, each between two whole numbers, and one of them the limit."""
    limit = max_length + 0.5
    low = min(values.min() - 0.5, 0.8 * limit)
    high = max(values.max() + 0.5, 1.25 * limit)
    step = np.log(high / low) / 40
    first = np.floor(np.log(low / limit) / step)
    last = np.ceil(np.log(high / limit) / step)
    edges = limit * np.exp(step * np.arange(first, last + 1))
    return np.unique(np.floor(edges) + 0.5).tolist()


def features_by_class(
    features: pd.DataFrame,
    labels: pd.Series,
    *,
    titles: dict[str, str],
    max_classes: int = MAX_CLASSES,
) -> Axes:
    """Box plots of features by class, a panel each, in two columns where they are many.

    Whiskers go from the 5th to the 95th percentile. With more than `max_classes` classes the
    largest are shown.
    """
    names = _largest(labels, max_classes)
    counted = _counted(len(features), shown=len(names), of=labels.nunique())
    columns = 1 if len(titles) <= 5 else 2
    rows = -(-len(titles) // columns)
    row_height = 0.7 + 0.24 * len(names)
    size = (4 + 4 * columns, 0.6 + row_height * rows)
    _, panels = new_panels(rows, columns, size=size)
    for ax in panels.flat[len(titles) :]:
        ax.remove()
    for ax, (column, title) in zip(panels.flat, titles.items()):
        _boxes(ax, [features.loc[(labels == name).to_numpy(), column] for name in names], names)
        ax.set_title(title, loc="left")
    title = f"Linguistic features by class ({counted}; "
    set_figure_title(panels[0, 0], title + "boxes: quartiles, whiskers: 5 % to 95 %)")
    return panels[0, 0]


def _largest(labels: pd.Series, n: int) -> list[str]:
    """Return the n largest classes in the order of their names."""
    return sorted(labels.value_counts().index[:n])


def _counted(n: int, *, shown: int, of: int) -> str:
    """Return how many texts there are, and which classes are shown where it is not all."""
    return f"n = {n:,}" + (f"; the {shown} largest of {of} classes" if shown < of else "")


def _boxes(ax: Axes, values: Sequence[pd.Series], names: Sequence[str]) -> None:
    """Draw a box a class, the first class on top."""
    names = names[::-1]
    boxes = [of_class.dropna() for of_class in values[::-1]]
    box = ax.boxplot(boxes, whis=(5, 95), showfliers=False, widths=0.6, orientation="horizontal")
    plt.setp(box["medians"], color=COLOURS[1])
    rows = range(1, len(names) + 1)
    set_rows(ax, rows, [short(name) for name in names])


def distinctive_terms(
    terms: pd.DataFrame,
    balance: pd.DataFrame,
    *,
    confidence: float = 0.95,
    max_classes: int = MAX_CLASSES,
) -> Axes:
    """Most distinctive words of each class with their intervals, a panel a class.

    With more than `max_classes` classes the largest are shown.

    Parameters
    ----------
    terms, balance : from `distinctive.distinctive_terms` and `profiling.label_balance`
    """
    shown = balance.head(max_classes)
    n_columns = 2 if len(shown) in (2, 4) else min(3, len(shown))
    n_rows = -(-len(shown) // n_columns)
    n_terms = max([3, *terms.groupby("label").size()])
    row_height = 0.9 + 0.19 * n_terms
    size = (max(6.0, 3.3 * n_columns), 0.8 + row_height * n_rows)
    figure, panels = new_panels(n_rows, n_columns, size=size, sharex=True)
    for ax, (label, n) in zip(panels.flat, shown["n"].items()):
        title = f"{short(label, 30)}\nn = {n:,}"
        _terms_of_class(ax, terms[terms["label"] == label], title=title)
        ax.set_ylim(n_terms - 0.4, -0.6)
    for ax in panels.flat[len(shown) :]:
        ax.remove()
    counted = _counted(balance["n"].sum(), shown=len(shown), of=len(balance))
    set_figure_title(panels[0, 0], f"Which words tell a class from the others? ({counted})")
    measure = "log-odds ratio of the word in the class against all others"
    figure.supxlabel(f"{measure} (bars: {confidence:.0%} interval of the one word)", fontsize=9)
    return panels[0, 0]


def _terms_of_class(ax: Axes, rows: pd.DataFrame, *, title: str) -> None:
    positions = range(len(rows))
    points = {"fmt": "o", "color": COLOURS[0], "markersize": 4}
    error_bars_across(ax, rows, "log_odds", positions, elinewidth=1, capsize=2, **points)
    ax.axvline(0, color="0.2", linewidth=1)
    names = [short(term, 18) for term in rows["term"]]
    set_rows(ax, positions, names, fontsize=9)
    if rows.empty:
        title += "; no word tells it"
    ax.set_title(title, loc="left", fontsize=9)
    ax.tick_params(labelbottom=True)


def receipts(table: pd.DataFrame, *, n: int, ax: Axes | None = None) -> Axes:
    """Bars of the share of `n` texts that each cleaning rule changed."""
    ax = ax or new_axes(height=0.9 + 0.32 * len(table))
    shares = table["n_texts"] / n
    texts = []
    for n_texts, n_removed in zip(table["n_texts"], table["chars_removed"]):
        text = f"{n_texts:,} texts"
        if n_texts:
            text += f", {-n_removed:+,} characters"
        texts.append(text)
    horizontal_bars(ax, shares, table.index, texts, fontsize=9)
    title = f"How often did each rule change a text? (n = {n:,})"
    set_labels(ax, title=title, xlabel="share of texts")
    ax.set_xlim(0, max(0.02, shares.max()) * 1.6)
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.set_xticks([tick for tick in ax.get_xticks() if 0 <= tick <= 1])
    return ax


def leak_matrices(matrices: dict[str, pd.DataFrame]) -> Axes:
    """Near-duplicate pairs by the splits of their rows, a panel a way of splitting.

    What is off the diagonal is a leak.
    """
    size = (4 * len(matrices), 3.5)
    _, panels = new_panels(1, len(matrices), size=size, grid=False)
    largest = [matrix.to_numpy().max() for matrix in matrices.values()]
    top = max([1, *largest])
    for ax, (title, matrix) in zip(panels[0], matrices.items()):
        heat_map(ax, matrix, top=top)
        set_labels(ax, title=title, xlabel="split of the other text", ylabel="split of one text")
    return panels[0, 0]
