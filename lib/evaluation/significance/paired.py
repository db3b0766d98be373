"""Paired tests of models on the same rows, of a family of them, over seeds; and the smallest gain that would show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize, stats
from statsmodels.stats.multitest import multipletests

from lib.evaluation import resampling
from lib.evaluation.metrics import macro_f1
from lib.evaluation.significance.intervals import Interval, intervals_of

MIN_SWAPS = (
    2_000  # of a randomisation test: of fewer no p would be small enough for a family of tests
)


@dataclass(frozen=True)
class PairedTest:
    """Two models on the same rows, second minus first.

    Attributes
    ----------
    accuracy_gain, macro_f1_gain : differences with bootstrap intervals, -1..1
    p_value : exact McNemar test of equal accuracy, two-sided
    p_macro_f1 : approximate randomisation test of equal macro F1, two-sided, of 2,000 swaps or more: not below 1 / 2,001 then
    disagreement : share of rows where one model alone is right, 0..1
    detectable : the smallest true accuracy gain that as many rows show in 80 % of the cases; a smaller one shows in fewer
    verdict : "better", "worse" or "cannot tell": both tests, which take rows for independent, and the interval of the macro F1 gain,
        which draws groups together, must agree
    """

    accuracy_gain: Interval
    macro_f1_gain: Interval
    p_value: float
    p_macro_f1: float
    disagreement: float
    detectable: float
    verdict: str


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
    cell, (y, a, b) = resampling.unique_cells(y_true, pred_first, pred_second)

    def gains(weights: np.ndarray) -> np.ndarray:
        of_accuracy = resampling.weighted_mean(weights, (b == y).astype(float) - (a == y))
        of_macro_f1 = resampling.weighted_macro_f1(
            weights, y, b, n_classes=k
        ) - resampling.weighted_macro_f1(weights, y, a, n_classes=k)
        return np.stack([of_accuracy, of_macro_f1], axis=1)

    how = resampling.draws(len(y_true), cell=cell, groups=groups)
    gain, f1 = intervals_of(gains, how, n_resamples=n_resamples, confidence=confidence, seed=seed)
    p_macro_f1 = _randomisation_p(
        y, a, b, np.bincount(cell), n_classes=k, n_resamples=max(MIN_SWAPS, n_resamples), seed=seed
    )
    sure = max(p_value, p_macro_f1) < 1 - confidence
    verdict = (
        "better"
        if sure and f1.low > 0 and won > lost
        else "worse"
        if sure and f1.high < 0 and lost > won
        else "cannot tell"
    )
    disagreement = (won + lost) / len(y_true)
    detectable = minimum_detectable_effect(
        len(y_true), disagreement=disagreement, alpha=1 - confidence
    )
    return PairedTest(gain, f1, p_value, p_macro_f1, disagreement, detectable, verdict)


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
        paired = paired_test(
            y_true,
            first,
            predicted,
            groups=groups,
            n_resamples=n_resamples,
            confidence=each,
            seed=seed,
        )
        gain = paired.macro_f1_gain
        rows.append(
            (
                name,
                macro_f1(y_true, predicted),
                gain.value,
                gain.low,
                gain.high,
                max(paired.p_value, paired.p_macro_f1),
                paired.accuracy_gain.value,
            )
        )
    table = pd.DataFrame(
        rows, columns=["name", "macro_f1", "gain", "low", "high", "p", "accuracy"]
    ).set_index("name")
    table["p_holm"] = multipletests(table["p"], method="holm")[1] if len(table) else []
    sure = table["p_holm"] < 1 - confidence
    better, worse = (
        sure & (table["low"] > 0) & (table["accuracy"] > 0),
        sure & (table["high"] < 0) & (table["accuracy"] < 0),
    )
    table["verdict"] = np.select([better, worse], ["better", "worse"], "cannot tell")
    return table.drop(columns="accuracy")


def gain_over_seeds(
    y_true: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    *,
    confidence: float = 0.95,
    n_resamples: int = 500,
    seed: int = 42,
) -> Interval:
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
    if (
        first.shape != second.shape
        or first.ndim != 2
        or first.shape[1:] != y_true.shape
        or len(first) < 2
    ):
        raise ValueError(
            f"first and second must be of shape (seeds, {len(y_true)}) with two seeds or more, got {first.shape} and {second.shape}"
        )
    k, n_seeds = int(max(y_true.max(), first.max(), second.max())) + 1, len(first)
    cell, (y, *predicted) = resampling.unique_cells(y_true, *first, *second)

    def gains(weights: np.ndarray) -> np.ndarray:
        f1 = np.stack(
            [resampling.weighted_macro_f1(weights, y, each, n_classes=k) for each in predicted],
            axis=1,
        )
        return f1[:, n_seeds:] - f1[:, :n_seeds]

    of_seeds = gains(np.bincount(cell)[None])[0]
    of_rows = (
        resampling.resampled(
            gains, resampling.draws(len(y_true), cell=cell), n_resamples=n_resamples, seed=seed
        )
        .mean(axis=1)
        .std(ddof=1)
    )
    error = np.sqrt(of_seeds.var(ddof=1) / n_seeds + of_rows**2)
    reach = stats.t.ppf(0.5 + confidence / 2, n_seeds - 1) * error
    low, high = np.clip([of_seeds.mean() - reach, of_seeds.mean() + reach], -1, 1)
    return Interval(float(of_seeds.mean()), float(low), float(high), len(y_true), confidence)


def minimum_detectable_effect(
    n: int, *, disagreement: float, power: float = 0.8, alpha: float = 0.05
) -> float:
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
    >>> round(100 * minimum_detectable_effect(3000, disagreement=0.05), 2)
    1.14
    """
    if not 0 <= disagreement <= 1 or n < 1:
        raise ValueError(f"disagreement must be in 0..1 and n positive, got {disagreement} and {n}")
    z_alpha, z_power = stats.norm.ppf(1 - alpha / 2), stats.norm.ppf(power)

    def shortfall(gain: float) -> float:
        return (
            gain * np.sqrt(n)
            - z_alpha * np.sqrt(disagreement)
            - z_power * np.sqrt(max(0.0, disagreement - gain**2))
        )

    if disagreement == 0 or shortfall(disagreement) < 0:
        return disagreement
    return float(optimize.brentq(shortfall, 0, disagreement))


def _randomisation_p(
    y: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    counts: np.ndarray,
    *,
    n_classes: int,
    n_resamples: int,
    seed: int,
) -> float:
    """Return how often a gain in macro F1 is as large as the one found where chance says which prediction of a row is whose.

    `counts` rows have class y and predictions a and b: of each such cell a binomial number changes sides.
    """
    rng, batch = np.random.default_rng(seed), max(1, resampling.BATCH_CELLS // len(counts))

    def gain(swapped: np.ndarray) -> np.ndarray:
        stay, twice = counts - swapped, np.r_[y, y]
        f1 = [
            resampling.weighted_macro_f1(np.hstack(parts), twice, np.r_[a, b], n_classes=n_classes)
            for parts in ((stay, swapped), (swapped, stay))
        ]
        return np.abs(f1[1] - f1[0])

    found = gain(np.zeros((1, len(counts))))[0]
    sizes = [min(batch, n_resamples - start) for start in range(0, n_resamples, batch)]
    as_large = sum(
        int((gain(rng.binomial(counts, 0.5, (size, len(counts)))) >= found - 1e-12).sum())
        for size in sizes
    )
    return (1 + as_large) / (1 + n_resamples)
