"""Intervals: of all metrics, of shares, of gains, of cross-validation, and Student's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypedDict, Unpack

import numpy as np
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from lib.evaluation.metrics import (
    class_aucs,
    class_average_precisions,
    matthews_correlation,
    row_brier_losses,
    row_log_losses,
    with_confidence,
)
from lib.evaluation.resampling import (
    ResamplingPlan,
    WeightedStatistic,
    bca_interval,
    cell_draws,
    draws,
    stacked_macro_f1,
    weighted_balanced_accuracy,
    weighted_class_f1,
    weighted_macro_f1,
    weighted_matthews,
    weighted_mean,
    weighted_sums,
)
from lib.evaluation.significance import rare

RESAMPLED = (
    *("accuracy", "macro_f1", "weighted_f1", "balanced_accuracy", "matthews_correlation"),
    *("brier_loss", "nll_loss"),
)
# that every class has a say in: they need a row of each
RANKING = {
    "roc_auc": (class_aucs, rare.auc_ends),
    "average_precision": (class_average_precisions, rare.average_precision_ends),
}


class ResamplingOptions(TypedDict, total=False):
    """The options of `intervals_of`, as the functions that call it take them."""

    n_resamples: int
    confidence: float
    seed: int


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval and the number of rows behind it."""

    value: float
    low: float
    high: float
    n: int
    confidence: float = 0.95

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def with_ends(self) -> tuple[float, float, float]:
        """Return value, low and high."""
        return self.value, self.low, self.high

    def signed(self, digits: int = 3) -> str:
        """Return the interval of a difference as text, each number with its sign.

        Examples
        --------
        >>> Interval(0.02, 0.013, 0.027, n=100).signed()
        '+0.020 [+0.013, +0.027]'
        """
        value, low, high = (f"{number:+.{digits}f}" for number in self.with_ends)
        return f"{value} [{low}, {high}]"

    def percent(self) -> str:
        """Return the interval of a share as text.

        Examples
        --------
        >>> Interval(0.9, 0.85, 0.934, n=100).percent()
        '90.0% [85.0%, 93.4%]'
        """
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"

    @property
    def verdict(self) -> str:
        """Return "better" or "worse" where the interval of a gain excludes 0, or "inconclusive"."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "inconclusive"


def metric_intervals(
    y_true: np.ndarray,
    probs: np.ndarray,
    *,
    y_pred: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    **options: Unpack[ResamplingOptions],
) -> dict[str, Interval]:
    """Return the interval of each metric of `metrics.classification_metrics` that is one number.

    Parameters
    ----------
    y_pred : as `metrics.with_confidence` takes it
    groups : (n,) of anything; rows of a group (near-copies) are drawn together, since they are
        right or wrong together
    options : of `intervals_of`: `n_resamples`, `confidence`, `seed`

    Returns
    -------
    dict of Interval under the metric's name. `roc_auc` and `average_precision` are left out where
    a class has no row, `matthews_correlation` where one alone has, `ece` always: chance adds to it,
    more so in a resample (`calibration.debiased_calibration_error` has an interval). Where fewer
    than `rare.FEW` groups are wrong (or right), resamples vary too little: the intervals of
    accuracies, F1s and the correlation are then conservative ones (see `rare`), and those of
    `RANKING` always
    """
    k = probs.shape[1]
    y_pred, _ = with_confidence(probs, y_pred)
    right = y_pred == y_true
    brier_losses = row_brier_losses(probs, y_true)
    log_losses = row_log_losses(probs, y_true)

    def metrics(weights: np.ndarray) -> np.ndarray:
        columns = [
            weighted_mean(weights, right),
            weighted_macro_f1(weights, y_true, y_pred, n_classes=k),
            _support_weighted_f1(weights, y_true, y_pred, n_classes=k),
            weighted_balanced_accuracy(weights, y_true, y_pred, n_classes=k),
            weighted_matthews(weights, y_true, y_pred, n_classes=k),
            weighted_mean(weights, brier_losses),
            weighted_mean(weights, log_losses),
        ]
        return np.stack(columns, axis=1)

    plan = draws(len(y_true), groups=groups)
    intervals = dict(zip(RESAMPLED, intervals_of(metrics, plan, **options)))
    confidence = intervals["accuracy"].confidence
    ends = _score_ends(y_true, y_pred, plan.unit, n_classes=k, confidence=confidence)
    for name, (low, high) in ends.items():
        intervals[name] = replace(intervals[name], low=low, high=high)
    if np.isnan(intervals["matthews_correlation"].value):
        del intervals["matthews_correlation"]
    if len(np.unique(y_true)) == k:
        for name, (class_areas, ends_of) in RANKING.items():
            areas = class_areas(probs, y_true)
            low, high = ends_of(y_true, areas, plan.unit, confidence=confidence)
            mean = float(areas.mean())
            intervals[name] = replace(intervals["accuracy"], value=mean, low=low, high=high)
    return intervals


def class_f1_intervals(
    y_true: np.ndarray,
    y_pred: np.ndarray,
    *,
    n_classes: int,
    groups: np.ndarray | None = None,
    **options: Unpack[ResamplingOptions],
) -> list[Interval]:
    """Return the interval of each class's F1.

    Where few of the rows and predictions of a class are wrong, or few are right, resamples vary too
    little: its interval is then a conservative one (see `rare`).
    """
    plan, (labels, predictions) = cell_draws(y_true, y_pred, groups=groups)

    def class_f1(weights: np.ndarray) -> np.ndarray:
        f1, support = weighted_class_f1(weights, labels, predictions, n_classes=n_classes)
        return np.where(support > 0, f1, np.nan)  # a resample without the class does not count

    intervals = intervals_of(class_f1, plan, **options)
    occurs = np.isin(np.arange(n_classes), [y_true, y_pred])
    for code, interval in enumerate(intervals):
        if not occurs[code]:
            intervals[code] = replace(interval, value=0.0, low=0.0, high=1.0)
            continue
        this_class = np.eye(n_classes)[code]
        ends = rare.f1_ends(
            y_true,
            y_pred,
            plan.unit,
            class_weights=this_class,
            confidence=interval.confidence,
        )
        if ends is not None:
            intervals[code] = replace(interval, low=ends[0], high=ends[1])
    return intervals


def class_f1_gains(
    y_true: np.ndarray,
    pred_first: np.ndarray,
    pred_second: np.ndarray,
    *,
    n_classes: int,
    groups: np.ndarray | None = None,
    **options: Unpack[ResamplingOptions],
) -> list[Interval]:
    """Return the interval of each class's gain in F1, second minus first, on the same rows."""
    plan, (y, first, second) = cell_draws(y_true, pred_first, pred_second, groups=groups)

    def gains(weights: np.ndarray) -> np.ndarray:
        f1_first, _ = weighted_class_f1(weights, y, first, n_classes=n_classes)
        f1_second, _ = weighted_class_f1(weights, y, second, n_classes=n_classes)
        return f1_second - f1_first

    return intervals_of(gains, plan, **options)


def macro_f1_gains(
    y_true: np.ndarray,
    first: np.ndarray,
    others: Sequence[np.ndarray],
    *,
    n_classes: int,
    groups: np.ndarray | None = None,
    **options: Unpack[ResamplingOptions],
) -> list[Interval]:
    """Return the interval of the gain in macro F1 of each of several predictions over the first."""
    plan, (y, *predictions) = cell_draws(y_true, first, *others, groups=groups)

    def gains(weights: np.ndarray) -> np.ndarray:
        f1 = stacked_macro_f1(weights, y, predictions, n_classes=n_classes)
        return f1[:, 1:] - f1[:, :1]

    return intervals_of(gains, plan, **options)


def share_interval(n_found: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Return a share of n rows with its Wilson interval.

    It holds for few rows and for shares of 0 and 1 too.

    Examples
    --------
    >>> str(share_interval(0, 20))
    '0.000 [0.000, 0.161]'
    """
    ends = stats.binomtest(n_found, n).proportion_ci(confidence, method="wilson")
    return Interval(float(n_found / n), float(ends.low), float(ends.high), n, confidence)


def grouped_share(
    found: np.ndarray, *, groups: np.ndarray | None = None, confidence: float = 0.95
) -> Interval:
    """Return the share of rows that are found, with the interval of as many rows in such groups.

    Parameters
    ----------
    found : ndarray of bool of shape (n,)
    groups : (n,) of anything; rows of a group (near-copies, one author) count as little more than
        one where they are alike; None: each row is by itself, and the interval is Wilson's

    Source
    ------
    Korn and Graubard 1998, "Confidence intervals for proportions with small expected number of
    positive counts estimated from survey data".
    """
    n = len(found)
    unit = np.unique(np.arange(n) if groups is None else groups, return_inverse=True)[1]
    n_units = int(unit.max()) + 1
    if n_units == n:
        return share_interval(int(found.sum()), n, confidence=confidence)
    share = float(found.mean())
    by_unit = np.bincount(unit, weights=found - share)
    between = float((by_unit**2).sum())
    n_effective = n**2 * share * (1 - share) / between if between else n_units
    tail = 0.5 + confidence / 2
    n_effective *= (stats.norm.ppf(tail) / stats.t.ppf(tail, n_units - 1)) ** 2
    n_effective = min(n, n_effective)
    low, high = proportion_confint(
        share * n_effective, n_effective, alpha=1 - confidence, method="beta"
    )
    return Interval(share, float(low), float(high), n, confidence)


def share_gap(first: Interval, second: Interval) -> Interval:
    """Return the first of two independent shares less the second.

    Source
    ------
    Newcombe 1998, method 10; Zou and Donner 2008: from the intervals of each, whatever their kind.

    Examples
    --------
    >>> share_gap(share_interval(56, 70), share_interval(48, 80)).signed(4)
    '+0.2000 [+0.0524, +0.3339]'
    """
    gap = first.value - second.value
    below = np.hypot(first.value - first.low, second.high - second.value)
    above = np.hypot(first.high - first.value, second.value - second.low)
    return replace(first, value=gap, low=float(gap - below), high=float(gap + above))


def student_interval(
    value: float,
    error: float,
    *,
    n_values: int,
    n: int,
    confidence: float = 0.95,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Interval:
    """Return the mean of a few values with Student's interval.

    Parameters
    ----------
    value, error : the mean and its standard error
    n_values : how many values have been averaged; there is one degree of freedom less
    n : rows behind the values
    bounds : the range of the statistic; the interval does not leave it

    Examples
    --------
    >>> str(student_interval(0.5, 0.1, n_values=3, n=100, bounds=(0, 1)))
    '0.500 [0.070, 0.930]'
    """
    reach = stats.t.ppf(0.5 + confidence / 2, n_values - 1) * error
    low, high = np.clip([value - reach, value + reach], *bounds)
    return Interval(float(value), float(low), float(high), n, confidence)


def cross_validation_interval(
    scores: np.ndarray, *, n_train: int, n_test: int, confidence: float = 0.95
) -> Interval:
    """Return the mean of cross-validation scores, or of differences in them, with an interval.

    The folds' training rows overlap, so that their scores vary less than those of fresh samples
    would: the variance of the mean is 1/J + n_test/n_train of that between the J scores, not 1/J.

    Parameters
    ----------
    scores : ndarray of shape (J,), one for each fold of each repetition
    n_train, n_test : rows that a fold is trained and scored on

    Returns
    -------
    Interval (Student's, J - 1 degrees of freedom); `n` is n_train + n_test

    Source
    ------
    Nadeau and Bengio 2003, "Inference for the Generalization Error"; Bouckaert and Frank 2004 for
    repetitions.

    Examples
    --------
    >>> str(cross_validation_interval(np.array([0.80, 0.82, 0.84]), n_train=200, n_test=100))
    '0.820 [0.741, 0.899]'
    """
    n_scores = len(scores)
    if n_scores < 2 or min(n_train, n_test) < 1:
        raise ValueError(
            "needs at least two scores and rows on both sides, got "
            f"{n_scores} scores, n_train={n_train} and n_test={n_test}"
        )
    error = np.sqrt(np.var(scores, ddof=1) * (1 / n_scores + n_test / n_train))
    return student_interval(
        np.mean(scores), error, n_values=n_scores, n=n_train + n_test, confidence=confidence
    )


def intervals_of(
    statistic: WeightedStatistic,
    plan: ResamplingPlan,
    *,
    n_resamples: int = 2_000,
    confidence: float = 0.95,
    seed: int = 42,
) -> list[Interval]:
    """Return the interval of each column of a statistic of weighted rows.

    Parameters
    ----------
    statistic, plan : as `resampling.bca_interval` takes them
    n_resamples : 2,000 give the ends to about a twentieth of the interval's width
    """
    columns = bca_interval(
        statistic, plan, n_resamples=n_resamples, confidence=confidence, seed=seed
    )
    n = len(plan.cell)
    return [
        Interval(value, low, high, n, confidence)
        for value, low, high in np.stack(columns, axis=1).tolist()
    ]


def _score_ends(
    y_true: np.ndarray, y_pred: np.ndarray, unit: np.ndarray, *, n_classes: int, confidence: float
) -> dict[str, tuple[float, float]]:
    """Return the ends of scores of classes where few rows are wrong, or few right.

    Those of the correlation are as far from it as those of accuracy are, by how much the
    correlation rises with it (a first order approximation).
    """
    n = len(y_true)
    right = y_pred == y_true
    n_rows = np.bincount(y_true, minlength=n_classes)
    alike = 1 / (np.count_nonzero(n_rows) * n_rows[y_true])  # each class counts as much
    occurs = n_rows + np.bincount(y_pred, minlength=n_classes) > 0
    f1 = partial(rare.f1_ends, y_true, y_pred, unit, confidence=confidence)
    accuracy = partial(rare.accuracy_ends, right, unit, confidence=confidence)
    found = {
        "accuracy": accuracy(of_row=np.full(n, 1 / n)),
        "balanced_accuracy": accuracy(of_row=alike),
        "macro_f1": f1(class_weights=occurs / occurs.sum()),
        "weighted_f1": f1(class_weights=n_rows / n_rows.sum()),
    }
    correlation = matthews_correlation(y_true, y_pred)
    if found["accuracy"] is not None and correlation is not None:
        rise = 1 / (1 - np.sum((n_rows / n) ** 2))
        distances = np.subtract(found["accuracy"], right.mean())
        low, high = np.clip(correlation + rise * distances, -1, 1).tolist()
        found["matthews_correlation"] = low, high
    return {name: ends for name, ends in found.items() if ends is not None}


def _support_weighted_f1(
    weights: np.ndarray, y_true: np.ndarray, y_pred: np.ndarray, *, n_classes: int
) -> np.ndarray:
    f1, _ = weighted_class_f1(weights, y_true, y_pred, n_classes=n_classes)
    n_rows = weighted_sums(weights, y_true, n_codes=n_classes)
    return (f1 * n_rows).sum(axis=1) / n_rows.sum(axis=1)
