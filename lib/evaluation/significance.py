"""Intervals, paired tests, and the smallest gain that a test set can show."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize, stats
from statsmodels.stats.multitest import multipletests

from lib.evaluation import resampling
from lib.evaluation.metrics import calibration_gaps, macro_f1


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
    p_macro_f1 : approximate randomisation test of equal macro F1, two-sided; not below 1 / (n_resamples + 1)
    disagreement : share of rows where one model alone is right, 0..1
    detectable : the smallest accuracy gain that these rows would show with 80 % power
    verdict : "better", "worse" or "cannot tell": both tests and the interval of the macro F1 gain must agree
    """

    accuracy_gain: Interval
    macro_f1_gain: Interval
    p_value: float
    p_macro_f1: float
    disagreement: float
    detectable: float
    verdict: str


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
    strata : (n,) of anything; each keeps its number of rows, or of groups
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

    how = resampling.draws(n, groups=groups, strata=strata)
    order, sizes = np.argsort(how.unit, kind="stable"), np.bincount(how.unit)
    rows_of = np.split(order, np.cumsum(sizes)[:-1])

    def of_units(*units: np.ndarray) -> float:
        rows = np.concatenate([rows_of[unit] for unit in np.concatenate(units).astype(int)]) if groups is not None else np.concatenate(units).astype(int)
        return statistic(*(array[rows] for array in arrays))

    samples = tuple(np.flatnonzero(how.stratum == s) for s in range(how.stratum.max() + 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of a degenerate distribution, handled below
        found = stats.bootstrap(
            samples, of_units, n_resamples=n_resamples, vectorized=False, confidence_level=confidence, method="BCa", rng=np.random.default_rng(seed)
        )
    low, high = found.confidence_interval
    if np.isnan(low) or np.isnan(high):
        tail = (1 - confidence) / 2
        low, high = np.quantile(found.bootstrap_distribution, [tail, 1 - tail])
    return Interval(float(value), float(low), float(high), n, confidence)


def metric_intervals(
    y_true: np.ndarray, probs: np.ndarray, *, groups: np.ndarray | None = None, n_resamples: int = 2_000, confidence: float = 0.95, seed: int = 42
) -> dict[str, Interval]:
    """Return the interval of every metric of `metrics.classification_metrics` that is one number, under its name there.

    Parameters
    ----------
    groups : (n,) of anything; rows of a group (near-copies) are drawn together, since they are right or wrong together

    Returns
    -------
    dict of Interval; `roc_auc` is left out where a class has no row
    """
    k, y_pred = probs.shape[1], probs.argmax(axis=1)
    squared = np.sum((probs - np.eye(k)[y_true]) ** 2, axis=1)
    surprise = -np.log(np.clip(probs[np.arange(len(probs)), y_true], np.finfo(float).eps, None))
    place, gap = calibration_gaps(probs, y_true)
    statistics: dict[str, resampling.WeightedStatistic] = {
        "accuracy": lambda w: resampling.weighted_mean(w, y_pred == y_true),
        "macro_f1": lambda w: resampling.weighted_macro_f1(w, y_true, y_pred, n_classes=k),
        "weighted_f1": lambda w: _support_weighted_f1(w, y_true, y_pred, n_classes=k),
        "roc_auc": lambda w: resampling.weighted_roc_auc(w, y_true, probs),
        "ece": lambda w: np.abs(resampling.weighted_sums(w, place, n_places=place.max() + 1, values=gap)).sum(axis=1) / w.sum(axis=1),
        "brier_loss": lambda w: resampling.weighted_mean(w, squared),
        "nll_loss": lambda w: resampling.weighted_mean(w, surprise),
    }
    if len(np.unique(y_true)) < k:
        del statistics["roc_auc"]
    how = resampling.draws(len(y_true), groups=groups)
    found = _intervals(lambda w: np.stack([of(w) for of in statistics.values()], axis=1), how, n_resamples=n_resamples, confidence=confidence, seed=seed)
    return dict(zip(statistics, found))


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
    """Return the interval of each class's F1."""
    cell, (of_true, of_pred) = resampling.cells_of(y_true, y_pred)
    how = resampling.draws(len(y_true), cell=cell, groups=groups)

    def class_f1(weights: np.ndarray) -> np.ndarray:
        return resampling.weighted_class_f1(weights, of_true, of_pred, n_classes=n_classes)[0]

    return _intervals(class_f1, how, n_resamples=n_resamples, confidence=confidence, seed=seed)


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
    cell, (y, a, b) = resampling.cells_of(y_true, pred_first, pred_second)

    def gains(weights: np.ndarray) -> np.ndarray:
        first, second = (resampling.weighted_class_f1(weights, y, predicted, n_classes=n_classes)[0] for predicted in (a, b))
        return second - first

    how = resampling.draws(len(y_true), cell=cell, groups=groups)
    return _intervals(gains, how, n_resamples=n_resamples, confidence=confidence, seed=seed)


def share_interval(n_found: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Return a share of n rows with its Wilson interval, which holds for few rows and for shares of 0 and 1 too.

    Examples
    --------
    >>> str(share_interval(0, 20))
    '0.000 [0.000, 0.161]'
    """
    ends = stats.binomtest(n_found, n).proportion_ci(confidence, method="wilson")
    return Interval(n_found / n, float(ends.low), float(ends.high), n, confidence)


def paired_test(
    y_true: np.ndarray,
    pred_first: np.ndarray,
    pred_second: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    n_resamples: int = 2_000,
    confidence: float = 0.95,
    seed: int = 42,
) -> PairedTest:
    """Compare two models' predictions on the same rows.

    Parameters
    ----------
    y_true, pred_first, pred_second : ndarray of int of shape (n,)
    groups : (n,) of anything; the bootstrap draws rows of a group together

    Source
    ------
    McNemar 1947, exact binomial form; paired bootstrap of the gain (Berg-Kirkpatrick et al. 2012); approximate randomisation
    (Noreen 1989; Yeh 2000).
    """
    first, second = pred_first == y_true, pred_second == y_true
    won, lost = int((second & ~first).sum()), int((first & ~second).sum())
    p_value = float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0
    k = int(max(y_true.max(), pred_first.max(), pred_second.max())) + 1
    cell, (y, a, b) = resampling.cells_of(y_true, pred_first, pred_second)

    def gains(weights: np.ndarray) -> np.ndarray:
        of_accuracy = resampling.weighted_mean(weights, (b == y).astype(float) - (a == y))
        of_macro_f1 = resampling.weighted_macro_f1(weights, y, b, n_classes=k) - resampling.weighted_macro_f1(weights, y, a, n_classes=k)
        return np.stack([of_accuracy, of_macro_f1], axis=1)

    how = resampling.draws(len(y_true), cell=cell, groups=groups)
    gain, f1 = _intervals(gains, how, n_resamples=n_resamples, confidence=confidence, seed=seed)
    p_macro_f1 = _randomisation_p(y, a, b, np.bincount(cell), n_classes=k, n_resamples=n_resamples, seed=seed)
    sure = max(p_value, p_macro_f1) < 1 - confidence
    verdict = "better" if sure and f1.low > 0 and won > lost else "worse" if sure and f1.high < 0 and lost > won else "cannot tell"
    disagreement = (won + lost) / len(y_true)
    return PairedTest(gain, f1, p_value, p_macro_f1, disagreement, smallest_detectable_gain(len(y_true), disagreement=disagreement), verdict)


def paired_tests(
    y_true: np.ndarray,
    first: np.ndarray,
    others: Mapping[str, np.ndarray],
    *,
    groups: np.ndarray | None = None,
    n_resamples: int = 2_000,
    confidence: float = 0.95,
    seed: int = 42,
) -> pd.DataFrame:
    """Compare the predictions of several models with those of one, on the same rows, as one family.

    Parameters
    ----------
    first : ndarray of int of shape (n,); what the others are compared with
    groups : (n,) of anything; the bootstrap draws rows of a group together
    confidence : of the intervals together (Bonferroni), and of the verdicts together (Holm)

    Returns
    -------
    DataFrame by name: `macro_f1`, `gain` in it with `low` and `high`, `p` (the larger of McNemar's and the randomisation test's),
    `p_holm` (corrected for the family), `verdict` ("better", "worse" or "cannot tell": p_holm and the interval must agree)

    Source
    ------
    Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure"; statsmodels.
    """
    each, rows = 1 - (1 - confidence) / max(1, len(others)), []
    for name, predicted in others.items():
        paired = paired_test(y_true, first, predicted, groups=groups, n_resamples=n_resamples, confidence=each, seed=seed)
        gain = paired.macro_f1_gain
        rows.append((name, macro_f1(y_true, predicted), gain.value, gain.low, gain.high, max(paired.p_value, paired.p_macro_f1), paired.accuracy_gain.value))
    table = pd.DataFrame(rows, columns=["name", "macro_f1", "gain", "low", "high", "p", "accuracy"]).set_index("name")
    table["p_holm"] = multipletests(table["p"], method="holm")[1] if len(table) else []
    sure = table["p_holm"] < 1 - confidence
    better, worse = sure & (table["low"] > 0) & (table["accuracy"] > 0), sure & (table["high"] < 0) & (table["accuracy"] < 0)
    table["verdict"] = np.select([better, worse], ["better", "worse"], "cannot tell")
    return table.drop(columns="accuracy")


def _intervals(statistic: resampling.WeightedStatistic, how: resampling.Draws, *, n_resamples: int, confidence: float, seed: int) -> list[Interval]:
    ends = resampling.bca_ends(statistic, how, n_resamples=n_resamples, confidence=confidence, seed=seed)
    return [Interval(float(value), float(low), float(high), len(how.cell), confidence) for value, low, high in zip(*ends)]


def _support_weighted_f1(weights: np.ndarray, y_true: np.ndarray, y_pred: np.ndarray, *, n_classes: int) -> np.ndarray:
    f1, _ = resampling.weighted_class_f1(weights, y_true, y_pred, n_classes=n_classes)
    support = resampling.weighted_sums(weights, y_true, n_places=n_classes)
    return (f1 * support).sum(axis=1) / support.sum(axis=1)


def _randomisation_p(y: np.ndarray, a: np.ndarray, b: np.ndarray, counts: np.ndarray, *, n_classes: int, n_resamples: int, seed: int) -> float:
    """Return how often a gain in macro F1 is as large as the one found where chance says which prediction of a row is whose.

    `counts` rows have class y and predictions a and b: of each such cell a binomial number changes sides.
    """
    rng, batch = np.random.default_rng(seed), max(1, resampling.BATCH_CELLS // len(counts))

    def gain(swapped: np.ndarray) -> np.ndarray:
        stay, twice = counts - swapped, np.r_[y, y]
        f1 = [resampling.weighted_macro_f1(np.hstack(parts), twice, np.r_[a, b], n_classes=n_classes) for parts in ((stay, swapped), (swapped, stay))]
        return np.abs(f1[1] - f1[0])

    found = gain(np.zeros((1, len(counts))))[0]
    sizes = [min(batch, n_resamples - start) for start in range(0, n_resamples, batch)]
    as_large = sum(int((gain(rng.binomial(counts, 0.5, (size, len(counts)))) >= found - 1e-12).sum()) for size in sizes)
    return (1 + as_large) / (1 + n_resamples)


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
    cell, (y, *predicted) = resampling.cells_of(y_true, *first, *second)

    def gains(weights: np.ndarray) -> np.ndarray:
        f1 = np.stack([resampling.weighted_macro_f1(weights, y, each, n_classes=k) for each in predicted], axis=1)
        return f1[:, n_seeds:] - f1[:, :n_seeds]

    of_seeds = gains(np.bincount(cell)[None])[0]
    of_rows = resampling.resampled(gains, resampling.draws(len(y_true), cell=cell), n_resamples=n_resamples, seed=seed).mean(axis=1).std(ddof=1)
    error = np.sqrt(of_seeds.var(ddof=1) / n_seeds + of_rows**2)
    reach = stats.t.ppf(0.5 + confidence / 2, n_seeds - 1) * error
    low, high = np.clip([of_seeds.mean() - reach, of_seeds.mean() + reach], -1, 1)
    return Interval(float(of_seeds.mean()), float(low), float(high), len(y_true), confidence)


def cross_validation_interval(scores: np.ndarray, *, n_train: int, n_test: int, confidence: float = 0.95) -> Interval:
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
        raise ValueError(f"needs two scores or more and rows on both sides, got {len(scores)} scores, n_train={n_train} and n_test={n_test}")
    error = np.sqrt(np.var(scores, ddof=1) * (1 / len(scores) + n_test / n_train))
    reach, mean = stats.t.ppf(0.5 + confidence / 2, len(scores) - 1) * error, float(np.mean(scores))
    return Interval(mean, float(mean - reach), float(mean + reach), n_train + n_test, confidence)


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
