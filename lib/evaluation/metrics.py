"""Accuracy, F1s, correlation, ranking and calibration from true classes and probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.metrics import (
    average_precision_score,
    log_loss,
    matthews_corrcoef,
    precision_recall_fscore_support,
)

EPSILON = float(np.finfo(float).eps)


def accuracy(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Return the share of rows whose class is right."""
    return float(np.mean(y_true == y_pred))


def macro_f1(y_true: np.ndarray, y_pred: np.ndarray, *, n_classes: int | None = None) -> float:
    """Return the unweighted mean of the classes' F1, without classes of no row and no prediction.

    Equal to scikit-learn's `f1_score(average="macro")` and some twenty times as fast, which
    resampling needs.

    Examples
    --------
    >>> macro_f1(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]))
    0.7333333333333334
    """
    k = n_classes or int(max(y_true.max(), y_pred.max())) + 1
    f1 = class_f1(y_true, y_pred, n_classes=k)
    return float(f1[_support(y_true, y_pred, k) > 0].mean())


def class_f1(y_true: np.ndarray, y_pred: np.ndarray, *, n_classes: int) -> np.ndarray:
    """Return each class's F1, 0 where it has neither row nor prediction: ndarray (n_classes,)."""
    right = np.bincount(y_true[y_true == y_pred], minlength=n_classes)
    return 2 * right / np.maximum(1, _support(y_true, y_pred, n_classes))


def _support(y_true: np.ndarray, y_pred: np.ndarray, n_classes: int) -> np.ndarray:
    """Return each class's number of rows plus that of predictions."""
    return np.bincount(y_true, minlength=n_classes) + np.bincount(y_pred, minlength=n_classes)


def roc_auc(probs: np.ndarray, y_true: np.ndarray) -> float:
    """Return the area under the ROC curve, one class against the rest, the mean over classes.

    0.5 is chance. Equal to scikit-learn's `roc_auc_score(multi_class="ovr")`, from ranks (Hanley
    and McNeil 1982). A class without a row, or with all of them, is left out; NaN where that leaves
    none.
    """
    areas = class_aucs(probs, y_true)
    defined = np.isfinite(areas)
    return float(areas[defined].mean()) if defined.any() else float("nan")


def class_aucs(probs: np.ndarray, y_true: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve of each class against the rest: ndarray of shape (k,).

    NaN for a class without a row, or with all of them.
    """
    areas = np.full(probs.shape[1], np.nan)
    for code, ranks in enumerate(stats.rankdata(probs, axis=0).T):
        positive = y_true == code
        n_positive = np.count_nonzero(positive)
        n_pairs = n_positive * (len(y_true) - n_positive)
        if n_pairs:
            beaten = ranks[positive].sum() - n_positive * (n_positive + 1) / 2
            areas[code] = beaten / n_pairs
    return areas


def class_average_precisions(probs: np.ndarray, y_true: np.ndarray) -> np.ndarray:
    """Return the average precision of each class against the rest: ndarray of shape (k,).

    The share of the class's rows is chance. NaN for a class without a row, where scikit-learn's is
    0.
    """
    areas = np.full(probs.shape[1], np.nan)
    for code in np.unique(y_true):
        areas[code] = average_precision_score(y_true == code, probs[:, code])
    return areas


def matthews_correlation(y_true: np.ndarray, y_pred: np.ndarray) -> float | None:
    """Return the correlation of true and predicted classes, -1..1 (Gorodkin 2004).

    0 where all predictions are of one class, None where all rows are.
    """
    is_defined = len(np.unique(y_true)) > 1
    return float(matthews_corrcoef(y_true, y_pred)) if is_defined else None


def with_confidence(
    probs: np.ndarray, y_pred: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the label of each row and the probability of it, both of shape (n,).

    Parameters
    ----------
    probs : ndarray of shape (n, k)
    y_pred : ndarray of int of shape (n,); None: the most probable classes
    """
    y_pred = probs.argmax(axis=1) if y_pred is None else y_pred
    return y_pred, probs[np.arange(len(probs)), y_pred]


def expected_calibration_error(
    probs: np.ndarray, y_true: np.ndarray, *, y_pred: np.ndarray | None = None, n_bins: int = 15
) -> float:
    """Return the mean gap between confidence and accuracy, weighted by bin size.

    Parameters
    ----------
    probs : ndarray of shape (n, k), rows summing to 1
    y_true : ndarray of int of shape (n,), columns of `probs`
    y_pred : as `with_confidence` takes it
    n_bins : equal-width bins over [0, 1]

    Returns
    -------
    float in [0, 1]; 0 is perfectly calibrated. Biased upwards when n is small.

    Raises
    ------
    ValueError : shapes differ, a row does not sum to 1 within 1e-6, or n_bins < 1.

    Source
    ------
    Guo et al. 2017, "On Calibration of Modern Neural Networks".

    Examples
    --------
    >>> expected_calibration_error(np.array([[0.8, 0.2], [0.8, 0.2]]), np.array([0, 1]))
    0.3
    """
    rows = _binned(probs, y_true, y_pred, n_bins)
    gaps = np.bincount(rows["bin"], weights=rows["confidence"] - rows["accuracy"])
    error = np.abs(gaps).sum() / len(y_true)
    return float(error.round(12))


def reliability_bins(
    probs: np.ndarray, y_true: np.ndarray, *, y_pred: np.ndarray | None = None, n_bins: int = 15
) -> pd.DataFrame:
    """Return mean `confidence`, `accuracy` and `n` of each bin of confidence that holds a row."""
    bins = _binned(probs, y_true, y_pred, n_bins).groupby("bin")
    return bins.mean().assign(n=bins.size())


def _binned(
    probs: np.ndarray, y_true: np.ndarray, y_pred: np.ndarray | None, n_bins: int
) -> pd.DataFrame:
    """Return the `bin` of each row, its `confidence`, and `accuracy`: whether it is right."""
    probs = checked_probs(probs, y_true)
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, got {n_bins}")
    y_pred, confidence = with_confidence(probs, y_pred)
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    right = y_pred == y_true
    return pd.DataFrame({"bin": bins, "confidence": confidence, "accuracy": right})


def brier_score_loss(probs: np.ndarray, y_true: np.ndarray) -> float:
    """Return the mean squared distance of probabilities and truth, 0 (best) to 2 (Brier 1950)."""
    probs = checked_probs(probs, y_true)
    return float(row_brier_losses(probs, y_true).mean())


def row_brier_losses(probs: np.ndarray, y_true: np.ndarray) -> np.ndarray:
    """Return each row's squared distance of probabilities and truth, 0..2: ndarray (n,)."""
    truth = np.eye(probs.shape[1])[y_true]
    return np.sum((probs - truth) ** 2, axis=1)


def row_log_losses(probs: np.ndarray, y_true: np.ndarray, *, floor: float = EPSILON) -> np.ndarray:
    """Return each row's log loss, the negative logarithm of its class's probability: ndarray (n,).

    Parameters
    ----------
    floor : probabilities below it count as it, so that no loss is infinite

    Examples
    --------
    >>> row_log_losses(np.array([[0.25, 0.75], [1.0, 0.0]]), np.array([1, 0])).round(3)
    array([ 0.288, -0.   ])
    """
    of_truth = probs[np.arange(len(probs)), y_true]
    return -np.log(np.maximum(of_truth, floor))


def classification_metrics(
    y_true: np.ndarray,
    probs: np.ndarray,
    *,
    class_names: Sequence[str],
    y_pred: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return all metrics of one model.

    Parameters
    ----------
    y_true : ndarray of int of shape (n,), columns of `probs`
    probs : ndarray of shape (n, k), rows summing to 1
    class_names : names of the k columns
    y_pred : as `with_confidence` takes it

    Returns
    -------
    dict: n, accuracy, macro_f1, weighted_f1, balanced_accuracy (mean recall of the classes that
    have rows), matthews_correlation (None where one class alone has rows), roc_auc and
    average_precision (one against the rest, macro; None where a class has no row), ece, brier_loss,
    nll_loss, and `classes`: {name: {precision, recall, f1, n}}

    Raises
    ------
    ValueError : shapes differ, a row does not sum to 1, or a class is out of range.
    """
    scaled = checked_probs(probs, y_true)
    n_classes = len(class_names)
    if scaled.shape[1] != n_classes:
        raise ValueError(f"probs has {scaled.shape[1]} columns, class_names {n_classes}")
    y_pred, _ = with_confidence(scaled, y_pred)
    codes = np.arange(n_classes)
    scores = precision_recall_fscore_support(y_true, y_pred, labels=codes, zero_division=0.0)
    by_class = dict(zip(["precision", "recall", "f1", "n"], scores))
    table = pd.DataFrame(by_class, index=class_names)
    auc = average_precision = None
    if table["n"].min() > 0:
        given = np.asarray(probs)  # ranks of probabilities as they are given
        auc = roc_auc(given, y_true)
        average_precision = float(class_average_precisions(given, y_true).mean())
    return {
        "n": len(y_true),
        "accuracy": accuracy(y_true, y_pred),
        "macro_f1": macro_f1(y_true, y_pred, n_classes=n_classes),
        "weighted_f1": float(np.average(table["f1"], weights=table["n"])),
        "balanced_accuracy": float(table.loc[table["n"] > 0, "recall"].mean()),
        "matthews_correlation": matthews_correlation(y_true, y_pred),
        "roc_auc": auc,
        "average_precision": average_precision,
        "ece": expected_calibration_error(scaled, y_true, y_pred=y_pred),
        "brier_loss": brier_score_loss(scaled, y_true),
        "nll_loss": float(log_loss(y_true, scaled, labels=codes)),
        "classes": table.to_dict("index"),
    }


def checked_probs(probs: np.ndarray, y_true: np.ndarray) -> np.ndarray:
    """Return `probs` as float64, each row summing to 1 exactly.

    Raises
    ------
    ValueError : shapes differ, a probability is negative, a row does not sum to 1 within 1e-6, or a
        class of `y_true` is out of range; the first row that is wrong is named.
    """
    probs = np.asarray(probs, dtype=np.float64)
    if probs.ndim != 2 or len(probs) != len(y_true):
        raise ValueError(f"probs must have shape ({len(y_true)}, n_classes), got {probs.shape}")
    if not len(probs):
        return probs
    lowest = probs.min(axis=1)
    if lowest.min() < 0:
        row = np.argmax(lowest < 0)
        raise ValueError(f"probs must be 0..1; row {row} has {lowest[row]:.6g}")
    sums = probs.sum(axis=1)
    sums_to_1 = np.isclose(sums, 1, rtol=0, atol=1e-6)
    if not sums_to_1.all():
        row = np.argmin(sums_to_1)
        raise ValueError(f"probs rows must sum to 1; row {row} sums to {sums[row]:.6g}")
    first = np.min(y_true)
    last = np.max(y_true)
    k = probs.shape[1]
    if first < 0 or last >= k:
        raise ValueError(f"y_true must be in 0..{k - 1}, found {first}..{last}")
    return probs / sums[:, None]
