"""Intervals that hold where few rows are wrong or few are right, when resamples hardly differ."""

from __future__ import annotations

import numpy as np
from scipy import optimize, stats
from statsmodels.stats.proportion import proportion_confint

# of groups or single rows that are wrong (or right): from as many on, the bootstrap is taken
FEW = 10
_EDGE = 1e-12  # of the search for an AUC: at 0 and 1 its variance is 0


def accuracy_ends(
    right: np.ndarray, unit: np.ndarray, *, of_row: np.ndarray, confidence: float
) -> tuple[float, float] | None:
    """Return the ends of the interval of an accuracy, None where neither side is rare.

    Parameters
    ----------
    right : ndarray of bool of shape (n,)
    unit : ndarray of int of shape (n,); rows of a unit are right or wrong together
    of_row : ndarray of shape (n,) that sums to 1: what each row counts
    """
    return _ends(right, unit, loss=of_row, gain=of_row, confidence=confidence)


def f1_ends(
    y_true: np.ndarray,
    y_pred: np.ndarray,
    unit: np.ndarray,
    *,
    class_weights: np.ndarray,
    confidence: float,
) -> tuple[float, float] | None:
    """Return the ends of the interval of a mean of F1s, None where neither side is rare.

    The F1 of a class with the support S (its rows and its predictions) is 1 - (wrong ones of
    both) / S: a mean of F1s is a sum over wrong rows, as it is over right ones.

    Parameters
    ----------
    y_true, y_pred : ndarray of int of shape (n,)
    class_weights : ndarray of shape (n_classes,), of each class's F1 in the mean; 0 for a class
        with neither rows nor predictions
    """
    n_classes = len(class_weights)
    support = np.bincount(y_true, minlength=n_classes) + np.bincount(y_pred, minlength=n_classes)
    share = class_weights / np.maximum(support, 1)
    right = y_true == y_pred
    # a right row could have been taken for the other class where that costs most
    second, first = np.sort(share)[-2:]
    costliest = np.where(y_true == share.argmax(), second, first)
    other = np.where(right, costliest, share[y_pred])
    loss = share[y_true] + other
    return _ends(right, unit, loss=loss, gain=2 * share[y_true], confidence=confidence)


def _ends(
    right: np.ndarray, unit: np.ndarray, *, loss: np.ndarray, gain: np.ndarray, confidence: float
) -> tuple[float, float] | None:
    """Return the ends of a score in 0..1 that is 1 - loss of wrong rows = gain of right ones."""
    lost = np.bincount(unit, weights=loss * ~right)
    gained = np.bincount(unit, weights=gain * right)
    n_lost = int(np.count_nonzero(lost))
    n_gained = int(np.count_nonzero(gained))
    if n_lost < min(FEW, n_gained):
        largest = np.bincount(unit, weights=loss).max()
        low, high = rare_sum_ends(lost, largest=largest, confidence=confidence)
        return max(0.0, 1 - high), 1 - low
    if np.count_nonzero(gained) < FEW:
        largest = np.bincount(unit, weights=gain).max()
        low, high = rare_sum_ends(gained, largest=largest, confidence=confidence)
        return low, min(1.0, high)
    return None


def rare_sum_ends(
    values: np.ndarray, *, largest: float, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the ends of the interval of a sum of rare events of different size.

    It is conservative: it holds in at least as many cases as it says.

    Parameters
    ----------
    values : ndarray of shape (n_units,), 0 for a unit without an event
    largest : value that one more event could have

    Source
    ------
    Fay and Feuer 1997, "Confidence intervals for directly standardized rates: a method based on
    the gamma distribution"; of equal sizes it is the exact interval of a Poisson count.

    Examples
    --------
    >>> low, high = rare_sum_ends(np.array([1, 1, 0, 0]), largest=1)
    >>> round(low, 2), round(high, 2)
    (0.24, 7.22)
    """
    tail = (1 - confidence) / 2
    total = float(values.sum())
    square = float((values**2).sum())
    low = _gamma_quantile(tail, total, square) if total else 0.0
    return low, _gamma_quantile(1 - tail, total + largest, square + largest**2)


def _gamma_quantile(share: float, mean: float, variance: float) -> float:
    return float(stats.gamma.ppf(share, mean**2 / variance, scale=variance / mean))


def auc_ends(
    y_true: np.ndarray, areas: np.ndarray, unit: np.ndarray, *, confidence: float
) -> tuple[float, float]:
    """Return the ends of the interval of the mean area under the ROC curve, one class against the
    rest.

    Parameters
    ----------
    y_true : ndarray of int of shape (n,)
    areas : ndarray of shape (n_classes,); every class has rows, and none has all

    Returns
    -------
    low, high : as if every class were at its end at the same time, which is wider than need be

    Source
    ------
    Newcombe 2006, "Confidence intervals for an effect size measure based on the Mann-Whitney
    statistic", part 2, method 5; it holds for few rows, and for areas near 1.
    """
    ends = []
    for code, area in enumerate(areas):
        n_positive = len(np.unique(unit[y_true == code]))
        n_negative = len(np.unique(unit[y_true != code]))
        ends.append(_area_ends(area, n_positive, n_negative, confidence=confidence))
    low, high = np.mean(ends, axis=0).tolist()
    return low, high


def average_precision_ends(
    y_true: np.ndarray, areas: np.ndarray, unit: np.ndarray, *, confidence: float
) -> tuple[float, float]:
    """Return the ends of the interval of the mean average precision, one class against the rest.

    Parameters
    ----------
    as of `auc_ends`, and every class is at its end at the same time there too

    Source
    ------
    Boyd, Eng, Page 2013, "Area under the Precision-Recall Curve": a binomial share of the class's
    rows. Wilson's interval of it, in place of the normal one, holds for shares of 1 too.
    """
    n_positive = np.array([len(np.unique(unit[y_true == code])) for code in range(len(areas))])
    ends = proportion_confint(areas * n_positive, n_positive, alpha=1 - confidence, method="wilson")
    low, high = np.mean(ends, axis=1).tolist()
    return low, high


def _area_ends(
    area: float, n_positive: int, n_negative: int, *, confidence: float
) -> tuple[float, float]:
    z = stats.norm.ppf(0.5 + confidence / 2)
    n_mean = (n_positive + n_negative) / 2 - 1

    def excess(true: float) -> float:
        """Return how much farther the area is from the true one than chance explains."""
        spread = 1 + n_mean * ((1 - true) / (2 - true) + true / (1 + true))
        variance = true * (1 - true) * spread / (n_positive * n_negative)
        return abs(area - true) - z * np.sqrt(variance)

    low = 0.0
    high = 1.0
    if area > 2 * _EDGE:
        low = float(optimize.brentq(excess, _EDGE, area - _EDGE))
    if area < 1 - 2 * _EDGE:
        high = float(optimize.brentq(excess, area + _EDGE, 1 - _EDGE))
    return low, high
