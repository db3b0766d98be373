"""Selective prediction: conformal prediction sets, and leaving a text unanswered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.evaluation.metrics import checked_probs, with_confidence
from lib.evaluation.significance import Interval, grouped_share


def conformal_thresholds(
    probs: np.ndarray, y_true: np.ndarray, *, coverage: float, by_class: bool = False
) -> np.ndarray:
    """Return how probable a class must be to join the prediction set.

    Sets hold the true class with the probability `coverage`.

    Parameters
    ----------
    probs : ndarray of shape (n, k) of rows that the model did not learn from
    y_true : ndarray of int of shape (n,), columns of `probs`
    coverage : share of new rows whose set holds their class, 0..1; holds for rows drawn like these,
        whatever the model
    by_class : the same coverage in each class (sets grow); classes with too few rows to promise it
        are taken together, as one class

    Returns
    -------
    ndarray of shape (k,); 0 where n is too small: the class joins every set

    Source
    ------
    Split conformal prediction, Vovk et al. 2005; the score and the classwise form after Sadinle et
    al. 2019, "Least Ambiguous Set-Valued Classifiers with Bounded Error Levels"; rare classes
    together as the null cluster of Ding et al. 2023, "Class-Conditional Conformal Prediction with
    Many Classes".

    Examples
    --------
    >>> right = np.arange(0.50, 1.00, 0.05)
    >>> probs = np.c_[right, 1 - right]
    >>> conformal_thresholds(probs, np.zeros(10, dtype=int), coverage=0.8).round(2)
    array([0.55, 0.55])
    """
    probs = checked_probs(probs, y_true)
    if not 0 < coverage < 1:
        raise ValueError(f"coverage must be between 0 and 1, got {coverage}")
    n, k = probs.shape
    of_truth = probs[np.arange(n), y_true]
    if not by_class:
        return np.full(k, _threshold(of_truth, coverage))
    is_rare = np.bincount(y_true, minlength=k) < min_class_rows(coverage)
    thresholds = np.full(k, _threshold(of_truth[is_rare[y_true]], coverage))
    for code in np.flatnonzero(~is_rare):
        thresholds[code] = _threshold(of_truth[y_true == code], coverage)
    return thresholds


def min_class_rows(coverage: float) -> int:
    """Return how many rows of a class are needed to promise it a coverage.

    Examples
    --------
    >>> min_class_rows(0.9), min_class_rows(0.95)
    (9, 19)
    """
    return int(np.ceil(1 / (1 - coverage) - 1e-9)) - 1


def _threshold(of_truth: np.ndarray, coverage: float) -> float:
    """Return the probability that all but the allowed number of the right classes reach."""
    missed_share = 1 - coverage
    n_below = int(np.floor((len(of_truth) + 1) * missed_share + 1e-9))
    if n_below < 1:
        return 0.0
    return float(np.sort(of_truth)[n_below - 1])


def thresholds_by_coverage(
    probs: np.ndarray, y_true: np.ndarray, *, coverages: Sequence[float]
) -> dict[float, np.ndarray]:
    """Return `conformal_thresholds` for each promised coverage."""
    return {
        coverage: conformal_thresholds(probs, y_true, coverage=coverage) for coverage in coverages
    }


def prediction_sets(probs: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return which classes are in the set of each row: ndarray of bool of shape (n, k)."""
    return probs >= thresholds


def conformal_table(
    probs: np.ndarray,
    y_true: np.ndarray,
    fold: np.ndarray,
    *,
    coverages: Sequence[float],
    by_class: bool = False,
    groups: np.ndarray | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Promise coverages and measure them: the sets of a fold have thresholds from the other folds.

    Parameters
    ----------
    groups : (n,) of anything; rows of a group are alike (see `significance.grouped_share`)

    Returns
    -------
    DataFrame by promised coverage: `covered` with `low`, `high`, `mean_size` of a set in classes,
    shares of sets of one class (`single`) and of none (`empty`), `worst_class` (the lowest coverage
    of a class), `n_rare` (classes with too few rows for a promise of their own)
    """
    n_class_rows = np.bincount(y_true, minlength=probs.shape[1])
    rows = {}
    for coverage in coverages:
        sets = _cross_fitted_sets(probs, y_true, fold, coverage=coverage, by_class=by_class)
        covered = sets[np.arange(len(sets)), y_true]
        size = sets.sum(axis=1)
        share = grouped_share(covered, groups=groups, confidence=confidence)
        class_coverage = pd.Series(covered).groupby(y_true).mean()
        rows[coverage] = {
            "covered": share.value,
            "low": share.low,
            "high": share.high,
            "mean_size": size.mean(),
            "single": (size == 1).mean(),
            "empty": (size == 0).mean(),
            "worst_class": class_coverage.min(),
            "n_rare": int((n_class_rows < min_class_rows(coverage)).sum()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("coverage")


def _cross_fitted_sets(
    probs: np.ndarray, y_true: np.ndarray, fold: np.ndarray, *, coverage: float, by_class: bool
) -> np.ndarray:
    """Return the sets of every row, by thresholds that were fitted without its fold."""
    sets = np.zeros(probs.shape, dtype=bool)
    for number in np.unique(fold):
        held_out = fold == number
        thresholds = conformal_thresholds(
            probs[~held_out], y_true[~held_out], coverage=coverage, by_class=by_class
        )
        sets[held_out] = prediction_sets(probs[held_out], thresholds)
    return sets


def accuracy_coverage_curve(
    probs: np.ndarray,
    y_true: np.ndarray,
    *,
    y_pred: np.ndarray | None = None,
    shares: Sequence[float] = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0),
    groups: np.ndarray | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return how accurate the model is where it answers only the texts that it is surest of.

    Parameters
    ----------
    y_pred : as `metrics.with_confidence` takes it

    Returns
    -------
    DataFrame by share answered: `threshold` (it answers from this confidence on), `accuracy` with
    `low`, `high` (see `significance.grouped_share`), `n`

    Source
    ------
    Chow 1970, "On Optimum Recognition Error and Reject Tradeoff"; El-Yaniv and Wiener 2010.
    """
    y_pred, confidences = with_confidence(probs, y_pred)
    right = y_pred == y_true
    surest_first = np.argsort(-confidences, kind="stable")
    rows = []
    for share in shares:
        n_answered = max(1, round(share * len(probs)))
        answered = surest_first[:n_answered]
        of_answered = None if groups is None else groups[answered]
        accuracy = grouped_share(right[answered], groups=of_answered, confidence=confidence)
        threshold = confidences[answered[-1]]
        rows.append((share, threshold, accuracy.value, accuracy.low, accuracy.high, accuracy.n))
    columns = ["share", "threshold", "accuracy", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns).set_index("share")


def abstention_threshold(
    probs: np.ndarray, *, answered_share: float, y_pred: np.ndarray | None = None
) -> float:
    """Return the confidence below which a classifier abstains, so that it answers a share of texts.

    Parameters
    ----------
    probs : ndarray of shape (n, k) of rows that the model did not learn from
    answered_share : of texts like these, above 0 and at most 1
    y_pred : as `metrics.with_confidence` takes it

    Returns
    -------
    float in [0, 1]; 0 where all are answered

    Examples
    --------
    >>> probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
    >>> abstention_threshold(probs, answered_share=0.5)
    0.8
    >>> abstention_threshold(probs, answered_share=1)
    0.0
    """
    if answered_share == 1:
        return 0.0
    _, confidences = with_confidence(probs, y_pred)
    surest_first = np.sort(confidences)[::-1]
    n_answered = max(1, round(answered_share * len(probs)))
    return float(surest_first[n_answered - 1])


def describe_conformal(table: pd.DataFrame, *, n: int, coverage: float = 0.9) -> str:
    """Return as a sentence how a promise is kept, and at what cost.

    Parameters
    ----------
    table : as `conformal_table` returns it
    n : texts that it was measured on
    coverage : the promise in the table that is nearest to it is read
    """
    promised = min(table.index, key=lambda promise: abs(promise - coverage))
    row = table.loc[promised]
    covered = Interval(row["covered"], row["low"], row["high"], n=n)
    held = f"hold the right class in {covered.percent()} of {n:,} texts"
    named = f"name {row['mean_size']:.2f} classes on average; {row['single']:.0%} of them name one"
    worst = f"The class with the lowest coverage is held in {row['worst_class']:.1%}."
    if row["n_rare"]:
        worst += (
            f" {row['n_rare']:.0f} classes have fewer than the {min_class_rows(promised)} rows "
            "that a promise to a class by itself needs; by class, they are taken together."
        )
    return f"Sets that promise {promised:.0%} {held}, and {named}. {worst}"


def describe_coverage_curve(curve: pd.DataFrame, *, model: str, share: float = 0.8) -> str:
    """Return as a sentence what leaving the other texts unanswered gains.

    Parameters
    ----------
    curve : as `accuracy_coverage_curve` returns it, with `share` and 1.0 among the shares
    model : its name, as "ensemble"
    """
    row = curve.loc[share]
    accuracy = Interval(row["accuracy"], row["low"], row["high"], n=int(row["n"]))
    on_all = curve.loc[1.0, "accuracy"]
    surest = f"the surest {share:.0%} of the texts (confidence {row['threshold']:.2f} or more)"
    return (
        f"Answering {surest}, the {model} is right in {accuracy.percent()}; "
        f"on all texts in {on_all:.1%}."
    )
