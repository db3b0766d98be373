"""Paired tests of models on the same rows, in families and over seeds; detectable gains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize, stats
from statsmodels.stats.multitest import multipletests

from lib.evaluation import resampling
from lib.evaluation.metrics import macro_f1
from lib.evaluation.significance.intervals import Interval, intervals_of, student_interval

# of a randomisation test: fewer give no p that is small enough for a family of tests
MIN_SWAPS = 2_000
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
    p_value : exact McNemar test of equal accuracy, two-sided
    p_macro_f1 : approximate randomisation test of equal macro F1, two-sided, of 2,000 swaps or
        more: not below 1 / 2,001 then
    disagreement : share of rows where one model alone is right, 0..1
    detectable : the smallest true accuracy gain that as many rows show in 80 % of the cases; a
        smaller one shows in fewer
    verdict : "better", "worse" or "inconclusive": both tests, which take rows for independent, and
        the interval of the macro F1 gain, which draws groups together, must agree
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
        f1, accuracy = self.macro_f1_gain, self.accuracy_gain
        words = (
            f"{second} {VERDICT_WORDS[self.verdict]} {first}: "
            f"macro F1 {f1.signed(4)} (randomisation p = {self.p_macro_f1:.2g}), "
            f"accuracy {accuracy.signed(4)} (McNemar p = {self.p_value:.2g}), n = {f1.n:,}"
        )
        if self.verdict == "inconclusive" and self.disagreement:
            words += f"; a gain in accuracy of {self.detectable:.4f} would show"
        return f"{words}."

    def table(self) -> pd.Series:
        """Return the figures behind the verdict as text, by what they are."""
        return pd.Series(
            {
                "gain in accuracy": self.accuracy_gain.signed(4),
                "gain in macro F1": self.macro_f1_gain.signed(4),
                "McNemar p (accuracy)": f"{self.p_value:.3g}",
                "randomisation p (macro F1)": f"{self.p_macro_f1:.3g}",
                "rows where one alone is right": f"{self.disagreement:.1%}",
                "minimum detectable effect (80 % power)": f"{self.detectable:.4f}",
            }
        )


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
    McNemar 1947, exact binomial form; paired bootstrap of the gain (Berg-Kirkpatrick et al. 2012);
    approximate randomisation (Noreen 1989; Yeh 2000).
    """
    n = len(y_true)
    first, second = pred_first == y_true, pred_second == y_true
    won, lost = int((second & ~first).sum()), int((first & ~second).sum())
    p_value = float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0
    k = int(max(y_true.max(), pred_first.max(), pred_second.max())) + 1
    plan, cells = resampling.cell_draws(y_true, pred_first, pred_second, groups=groups)
    y, a, b = cells

    def gains(weights: np.ndarray) -> np.ndarray:
        accuracy = resampling.weighted_mean(weights, (b == y).astype(float) - (a == y))
        f1 = resampling.stacked_macro_f1(weights, y, [a, b], n_classes=k)
        return np.stack([accuracy, f1[:, 1] - f1[:, 0]], axis=1)

    accuracy_gain, f1_gain = intervals_of(
        gains, plan, n_resamples=n_resamples, confidence=confidence, seed=seed
    )
    n_swaps = max(MIN_SWAPS, n_resamples)
    p_macro_f1 = _randomisation_p(
        cells, np.bincount(plan.cell), n_classes=k, n_swaps=n_swaps, seed=seed
    )
    significant = max(p_value, p_macro_f1) < 1 - confidence
    disagreement = (won + lost) / n
    return PairedTest(
        accuracy_gain,
        f1_gain,
        p_value,
        p_macro_f1,
        disagreement,
        minimum_detectable_effect(n, disagreement=disagreement, alpha=1 - confidence),
        _verdict(f1_gain, accuracy_gain, significant=significant),
    )


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
    DataFrame by name: `macro_f1`, `gain` in it with `low` and `high`, `p` (the larger of McNemar's
    and the randomisation test's), `p_holm` (corrected for the family), `verdict` ("better", "worse"
    or "inconclusive": p_holm and the interval must agree)

    Source
    ------
    Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure"; statsmodels.
    """
    options = {
        "groups": groups,
        "n_resamples": n_resamples,
        "confidence": 1 - (1 - confidence) / max(1, len(others)),
        "seed": seed,
    }
    tests = {name: paired_test(y_true, first, y_pred, **options) for name, y_pred in others.items()}
    p_values = [max(test.p_value, test.p_macro_f1) for test in tests.values()]
    p_holm = multipletests(p_values, method="holm")[1] if tests else []
    rows = []
    for (name, test), p, corrected in zip(tests.items(), p_values, p_holm):
        gain = test.macro_f1_gain
        significant = corrected < 1 - confidence
        verdict = _verdict(gain, test.accuracy_gain, significant=significant)
        f1 = macro_f1(y_true, others[name])
        rows.append((name, f1, gain.value, gain.low, gain.high, p, corrected, verdict))
    columns = ["name", "macro_f1", "gain", "low", "high", "p", "p_holm", "verdict"]
    return pd.DataFrame(rows, columns=columns).set_index("name")


def describe_gain(row: pd.Series, first: str, *, n: int) -> str:
    """Return one row of `paired_tests` as a sentence; the row's name is the model's."""
    return (
        f"{row.name} {VERDICT_WORDS[row['verdict']]} {first}: "
        f"macro F1 {row['macro_f1']:.3f}, {_signed(row)}, n = {n:,}."
    )


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
    n, n_seeds = len(y_true), len(first)
    if first.shape != second.shape or first.shape != (n_seeds, n) or n_seeds < 2:
        raise ValueError(
            f"first and second must be of shape (seeds, {n}) with at least two seeds, "
            f"got {first.shape} and {second.shape}"
        )
    k = int(max(y_true.max(), first.max(), second.max())) + 1
    plan, (y, *predictions) = resampling.cell_draws(y_true, *first, *second)

    def gains(weights: np.ndarray) -> np.ndarray:
        f1 = resampling.stacked_macro_f1(weights, y, predictions, n_classes=k)
        return f1[:, n_seeds:] - f1[:, :n_seeds]

    of_seeds = gains(np.bincount(plan.cell)[None])[0]
    of_resamples = resampling.resampled(gains, plan, n_resamples=n_resamples, seed=seed)
    rows_error = of_resamples.mean(axis=1).std(ddof=1)
    error = np.sqrt(of_seeds.var(ddof=1) / n_seeds + rows_error**2)
    return student_interval(
        of_seeds.mean(), error, n_values=n_seeds, n=n, confidence=confidence, bounds=(-1, 1)
    )


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
        under_no_gain = z_alpha * np.sqrt(disagreement)
        under_the_gain = z_power * np.sqrt(max(0.0, disagreement - gain**2))
        return gain * np.sqrt(n) - under_no_gain - under_the_gain

    if disagreement == 0 or shortfall(disagreement) < 0:
        return disagreement
    return float(optimize.brentq(shortfall, 0, disagreement))


def _randomisation_p(
    cells: list[np.ndarray], counts: np.ndarray, *, n_classes: int, n_swaps: int, seed: int
) -> float:
    """Return how often chance gives a gain in macro F1 as large as the one measured.

    Chance decides for each row which prediction is whose. `counts` rows have the class and the two
    predictions of a cell: of each cell a binomial number changes sides.
    """
    y, a, b = cells
    labels, predictions = np.r_[y, y], np.r_[a, b]
    rng = np.random.default_rng(seed)

    def gain(swapped: np.ndarray) -> np.ndarray:
        kept = counts - swapped
        sides = [np.hstack([kept, swapped]), np.hstack([swapped, kept])]
        first, second = (
            resampling.weighted_macro_f1(side, labels, predictions, n_classes=n_classes)
            for side in sides
        )
        return np.abs(second - first)

    measured = gain(np.zeros((1, len(counts))))[0]
    batch = max(1, resampling.BATCH_CELLS // len(counts))
    n_as_large = 0
    for start in range(0, n_swaps, batch):
        size = (min(batch, n_swaps - start), len(counts))
        gains = gain(rng.binomial(counts, 0.5, size))
        n_as_large += int((gains >= measured - 1e-12).sum())
    return (1 + n_as_large) / (1 + n_swaps)
