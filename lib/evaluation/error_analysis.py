"""Where a model is wrong: its most confident mistakes, its confusions, its weak slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer

from lib.data import distinctive
from lib.data.words import count_words
from lib.evaluation.metrics import with_confidence
from lib.evaluation.significance import Interval, grouped_share


def mistakes_table(
    rows: pd.DataFrame,
    y_true: np.ndarray,
    probs: np.ndarray,
    *,
    class_names: Sequence[str],
    y_pred: np.ndarray | None = None,
) -> pd.DataFrame:
    """Return the rows a model gets wrong, the most confident first.

    Parameters
    ----------
    rows : n rows with `row_id` and `text`
    y_true : ndarray of int of shape (n,), columns of `probs`
    probs : ndarray of shape (n, k)
    y_pred : as `metrics.with_confidence` takes it

    Returns
    -------
    DataFrame with `row_id`, `label`, `predicted`, `confidence` (of the wrong class) and
    `label_prob` (of the right one), 0..1, and `text`
    """
    names = np.asarray(class_names, dtype=object)
    y_pred, confidence = with_confidence(probs, y_pred)
    table = pd.DataFrame(
        {
            "row_id": rows["row_id"].to_numpy(),
            "label": names[y_true],
            "predicted": names[y_pred],
            "confidence": confidence,
            "label_prob": probs[np.arange(len(probs)), y_true],
            "text": rows["text"].to_numpy(),
        }
    )
    mistakes = table[y_pred != y_true]
    return mistakes.sort_values("confidence", ascending=False, kind="stable", ignore_index=True)


def confusion_counts(
    y_true: np.ndarray, y_pred: np.ndarray, *, class_names: Sequence[str]
) -> pd.DataFrame:
    """Return counts of rows, true classes down, predicted classes across."""
    k = len(class_names)
    cell = y_true * k + y_pred
    counts = np.bincount(cell, minlength=k * k).reshape(k, k)
    table = pd.DataFrame(counts, index=class_names, columns=class_names)
    return table.rename_axis(index="label", columns="predicted")


def confused_pairs(counts: pd.DataFrame, *, n_pairs: int = 10) -> pd.DataFrame:
    """Return which class is most often taken for which, of a table from `confusion_counts`.

    Returns
    -------
    DataFrame of at most `n_pairs` rows with `label`, `predicted`, `n` and `share` of the label's
    rows (0..1), the most frequent first
    """
    values = counts.to_numpy()
    mistakes = values * (1 - np.eye(len(values), dtype=int))
    cells = np.argsort(-mistakes, axis=None, kind="stable")[:n_pairs]
    rows, columns = np.unravel_index(cells, values.shape)
    n = mistakes[rows, columns]
    names = counts.index.to_numpy()
    share = n / np.maximum(1, values.sum(axis=1))[rows]
    pairs = {"label": names[rows], "predicted": names[columns], "n": n, "share": share}
    return pd.DataFrame(pairs)[n > 0]


def confusing_terms(
    texts: Sequence[str],
    y_true: np.ndarray,
    y_pred: np.ndarray,
    pairs: pd.DataFrame,
    *,
    class_names: Sequence[str],
    n_terms: int = 5,
) -> list[str]:
    """Return the terms that set the confused texts of each pair apart from the class's other texts.

    Parameters
    ----------
    texts, y_true, y_pred : of n rows
    pairs : as `confused_pairs` returns them
    n_terms : of a pair at most

    Returns
    -------
    for each pair, terms with a log-odds interval above 0 (`distinctive.distinctive_terms`), joined
    by commas; "" where there are none
    """
    given = np.asarray(texts, dtype=object)
    codes = {name: code for code, name in enumerate(class_names)}
    found = []
    for label, predicted in zip(pairs["label"], pairs["predicted"]):
        of_class = y_true == codes[label]
        is_confused = (y_pred == codes[predicted])[of_class]
        sides = np.where(is_confused, "confused", "others")
        terms = distinctive.distinctive_terms(given[of_class].tolist(), sides.tolist(), n=n_terms)
        terms = terms[(terms["label"] == "confused") & (terms["low"] > 0)]
        found.append(", ".join(terms["term"]))
    return found


def nearest_neighbours(
    texts: Sequence[str], train: pd.DataFrame, *, tfidf: TfidfVectorizer
) -> pd.DataFrame:
    """Return the training text that is nearest to each text, by cosine of TF-IDF.

    Parameters
    ----------
    texts : n texts
    train : rows with `text` and `label`
    tfidf : fitted

    Returns
    -------
    DataFrame of n rows: `similarity` 0..1, `nearest_label` and `nearest_text`
    """
    if not len(texts):
        return pd.DataFrame(columns=["similarity", "nearest_label", "nearest_text"])
    cosines = tfidf.transform(texts) @ tfidf.transform(train["text"].tolist()).T
    nearest = np.asarray(cosines.argmax(axis=1)).ravel()
    rows = train.iloc[nearest]
    return pd.DataFrame(
        {
            "similarity": np.asarray(cosines.max(axis=1).todense()).ravel(),
            "nearest_label": rows["label"].to_numpy(),
            "nearest_text": rows["text"].to_numpy(),
        }
    )


def accuracy_by_length(
    texts: Sequence[str], right: np.ndarray, *, groups: np.ndarray | None = None, n_bins: int = 5
) -> pd.DataFrame:
    """Return accuracy with its interval in `n_bins` equally filled bins of length in words.

    Parameters
    ----------
    right : ndarray of bool of shape (n,)
    groups : (n,) of anything; rows of a group are alike (see `significance.grouped_share`)

    Returns
    -------
    DataFrame indexed by bin ("12-30"): `accuracy`, `low`, `high` (95 %), `n`
    """
    rows = pd.DataFrame({"words": list(map(count_words, texts)), "right": right})
    rows["group"] = np.arange(len(rows)) if groups is None else groups
    if rows["words"].nunique() > 1:
        rows["bin"] = pd.qcut(rows["words"], n_bins, duplicates="drop")
    else:
        rows["bin"] = 0
    table = {}
    for _, of_bin in rows.groupby("bin", observed=True):
        share = grouped_share(of_bin["right"].to_numpy(), groups=of_bin["group"].to_numpy())
        name = f"{of_bin['words'].min()}-{of_bin['words'].max()}"
        table[name] = (share.value, share.low, share.high, share.n)
    columns = ["accuracy", "low", "high", "n"]
    return pd.DataFrame.from_dict(table, orient="index", columns=columns).rename_axis("words")


def describe_weakest_class(
    class_f1: Sequence[Interval], class_names: Sequence[str], *, model: str
) -> str:
    """Return as a sentence which class has the lowest F1.

    Parameters
    ----------
    class_f1 : of each class, as `significance.class_f1_intervals` returns them
    model : its name, as "the transformer" without the article
    """
    f1, label = min(zip(class_f1, class_names), key=lambda pair: pair[0].value)
    return f"The weakest class of the {model} is {label}: F1 {f1}."


def describe_commonest_confusion(counts: pd.DataFrame) -> str:
    """Return as a sentence which class is most often taken for which, from `confusion_counts`."""
    pairs = confused_pairs(counts, n_pairs=1)
    if pairs.empty:
        return "No row is taken for another class."
    label, predicted, n_most, share = pairs.iloc[0]
    n_rows = round(n_most / share)
    return f"The commonest confusion: {label} taken for {predicted}, {n_most} of {n_rows} rows."


def describe_lengths(by_length: pd.DataFrame, *, model: str) -> str:
    """Return as a sentence on which lengths a model is best and worst, from `accuracy_by_length`.

    Parameters
    ----------
    model : its name, as "the transformer" without the article
    """
    accuracy = by_length["accuracy"]
    best = f"{accuracy.idxmax()} words (accuracy {accuracy.max():.3f})"
    worst = f"{accuracy.idxmin()} words ({accuracy.min():.3f})"
    return f"The {model} is best on texts of {best} and worst on texts of {worst}."
