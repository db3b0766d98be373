"""What to do about a model's errors, ranked by what was measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.data.words import count_words
from lib.evaluation.significance import Interval, grouped_share, share_gap
from lib.evaluation.slices import WeakSlices

WORDS = {
    "relabel": "Correct the labels",
    "collect: a class": "Collect texts of the weakest class",
    "collect: a slice": "Collect texts of the weakest slice",
    "lengthen": "Read more of each text (training.max_length)",
    "calibrate": "Calibrate the confidences",
}
_UNKNOWN = Interval(np.nan, np.nan, np.nan, n=0)


def accuracy_to_win(
    right: np.ndarray,
    inside: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    confidence: float = 0.95,
) -> Interval:
    """Return by how much accuracy would rise if some rows were as often right as all others.

    Parameters
    ----------
    right, inside : ndarrays of bool of shape (n,)
    groups : (n,) of anything; rows of a group are alike

    Returns
    -------
    Interval of accuracy, below 0 where the rows are more often right; NaN where all rows are
    inside, or none
    """
    if inside.all() or not inside.any():
        return _UNKNOWN
    unit = np.arange(len(right)) if groups is None else groups
    outer, inner = (
        grouped_share(right[side], groups=unit[side], confidence=confidence)
        for side in (~inside, inside)
    )
    return _scaled(share_gap(outer, inner), float(inside.mean()))


def _scaled(interval: Interval, factor: float) -> Interval:
    value, low, high = (factor * end for end in interval.with_ends)
    return Interval(value, low, high, interval.n, interval.confidence)


def next_steps(
    texts: Sequence[str],
    labels: np.ndarray,
    right: np.ndarray,
    *,
    weak: WeakSlices,
    calibration_error: Interval,
    label_errors: Interval | None,
    max_tokens: int,
    groups: np.ndarray | None = None,
) -> pd.DataFrame:
    """Rank what may be done by the points of accuracy (or of confidence) that it may win.

    Parameters
    ----------
    texts, labels, right : of n rows; whether the model is right on them
    calibration_error : a share, 0..1
    label_errors : share of judged mistakes whose label is wrong; None where nobody has judged
    max_tokens : that the model reads of a text; 0: of any length

    Returns
    -------
    DataFrame by step, ordered by the lower end: `points` as text, `low`, and the figure that it
    `follows_from`. `low` above 0 says that the figure asks for it, NaN that nothing is known
    """
    found = {
        "relabel": _relabel(right, label_errors),
        "collect: a class": _weakest_class(labels, right, groups),
        "collect: a slice": _weakest_slice(weak),
        "lengthen": _cut_texts(texts, right, max_tokens, groups),
        "calibrate": (calibration_error, "the debiased calibration error of its confidences"),
    }
    rows = {}
    for step, (win, figure) in found.items():
        points = "unknown"
        if np.isfinite(win.value):
            points = _scaled(win, 100).signed(1)
        rows[step] = (points, win.low, figure)
    columns = ["points", "low", "follows_from"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("step")
    return table.sort_values("low", ascending=False, kind="stable")


def describe(steps: pd.DataFrame) -> str:
    """Return how many steps the figures ask for, of a table from `next_steps`."""
    n_asked = int((steps["low"] > 0).sum())
    return f"The figures ask for {n_asked} of {len(steps)} steps."


def asked_for(steps: pd.DataFrame) -> dict[str, float]:
    """Return the steps that the figures ask for, of a table from `next_steps`.

    Returns
    -------
    points that are won at least, by the step as a sentence
    """
    asked = steps[steps["low"] > 0]
    sentences = {}
    for step, row in asked.iterrows():
        unit = "points of confidence" if step == "calibrate" else "points"
        sentences[f"{WORDS[step]}: {row['points']} {unit} ({row['follows_from']})."] = (
            100 * row["low"]
        )
    return sentences


def _relabel(right: np.ndarray, label_errors: Interval | None) -> tuple[Interval, str]:
    if label_errors is None:
        return _UNKNOWN, "nobody has judged a mistake in judgements.csv"
    n_judged = label_errors.n
    figure = f"{label_errors.percent()} of {n_judged:,} judged mistakes are label errors"
    return _scaled(label_errors, float(np.mean(~right))), figure


def _weakest_class(
    labels: np.ndarray, right: np.ndarray, groups: np.ndarray | None
) -> tuple[Interval, str]:
    """Return the class with most to win; the interval holds for all classes together."""
    names = np.unique(labels)
    confidence = 1 - 0.05 / len(names)
    wins = [
        accuracy_to_win(right, labels == name, groups=groups, confidence=confidence)
        for name in names
    ]
    worst = int(np.nanargmax([win.value for win in wins])) if len(names) > 1 else 0
    inside = labels == names[worst]
    figure = f"{names[worst]}: {right[inside].mean():.3f} right, n = {inside.sum():,}"
    return wins[worst], figure


def _weakest_slice(weak: WeakSlices) -> tuple[Interval, str]:
    """Return the confirmed slice with most to win."""
    if weak.weak.empty:
        return _UNKNOWN, "no slice is weaker than chance explains"
    row = weak.weak.iloc[(weak.weak["gain"] * weak.weak["share"]).argmin()]
    gap = Interval(-row["gain"], -row["high"], -row["low"], n=weak.n)
    figure = f"{row.name}: {row['accuracy']:.3f} right, n = {row['n']:,}"
    return _scaled(gap, row["share"]), figure


def _cut_texts(
    texts: Sequence[str], right: np.ndarray, max_tokens: int, groups: np.ndarray | None
) -> tuple[Interval, str]:
    """Return what texts of more words than the model reads tokens have to win."""
    if not max_tokens:
        return _UNKNOWN, "the model reads texts of any length"
    is_cut = np.array([count_words(text) > max_tokens for text in texts])
    win = accuracy_to_win(right, is_cut, groups=groups)
    return win, f"{is_cut.sum():,} texts have more words than the {max_tokens} tokens it reads"
