"""Intervals, paired tests, and the smallest gain that a test set can show."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from lib.evaluation.metrics import accuracy, class_f1, expected_calibration_error, macro_f1, roc_auc


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


@dataclass(frozen=True)
class PairedTest:
    """Two models on the same rows, second minus first.

    Attributes
    ----------
    accuracy_gain, macro_f1_gain : differences with bootstrap intervals, -1..1
    p_value : exact McNemar test of equal accuracy, two-sided
    disagreement : share of rows where one model alone is right, 0..1
    detectable : the smallest accuracy gain that these rows would show with 80 % power
    verdict : "better", "worse" or "cannot tell": McNemar and the interval of the macro F1 gain must agree
    """

    accuracy_gain: Interval
    macro_f1_gain: Interval
    p_value: float
    disagreement: float
    detectable: float
    verdict: str


def bootstrap_interval(statistic: Callable[..., float], *arrays: np.ndarray, n_resamples: int = 2_000, confidence: float = 0.95, seed: int = 42) -> Interval:
    """Return a statistic with its BCa bootstrap interval over rows.

    Parameters
    ----------
    statistic : takes the arrays, returns a number
    arrays : each of length n; rows are resampled together
    n_resamples : 2,000 gives the ends to about a twentieth of the interval's width
    confidence : share of intervals that hold the truth, 0..1

    Source
    ------
    Efron 1987, "Better Bootstrap Confidence Intervals"; scipy.stats.bootstrap. Where every resample gives the same
    value, the interval is that value.
    """
    n, value = len(arrays[0]), statistic(*arrays)
    if any(len(array) != n for array in arrays) or n < 2:
        raise ValueError(f"arrays must have one length of at least 2, got {[len(array) for array in arrays]}")

    def of_rows(rows: np.ndarray) -> float:
        rows = rows.astype(int)
        return statistic(*(array[rows] for array in arrays))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of a degenerate distribution, handled below
        found = stats.bootstrap(
            (np.arange(n),), of_rows, n_resamples=n_resamples, vectorized=False, confidence_level=confidence, method="BCa", rng=np.random.default_rng(seed)
        )
    low, high = found.confidence_interval
    if np.isnan(low) or np.isnan(high):
        tail = (1 - confidence) / 2
        low, high = np.quantile(found.bootstrap_distribution, [tail, 1 - tail])
    return Interval(float(value), float(low), float(high), n, confidence)


def metric_intervals(y_true: np.ndarray, probs: np.ndarray, *, n_resamples: int = 2_000, confidence: float = 0.95, seed: int = 42) -> dict[str, Interval]:
    """Return the interval of every metric of `metrics.classification_metrics` that is one number, under its name there.

    `roc_auc` is left out where a class has no row.
    """
    k, y_pred = probs.shape[1], probs.argmax(axis=1)
    weights = np.bincount(y_true, minlength=k) / len(y_true)
    squared = np.sum((probs - np.eye(k)[y_true]) ** 2, axis=1)
    surprise = -np.log(np.clip(probs[np.arange(len(probs)), y_true], np.finfo(float).eps, None))

    def weighted_f1(y: np.ndarray, predicted: np.ndarray) -> float:
        return float(class_f1(y, predicted, n_classes=k) @ weights)

    statistics: dict[str, tuple[Callable[..., float], tuple[np.ndarray, ...]]] = {
        "accuracy": (accuracy, (y_true, y_pred)),
        "macro_f1": (lambda y, predicted: macro_f1(y, predicted, n_classes=k), (y_true, y_pred)),
        "weighted_f1": (weighted_f1, (y_true, y_pred)),
        "roc_auc": (lambda y, p: roc_auc(p, y), (y_true, probs)),
        "ece": (lambda y, p: expected_calibration_error(p, y), (y_true, probs)),
        "brier_loss": (lambda loss: float(loss.mean()), (squared,)),
        "nll_loss": (lambda loss: float(loss.mean()), (surprise,)),
    }
    if weights.min() == 0:
        del statistics["roc_auc"]
    return {
        name: bootstrap_interval(statistic, *arrays, n_resamples=n_resamples, confidence=confidence, seed=seed)
        for name, (statistic, arrays) in statistics.items()
    }


def class_f1_intervals(
    y_true: np.ndarray, y_pred: np.ndarray, *, n_classes: int, n_resamples: int = 2_000, confidence: float = 0.95, seed: int = 42
) -> list[Interval]:
    """Return the interval of each class's F1."""
    return [
        bootstrap_interval(
            lambda y, predicted, code=code: float(class_f1(y, predicted, n_classes=n_classes)[code]),
            y_true,
            y_pred,
            n_resamples=n_resamples,
            confidence=confidence,
            seed=seed,
        )
        for code in range(n_classes)
    ]


def paired_test(
    y_true: np.ndarray, pred_first: np.ndarray, pred_second: np.ndarray, *, n_resamples: int = 2_000, confidence: float = 0.95, seed: int = 42
) -> PairedTest:
    """Compare two models' predictions on the same rows.

    Parameters
    ----------
    y_true, pred_first, pred_second : ndarray of int of shape (n,)

    Source
    ------
    McNemar 1947, exact binomial form; paired bootstrap of the gain in macro F1 (Berg-Kirkpatrick et al. 2012).
    """
    first, second = pred_first == y_true, pred_second == y_true
    won, lost = int((second & ~first).sum()), int((first & ~second).sum())
    p_value = float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0
    k = int(max(y_true.max(), pred_first.max(), pred_second.max())) + 1

    def f1_gain(y: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
        return macro_f1(y, b, n_classes=k) - macro_f1(y, a, n_classes=k)

    def accuracy_gain(y: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
        return accuracy(y, b) - accuracy(y, a)

    arrays = (y_true, pred_first, pred_second)
    f1 = bootstrap_interval(f1_gain, *arrays, n_resamples=n_resamples, confidence=confidence, seed=seed)
    gain = bootstrap_interval(accuracy_gain, *arrays, n_resamples=n_resamples, confidence=confidence, seed=seed)
    sure = p_value < 1 - confidence
    verdict = "better" if sure and f1.low > 0 and won > lost else "worse" if sure and f1.high < 0 and lost > won else "cannot tell"
    disagreement = (won + lost) / len(y_true)
    return PairedTest(gain, f1, p_value, disagreement, smallest_detectable_gain(len(y_true), disagreement=disagreement), verdict)


def gain_over_seeds(y_true: np.ndarray, first: np.ndarray, second: np.ndarray, *, confidence: float = 0.95, n_resamples: int = 500, seed: int = 42) -> Interval:
    """Return the gain in macro F1 of one way of training over another, each repeated with the same seeds.

    Two sources of chance add up: the seeds (the deviation of the gain between them) and the rows it was measured on (a
    bootstrap of the gain averaged over seeds). The interval is Student's, with one degree of freedom less than there are seeds.

    Parameters
    ----------
    y_true : ndarray of int of shape (n,)
    first, second : predicted classes, ndarrays of int of shape (n_seeds, n), row s from the same seed

    Returns
    -------
    Interval of second minus first, -1..1; `n` is the number of rows

    Source
    ------
    ours; the two sources are those of Bouthillier et al. 2021, "Accounting for Variance in Machine Learning Benchmarks"

    Raises
    ------
    ValueError : shapes differ, or fewer than two seeds.
    """
    if first.shape != second.shape or first.ndim != 2 or first.shape[1:] != y_true.shape or len(first) < 2:
        raise ValueError(f"first and second must be of shape (seeds, {len(y_true)}) with two seeds or more, got {first.shape} and {second.shape}")
    k, n_seeds = int(max(y_true.max(), first.max(), second.max())) + 1, len(first)

    def gains(rows: np.ndarray) -> np.ndarray:
        y = y_true[rows]
        return np.array([macro_f1(y, b[rows], n_classes=k) - macro_f1(y, a[rows], n_classes=k) for a, b in zip(first, second)])

    of_seeds, random = gains(np.arange(len(y_true))), np.random.default_rng(seed)
    of_rows = np.std([gains(random.integers(0, len(y_true), len(y_true))).mean() for _ in range(n_resamples)], ddof=1)
    error = np.sqrt(of_seeds.var(ddof=1) / n_seeds + of_rows**2)
    reach = stats.t.ppf(0.5 + confidence / 2, n_seeds - 1) * error
    low, high = np.clip([of_seeds.mean() - reach, of_seeds.mean() + reach], -1, 1)
    return Interval(float(of_seeds.mean()), float(low), float(high), len(y_true), confidence)


def smallest_detectable_gain(n: int, *, disagreement: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """Return the smallest accuracy gain that a paired test on n rows shows with the given power.

    Parameters
    ----------
    n : rows
    disagreement : share of rows where one model alone is right, 0..1

    Returns
    -------
    float in 0..1; `disagreement` itself where even that would not show

    Source
    ------
    Connor 1987, "Sample size for testing differences in proportions for the paired-sample design".

    Examples
    --------
    >>> round(100 * smallest_detectable_gain(3000, disagreement=0.05), 2)
    1.14
    """
    if not 0 <= disagreement <= 1 or n < 1:
        raise ValueError(f"disagreement must be in 0..1 and n positive, got {disagreement} and {n}")
    z_alpha, z_power = stats.norm.ppf(1 - alpha / 2), stats.norm.ppf(power)

    def shortfall(gain: float) -> float:
        return gain * np.sqrt(n) - z_alpha * np.sqrt(disagreement) - z_power * np.sqrt(max(0.0, disagreement - gain**2))

    if disagreement == 0 or shortfall(disagreement) < 0:
        return disagreement
    return float(optimize.brentq(shortfall, 0, disagreement))
