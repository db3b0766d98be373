"""Paired tests of models on the same rows, in families and over seeds; detectable gains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, sparse, stats
from statsmodels.stats.multitest import multipletests

from lib.evaluation.metrics import macro_f1
from lib.evaluation.resampling import (
    BATCH_CELLS,
    ResamplingPlan,
    cell_draws,
    resampled,
    stacked_macro_f1,
    weighted_macro_f1,
    weighted_mean,
)
from lib.evaluation.significance.intervals import Interval, intervals_of, student_interval

# of a randomisation test: fewer give no p that is small enough for a family of tests
MIN_SWAPS = 2_000
POWER = 0.8  # the share of the cases in which the minimum detectable effect shows
VERDICT_WORDS = {
    "better": "is better than",
    "worse": "is worse than",
    "inconclusive": "is not significantly different from",
}


@dataclass(frozen=True)
class PairedTest:
    """Two models on the same rows, second minus first.

    Attributes
    ----------
    accuracy_gain, macro_f1_gain : differences with bootstrap intervals, -1..1
    p_value : exact randomisation test of equal accuracy, two-sided; McNemar's where no rows are in
        one group
    p_macro_f1 : approximate randomisation test of equal macro F1, two-sided, of 2,000 swaps or
        more: not below 1 / 2,001 then
    disagreement : share of rows where one model alone is right, 0..1
    detectable : the smallest true accuracy gain that as many rows, in such groups, show in 80 % of
        the cases; a smaller one shows in fewer
    verdict : "better", "worse" or "inconclusive": both tests and the interval of the macro F1 gain
        must agree; all of them take the rows of a group together
    """

    accuracy_gain: Interval
    macro_f1_gain: Interval
    p_value: float
    p_macro_f1: float
    disagreement: float
    detectable: float
    verdict: str

    def describe(self, second: str, first: str) -> str:
        """Return the test as a sentence about the models of these names."""
        accuracy = self.accuracy_gain.signed(4)
        f1 = self.macro_f1_gain.signed(4)
        would_show = ""
        if self.verdict == "inconclusive" and self.disagreement:
            would_show = f"; a gain in accuracy of {self.detectable:.4f} would show"
        return (
            f"{second} {VERDICT_WORDS[self.verdict]} {first}: "
            f"macro F1 {f1} (randomisation p = {self.p_macro_f1:.2g}), accuracy {accuracy} "
            f"(exact p = {self.p_value:.2g}), n = {self.macro_f1_gain.n:,}{would_show}."
        )

    def table(self) -> pd.Series:
        """Return the figures behind the verdict as text, by what they are."""
        figures = {
            "gain in accuracy": self.accuracy_gain.signed(4),
            "gain in macro F1": self.macro_f1_gain.signed(4),
            "exact p (accuracy)": f"{self.p_value:.3g}",
            "randomisation p (macro F1)": f"{self.p_macro_f1:.3g}",
            "rows where one alone is right": f"{self.disagreement:.1%}",
            "minimum detectable effect (80 % power)": f"{self.detectable:.4f}",
        }
        return pd.Series(figures)


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
    groups : (n,) of anything; rows of a group (near-copies, one author) are drawn and swapped
        together, since they are right or wrong together

    Source
    ------
    McNemar 1947, exact binomial form; paired bootstrap of the gain (Berg-Kirkpatrick et al. 2012);
    approximate randomisation (Noreen 1989; Yeh 2000).
    """
    plan, cells = cell_draws(y_true, pred_first, pred_second, groups=groups)
    y, first, second = cells
    n_classes = int(np.max(cells)) + 1
    right_alone = (second == y).astype(float) - (first == y)

    def gains(weights: np.ndarray) -> np.ndarray:
        accuracy = weighted_mean(weights, right_alone)
        f1 = stacked_macro_f1(weights, y, [first, second], n_classes=n_classes)
        return np.stack([accuracy, f1[:, 1] - f1[:, 0]], axis=1)

    accuracy_gain, f1_gain = intervals_of(
        gains, plan, n_resamples=n_resamples, confidence=confidence, seed=seed
    )
    n_swaps = max(MIN_SWAPS, n_resamples)
    p_macro_f1 = _randomisation_p(cells, plan, n_swaps=n_swaps, seed=seed)
    gained = right_alone[plan.cell]
    by_unit = np.bincount(plan.unit, weights=gained)
    p_value = sign_flip_p(by_unit.astype(int))
    n_alone = int(np.count_nonzero(gained))
    alpha = 1 - confidence
    significant = max(p_value, p_macro_f1) < alpha
    detectable = minimum_detectable_effect(
        len(y_true),
        disagreement=n_alone / len(y_true),
        alpha=alpha,
        design_effect=float((by_unit**2).sum()) / max(1, n_alone),
    )
    return PairedTest(
        accuracy_gain,
        f1_gain,
        p_value,
        p_macro_f1,
        n_alone / len(y_true),
        detectable,
        _verdict(f1_gain, accuracy_gain, significant=significant),
    )


def sign_flip_p(gains: np.ndarray) -> float:
    """Return the p of the exact test that each gain could as well have had the other sign.

    Two-sided, of the sum of the gains. It is McNemar's exact test where all are -1, 0 or 1.

    Parameters
    ----------
    gains : ndarray of int of shape (n_units,)

    Source
    ------
    Fisher 1935, "The Design of Experiments", the randomisation test of paired differences.

    Examples
    --------
    >>> sign_flip_p(np.array([1, 1, 1, 1, 0])), sign_flip_p(np.array([4, 0]))
    (0.125, 1.0)
    """
    sizes, counts = np.unique(np.abs(gains[gains != 0]), return_counts=True)
    probs = np.ones(1)  # of each sum, from the lowest on
    for size, count in zip(sizes.tolist(), counts.tolist()):
        of_size = np.zeros(2 * size * count + 1)
        of_size[:: 2 * size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        probs = np.convolve(probs, of_size)
    sums = np.arange(len(probs)) - len(probs) // 2
    as_large = np.abs(sums) >= abs(int(gains.sum()))
    return min(1.0, float(probs[as_large].sum()))


def _verdict(macro_f1_gain: Interval, accuracy_gain: Interval, *, significant: bool) -> str:
    """Return the verdict of the interval where the tests and the accuracy agree with it."""
    verdict = macro_f1_gain.verdict
    agrees = accuracy_gain.value > 0 if verdict == "better" else accuracy_gain.value < 0
    return verdict if significant and agrees else "inconclusive"


def paired_tests(
    y_true: np.ndarray,
    first: np.ndarray,
    others: Mapping[str, np.ndarray],
    *,
    confidence: float = 0.95,
    **options: Any,
) -> pd.DataFrame:
    """Compare the predictions of several models with those of one, on the same rows, as one family.

    Parameters
    ----------
    first : ndarray of int of shape (n,); what the others are compared with
    confidence : of the intervals together (Bonferroni), and of the verdicts together (Holm)
    options : of `paired_test`: `groups`, `n_resamples`, `seed`

    Returns
    -------
    DataFrame by name: `macro_f1`, `gain` in it with `low` and `high`, `p` (the larger of the
    two tests'), `p_holm` (corrected for the family), `verdict` ("better", "worse" or
    "inconclusive": p_holm and the interval must agree)

    Source
    ------
    Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure"; statsmodels.
    """
    alpha = 1 - confidence
    of_each = 1 - alpha / max(1, len(others))
    rows, tests = [], []
    for name, y_pred in others.items():
        test = paired_test(y_true, first, y_pred, confidence=of_each, **options)
        gain = test.macro_f1_gain
        p = max(test.p_value, test.p_macro_f1)
        rows.append((name, macro_f1(y_true, y_pred), *gain.with_ends, p))
        tests.append(test)
    columns = ["name", "macro_f1", "gain", "low", "high", "p"]
    table = pd.DataFrame(rows, columns=columns).set_index("name")
    table["p_holm"] = multipletests(table["p"], method="holm")[1] if tests else []
    table["verdict"] = [
        _verdict(test.macro_f1_gain, test.accuracy_gain, significant=p < alpha)
        for test, p in zip(tests, table["p_holm"])
    ]
    return table


def describe_gain(row: pd.Series, first: str, *, n: int) -> str:
    """Return one row of `paired_tests` as a sentence; the row's name is the model's."""
    words = VERDICT_WORDS[row["verdict"]]
    return f"{row.name} {words} {first}: macro F1 {row['macro_f1']:.3f}, {_signed(row)}, n = {n:,}."


def describe_gains(tests: pd.DataFrame) -> str:
    """Return each row's gain and verdict, as one sentence.

    Parameters
    ----------
    tests : by name, with `gain`, `low`, `high` and `verdict`, as `paired_tests` returns them
    """
    gains = [f"{name} {_signed(row)}, {row['verdict']}" for name, row in tests.iterrows()]
    return f"{'; '.join(gains)}."


def _signed(row: pd.Series) -> str:
    return Interval(row["gain"], row["low"], row["high"], n=0).signed()


def gain_over_seeds(
    y_true: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    confidence: float = 0.95,
    n_resamples: int = 500,
    seed: int = 42,
) -> Interval:
    """Return the gain in macro F1 of one way of training over another, both with the same seeds.

    Two sources of chance add up: the seeds (the deviation of the gain between them) and the rows it
    was measured on (a bootstrap of the gain averaged over seeds). The interval is Student's, with
    one degree of freedom less than there are seeds.

    Parameters
    ----------
    y_true : ndarray of int of shape (n,)
    first, second : predicted classes, ndarrays of int of shape (n_seeds, n), row s of the same seed
    groups : (n,) of anything; the bootstrap draws rows of a group together

    Returns
    -------
    Interval of second minus first, -1..1; `n` is the number of rows

    Source
    ------
    ours; the two sources are those of Bouthillier et al. 2021, "Accounting for Variance in Machine
    Learning Benchmarks"

    Raises
    ------
    ValueError : shapes differ, or fewer than two seeds.
    """
    n = len(y_true)
    n_seeds = len(first)
    if first.shape != second.shape or first.shape != (n_seeds, n) or n_seeds < 2:
        raise ValueError(
            f"first and second must be of shape (seeds, {n}) with at least two seeds, "
            f"got {first.shape} and {second.shape}"
        )
    plan, cells = cell_draws(y_true, *first, *second, groups=groups)
    n_classes = int(np.max(cells)) + 1

    def gains(weights: np.ndarray) -> np.ndarray:
        f1 = stacked_macro_f1(weights, cells[0], cells[1:], n_classes=n_classes)
        return f1[:, n_seeds:] - f1[:, :n_seeds]

    (of_seeds,) = gains(np.bincount(plan.cell)[None])
    of_resamples = resampled(gains, plan, n_resamples=n_resamples, seed=seed)
    seeds_variance = of_seeds.var(ddof=1) / n_seeds
    rows_error = of_resamples.mean(axis=1).std(ddof=1)
    error = np.sqrt(seeds_variance + rows_error**2)
    return student_interval(
        of_seeds.mean(), error, n_values=n_seeds, n=n, confidence=confidence, bounds=(-1, 1)
    )


def minimum_detectable_effect(
    n: int, *, disagreement: float, alpha: float = 0.05, design_effect: float = 1.0
) -> float:
    """Return the smallest accuracy gain that a paired test on n rows shows in 80 % of the cases.

    Parameters
    ----------
    n : rows
    disagreement : share of rows where one model alone is right, 0..1
    design_effect : how many times as large as of independent rows the variance is, where rows come
        in groups; less than 1 counts as 1

    Returns
    -------
    float in 0..1; `disagreement` itself where even that would not show

    Source
    ------
    Connor 1987, "Sample size for testing differences in proportions for the paired-sample design";
    the design effect is Kish's (1965).

    Examples
    --------
    >>> round(100 * minimum_detectable_effect(3000, disagreement=0.05), 2)
    1.14
    """
    if not 0 <= disagreement <= 1 or n < 1:
        raise ValueError(f"disagreement must be in 0..1 and n positive, got {disagreement} and {n}")
    n_effective = n / max(1.0, design_effect)
    under_no_gain = stats.norm.ppf(1 - alpha / 2) * np.sqrt(disagreement)
    z_power = stats.norm.ppf(POWER)

    def shortfall(gain: float) -> float:
        under_the_gain = z_power * np.sqrt(max(0.0, disagreement - gain**2))
        return gain * np.sqrt(n_effective) - under_no_gain - under_the_gain

    if disagreement == 0 or shortfall(disagreement) < 0:
        return disagreement
    return float(optimize.brentq(shortfall, 0, disagreement))


def _randomisation_p(
    cells: list[np.ndarray], plan: ResamplingPlan, *, n_swaps: int, seed: int
) -> float:
    """Return how often chance gives a gain in macro F1 as large as the one measured.

    Chance decides for each unit of the plan which prediction is whose.
    """
    y, first, second = cells
    labels = np.r_[y, y]
    predictions = np.r_[first, second]
    n_classes = int(np.max(cells)) + 1
    counts = np.bincount(plan.cell, minlength=plan.n_cells)

    def score(from_first: np.ndarray, from_second: np.ndarray) -> np.ndarray:
        weights = np.hstack([from_first, from_second])
        return weighted_macro_f1(weights, labels, predictions, n_classes=n_classes)

    def gain(swapped: np.ndarray) -> np.ndarray:
        kept = counts - swapped
        return np.abs(score(swapped, kept) - score(kept, swapped))

    rng = np.random.default_rng(seed)
    (measured,) = gain(np.zeros((1, plan.n_cells)))
    batch = max(1, BATCH_CELLS // plan.n_cells)
    n_as_large = 0
    for start in range(0, n_swaps, batch):
        swapped = _swapped_counts(plan, min(batch, n_swaps - start), rng)
        n_as_large += int((gain(swapped) >= measured - 1e-12).sum())
    return (1 + n_as_large) / (1 + n_swaps)


def _swapped_counts(plan: ResamplingPlan, n_swaps: int, rng: np.random.Generator) -> np.ndarray:
    """Return how many rows of each cell change sides: ndarray of shape (n_swaps, n_cells).

    The rows of a unit do so together. Of rows that are units of their own, a binomial number does.
    """
    is_alone = np.bincount(plan.unit)[plan.unit] == 1
    n_alone = np.bincount(plan.cell[is_alone], minlength=plan.n_cells)
    swapped = rng.binomial(n_alone, 0.5, (n_swaps, plan.n_cells))
    if is_alone.all():
        return swapped
    units, unit = np.unique(plan.unit[~is_alone], return_inverse=True)
    position = (unit, plan.cell[~is_alone])
    n_rows = sparse.csr_array((np.ones(len(unit)), position), shape=(len(units), plan.n_cells))
    changes_sides = rng.integers(0, 2, (n_swaps, len(units)))
    return swapped + changes_sides @ n_rows
