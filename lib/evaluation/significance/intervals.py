"""Intervals: of any statistic, of all metrics, of shares, of gains, of cross-validation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from lib.evaluation import resampling


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


def bootstrap_interval(
    statistic: Callable[..., float],
    *arrays: np.ndarray,
    groups: np.ndarray | None = None,
    strata: np.ndarray | None = None,
    n_resamples: int = 2_000,
    confidence: float = 0.95,
    seed: int = 42,
) -> Interval:
    """Return any statistic with its BCa bootstrap interval over rows.

    Parameters
    ----------
    statistic : takes the arrays, returns a number
    arrays : each of length n; rows are resampled together
    groups : (n,) of anything; rows of a group (near-copies) are drawn together
    strata : (n,) of anything; each keeps its number of rows, or of groups, two at least
    n_resamples : 2,000 gives the ends to about a twentieth of the interval's width
    confidence : share of intervals that hold the truth, 0..1

    Source
    ------
    Efron 1987, "Better Bootstrap Confidence Intervals"; scipy.stats.bootstrap. Where every resample gives the same
    value, the interval is that value.
    """
    n, value = len(arrays[0]), statistic(*arrays)
    if any(len(array) != n for array in arrays) or n < 2:
        raise ValueError(
            f"arrays must have one length of at least 2, got {[len(array) for array in arrays]}"
        )

    how = resampling.draws(n, groups=groups, strata=strata)
    if strata is not None and (small := np.flatnonzero(np.bincount(how.stratum) < 2)).size:
        raise ValueError(
            f"a stratum needs two rows or groups, to be drawn from; {np.unique(strata)[small[0]]!s} has one"
        )
    order, sizes = np.argsort(how.unit, kind="stable"), np.bincount(how.unit)
    rows_of = np.split(order, np.cumsum(sizes)[:-1])

    def of_units(*units: np.ndarray) -> float:
        rows = (
            np.concatenate([rows_of[unit] for unit in np.concatenate(units).astype(int)])
            if groups is not None
            else np.concatenate(units).astype(int)
        )
        return statistic(*(array[rows] for array in arrays))

    samples = tuple(np.flatnonzero(how.stratum == s) for s in range(how.stratum.max() + 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of a degenerate distribution, handled below
        found = stats.bootstrap(
            samples,
            of_units,
            n_resamples=n_resamples,
            batch=max(1, resampling.BATCH_CELLS // n),  # else its jackknife holds n times n rows
            vectorized=False,
            confidence_level=confidence,
            method="BCa",
            rng=np.random.default_rng(seed),
        )
    low, high = found.confidence_interval
    if np.isnan(low) or np.isnan(high):
        tail = (1 - confidence) / 2
        low, high = np.quantile(found.bootstrap_distribution, [tail, 1 - tail])
    return Interval(float(value), float(low), float(high), n, confidence)


def metric_intervals(
    y_true: np.ndarray,
    probs: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    n_resamples: int = 2_000,
    confidence: float = 0.95,
    seed: int = 42,
) -> dict[str, Interval]:
    """Return the interval of every metric of `metrics.classification_metrics` that is one number, under its name there.

    Parameters
    ----------
    groups : (n,) of anything; rows of a group (near-copies) are drawn together, since they are right or wrong together

    Returns
    -------
    dict of Interval; `roc_auc` is left out where a class has no row, `ece` always: chance adds to it, more so in a resample
    (`calibration.debiased_calibration_error` has an interval). Where all rows are right, or all wrong, those of accuracy and of the
    F1s are Wilson's: a resample would never say otherwise
    """
    k, y_pred = probs.shape[1], probs.argmax(axis=1)
    squared = np.sum((probs - np.eye(k)[y_true]) ** 2, axis=1)
    surprise = -np.log(np.clip(probs[np.arange(len(probs)), y_true], np.finfo(float).eps, None))
    statistics: dict[str, resampling.WeightedStatistic] = {
        "accuracy": lambda w: resampling.weighted_mean(w, y_pred == y_true),
        "macro_f1": lambda w: resampling.weighted_macro_f1(w, y_true, y_pred, n_classes=k),
        "weighted_f1": lambda w: _support_weighted_f1(w, y_true, y_pred, n_classes=k),
        "roc_auc": lambda w: resampling.weighted_roc_auc(w, y_true, probs),
        "brier_loss": lambda w: resampling.weighted_mean(w, squared),
        "nll_loss": lambda w: resampling.weighted_mean(w, surprise),
    }
    if len(np.unique(y_true)) < k:
        del statistics["roc_auc"]
    how = resampling.draws(len(y_true), groups=groups)
    found = intervals_of(
        lambda w: np.stack([of(w) for of in statistics.values()], axis=1),
        how,
        n_resamples=n_resamples,
        confidence=confidence,
        seed=seed,
    )
    named, right = dict(zip(statistics, found)), y_pred == y_true
    if right.all() or not right.any():
        low, high = _wilson_ends(right, how.unit, confidence=confidence)
        named["accuracy"] = replace(named["accuracy"], low=low, high=high)
        ends = [
            _f1_ends(y_true, y_pred, code, how.unit, confidence=confidence)
            for code in np.unique([y_true, y_pred])
        ]
        low, high = np.mean(
            ends, axis=0
        ).tolist()  # as if each class were at its end at the same time: wider than need be
        named |= {
            name: replace(named[name], low=low, high=high) for name in ("macro_f1", "weighted_f1")
        }
    return named


def class_f1_intervals(
    y_true: np.ndarray,
    y_pred: np.ndarray,
    *,
    n_classes: int,
    groups: np.ndarray | None = None,
    n_resamples: int = 2_000,
    confidence: float = 0.95,
    seed: int = 42,
) -> list[Interval]:
    """Return the interval of each class's F1; where resamples cannot differ (all of its rows right, or all wrong), from Wilson's of the rows concerned."""
    cell, (of_true, of_pred) = resampling.unique_cells(y_true, y_pred)
    how = resampling.draws(len(y_true), cell=cell, groups=groups)

    def class_f1(weights: np.ndarray) -> np.ndarray:
        f1, together = resampling.weighted_class_f1(weights, of_true, of_pred, n_classes=n_classes)
        return np.where(together > 0, f1, np.nan)  # a resample without the class says nothing of it

    found = intervals_of(class_f1, how, n_resamples=n_resamples, confidence=confidence, seed=seed)
    found = [
        replace(interval, value=0.0) if np.isnan(interval.value) else interval for interval in found
    ]  # neither a row nor a prediction
    for code, interval in enumerate(found):
        if not interval.low < interval.high:
            low, high = _f1_ends(y_true, y_pred, code, how.unit, confidence=confidence)
            found[code] = replace(interval, low=low, high=high)
    return found


def class_f1_gains(
    y_true: np.ndarray,
    pred_first: np.ndarray,
    pred_second: np.ndarray,
    *,
    n_classes: int,
    groups: np.ndarray | None = None,
    n_resamples: int = 2_000,
    confidence: float = 0.95,
    seed: int = 42,
) -> list[Interval]:
    """Return the interval of each class's gain in F1, second minus first, on the same rows."""
    cell, (y, a, b) = resampling.unique_cells(y_true, pred_first, pred_second)

    def gains(weights: np.ndarray) -> np.ndarray:
        first, second = (
            resampling.weighted_class_f1(weights, y, predicted, n_classes=n_classes)[0]
            for predicted in (a, b)
        )
        return second - first

    how = resampling.draws(len(y_true), cell=cell, groups=groups)
    return intervals_of(gains, how, n_resamples=n_resamples, confidence=confidence, seed=seed)


def macro_f1_gains(
    y_true: np.ndarray,
    first: np.ndarray,
    others: Sequence[np.ndarray],
    *,
    n_classes: int,
    groups: np.ndarray | None = None,
    n_resamples: int = 2_000,
    confidence: float = 0.95,
    seed: int = 42,
) -> list[Interval]:
    """Return the interval of the gain in macro F1 of each of several predictions over the first, on the same rows."""
    cell, (y, a, *predicted) = resampling.unique_cells(y_true, first, *others)

    def gains(weights: np.ndarray) -> np.ndarray:
        before, *after = (
            resampling.weighted_macro_f1(weights, y, each, n_classes=n_classes)
            for each in (a, *predicted)
        )
        return np.stack(after, axis=1) - before[:, None]

    how = resampling.draws(len(y_true), cell=cell, groups=groups)
    return intervals_of(gains, how, n_resamples=n_resamples, confidence=confidence, seed=seed)


def share_interval(n_found: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Return a share of n rows with its Wilson interval, which holds for few rows and for shares of 0 and 1 too.

    Examples
    --------
    >>> str(share_interval(0, 20))
    '0.000 [0.000, 0.161]'
    """
    ends = stats.binomtest(n_found, n).proportion_ci(confidence, method="wilson")
    return Interval(n_found / n, float(ends.low), float(ends.high), n, confidence)


def cross_validation_interval(
    scores: np.ndarray, *, n_train: int, n_test: int, confidence: float = 0.95
) -> Interval:
    """Return the mean of the scores of (repeated) cross-validation, or of differences in them, with an interval.

    The folds' training rows overlap, so that their scores vary less than those of fresh samples would: the variance of the mean is
    1/J + n_test/n_train of that between the J scores, not 1/J.

    Parameters
    ----------
    scores : ndarray of shape (J,), one for each fold of each repetition
    n_train, n_test : rows that a fold is trained and scored on

    Returns
    -------
    Interval (Student's, J - 1 degrees of freedom); `n` is n_train + n_test

    Source
    ------
    Nadeau and Bengio 2003, "Inference for the Generalization Error"; Bouckaert and Frank 2004 for repetitions.

    Examples
    --------
    >>> str(cross_validation_interval(np.array([0.80, 0.82, 0.84]), n_train=200, n_test=100))
    '0.820 [0.741, 0.899]'
    """
    if len(scores) < 2 or min(n_train, n_test) < 1:
        raise ValueError(
            f"needs two scores or more and rows on both sides, got {len(scores)} scores, n_train={n_train} and n_test={n_test}"
        )
    error = np.sqrt(np.var(scores, ddof=1) * (1 / len(scores) + n_test / n_train))
    reach, mean = stats.t.ppf(0.5 + confidence / 2, len(scores) - 1) * error, float(np.mean(scores))
    return Interval(mean, float(mean - reach), float(mean + reach), n_train + n_test, confidence)


def intervals_of(
    statistic: resampling.WeightedStatistic,
    how: resampling.ResamplingPlan,
    *,
    n_resamples: int,
    confidence: float,
    seed: int,
) -> list[Interval]:
    """Return the interval of each column of a statistic of weighted rows, as `resampling.bca_interval` takes it."""
    ends = resampling.bca_interval(
        statistic, how, n_resamples=n_resamples, confidence=confidence, seed=seed
    )
    return [
        Interval(float(value), float(low), float(high), len(how.cell), confidence)
        for value, low, high in zip(*ends)
    ]


def _wilson_ends(right: np.ndarray, unit: np.ndarray, *, confidence: float) -> tuple[float, float]:
    """Return the ends for rows that are all right or all wrong: those of as many units (a unit is a group of near-copies, or a row)."""
    n = len(np.unique(unit))
    interval = share_interval(n if right.all() else 0, n, confidence=confidence)
    return interval.low, interval.high


def _f1_ends(
    y_true: np.ndarray, y_pred: np.ndarray, code: int, unit: np.ndarray, *, confidence: float
) -> tuple[float, float]:
    """Return the ends of the F1 of a class whose rows and predictions are all right or all wrong: F1 is 2 J / (1 + J) of their share J that is right."""
    concerned = (y_true == code) | (y_pred == code)
    if not concerned.any():
        return 0.0, 1.0
    low, high = _wilson_ends((y_true == y_pred)[concerned], unit[concerned], confidence=confidence)
    return 2 * low / (1 + low), 2 * high / (1 + high)


def _support_weighted_f1(
    weights: np.ndarray, y_true: np.ndarray, y_pred: np.ndarray, *, n_classes: int
) -> np.ndarray:
    f1, _ = resampling.weighted_class_f1(weights, y_true, y_pred, n_classes=n_classes)
    support = resampling.weighted_sums(weights, y_true, n_places=n_classes)
    return (f1 * support).sum(axis=1) / support.sum(axis=1)
