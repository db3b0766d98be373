"""Where a model is wrong: its most confident mistakes, its confusions, its weak slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd


def mistakes_table(
    rows: pd.DataFrame, y_true: np.ndarray, probs: np.ndarray, *, class_names: Sequence[str]
) -> pd.DataFrame:
    """Return the rows a model gets wrong, the most confident first.

    Parameters
    ----------
    rows : n rows with `row_id` and `text`
    y_true : ndarray of int of shape (n,), columns of `probs`
    probs : ndarray of shape (n, k)

    Returns
    -------
    DataFrame with `row_id`, `label`, `predicted`, `confidence` (of the wrong class) and `label_prob` (of the right one), 0..1, and `text`
    """
    names, y_pred = np.asarray(class_names, dtype=object), probs.argmax(axis=1)
    table = pd.DataFrame(
        {
            "row_id": rows["row_id"].to_numpy(),
            "label": names[y_true],
            "predicted": names[y_pred],
            "confidence": probs.max(axis=1),
            "label_prob": probs[np.arange(len(probs)), y_true],
            "text": rows["text"].to_numpy(),
        }
    )
    return table[y_pred != y_true].sort_values(
        "confidence", ascending=False, kind="stable", ignore_index=True
    )


def confusion_counts(
    y_true: np.ndarray, y_pred: np.ndarray, *, class_names: Sequence[str]
) -> pd.DataFrame:
    """Return counts of rows, true classes down, predicted classes across."""
    k = len(class_names)
    counts = np.bincount(y_true * k + y_pred, minlength=k * k).reshape(k, k)
    return pd.DataFrame(
        counts,
        index=pd.Index(class_names, name="label"),
        columns=pd.Index(class_names, name="predicted"),
    )


def accuracy_by_length(texts: Sequence[str], right: np.ndarray, *, n_bins: int = 5) -> pd.DataFrame:
    """Return accuracy with its Wilson interval in `n_bins` equally filled bins of length in words.

    Returns
    -------
    DataFrame indexed by bin ("12-30"): `accuracy`, `low`, `high` (95 %), `n`
    """
    from statsmodels.stats.proportion import proportion_confint

    words = pd.Series([len(text.split()) for text in texts])
    bins = (
        pd.qcut(words, n_bins, duplicates="drop")
        if words.nunique() > 1
        else pd.Series(0, index=words.index)
    )
    grouped = pd.Series(right.astype(float)).groupby(bins, observed=True)
    n, n_right = grouped.size(), grouped.sum()
    low, high = proportion_confint(n_right, n, alpha=0.05, method="wilson")
    ranges = words.groupby(bins, observed=True).agg(["min", "max"])
    names = [f"{a}-{b}" for a, b in ranges.itertuples(index=False)]
    return pd.DataFrame(
        {
            "accuracy": (n_right / n).to_numpy(),
            "low": np.asarray(low),
            "high": np.asarray(high),
            "n": n.to_numpy(),
        },
        index=pd.Index(names, name="words"),
    )
