"""When one class is no honest answer: conformal prediction sets, and leaving a text unanswered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.evaluation.metrics import checked_probs
from lib.evaluation.significance import share_interval


def conformal_thresholds(
    probs: np.ndarray, y_true: np.ndarray, *, coverage: float, by_class: bool = False
) -> np.ndarray:
    """Return how probable a class must be to join the prediction set, so that sets hold the truth with a given probability.

    Parameters
    ----------
    probs : ndarray of shape (n, k) of rows that the model did not learn from
    y_true : ndarray of int of shape (n,), columns of `probs`
    coverage : share of new rows whose set holds their class, 0..1; holds for rows drawn like these, whatever the model
    by_class : the same coverage in each class (sets grow); a class with too few rows to promise it joins every set

    Returns
    -------
    ndarray of shape (k,); 0 where n is too small: the class joins every set

    Source
    ------
    Split conformal prediction, Vovk et al. 2005; the score and the classwise form after Sadinle et al. 2019, "Least Ambiguous
    Set-Valued Classifiers with Bounded Error Levels".

    Examples
    --------
    >>> right = np.arange(0.50, 1.00, 0.05)
    >>> conformal_thresholds(np.c_[right, 1 - right], np.zeros(10, dtype=int), coverage=0.8).round(2)
    array([0.55, 0.55])
    """
    probs = checked_probs(probs, y_true)
    if not 0 < coverage < 1:
        raise ValueError(f"coverage must be between 0 and 1, got {coverage}")
    given = probs[np.arange(len(probs)), y_true]
    if by_class:
        return np.array(
            [_threshold(given[y_true == code], coverage) for code in range(probs.shape[1])]
        )
    return np.full(probs.shape[1], _threshold(given, coverage))


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
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Promise coverages and count what comes of them: the sets of each fold have thresholds from the other folds.

    Returns
    -------
    DataFrame by promised coverage: `covered` with `low`, `high` (Wilson), `mean_size` of a set in classes, shares of sets of one class
    (`single`) and of none (`empty`), `worst_class` (the lowest coverage of a class)
    """
    rows, k = [], probs.shape[1]
    for coverage in coverages:
        sets = np.zeros(probs.shape, dtype=bool)
        for number in np.unique(fold):
            held_out = fold == number
            thresholds = conformal_thresholds(
                probs[~held_out], y_true[~held_out], coverage=coverage, by_class=by_class
            )
            sets[held_out] = prediction_sets(probs[held_out], thresholds)
        held, size = sets[np.arange(len(sets)), y_true], sets.sum(axis=1)
        interval = share_interval(int(held.sum()), len(held), confidence=confidence)
        worst = min(held[y_true == code].mean() for code in range(k) if (y_true == code).any())
        rows.append(
            (
                coverage,
                interval.value,
                interval.low,
                interval.high,
                size.mean(),
                (size == 1).mean(),
                (size == 0).mean(),
                worst,
            )
        )
    columns = ["coverage", "covered", "low", "high", "mean_size", "single", "empty", "worst_class"]
    return pd.DataFrame(rows, columns=columns).set_index("coverage")


def accuracy_coverage_curve(
    probs: np.ndarray,
    y_true: np.ndarray,
    *,
    shares: Sequence[float] = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0),
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return how right the model is where it answers only the texts that it is surest of.

    Returns
    -------
    DataFrame by share answered: `least` (the probability of the first class from which on it answers), `accuracy` with `low`, `high`
    (Wilson), `n`

    Source
    ------
    Chow 1970, "On Optimum Recognition Error and Reject Tradeoff"; El-Yaniv and Wiener 2010.
    """
    surest, right = np.argsort(-probs.max(axis=1), kind="stable"), probs.argmax(axis=1) == y_true
    rows = []
    for share in shares:
        answered = surest[: max(1, round(share * len(probs)))]
        interval = share_interval(int(right[answered].sum()), len(answered), confidence=confidence)
        rows.append(
            (
                share,
                probs[answered[-1]].max(),
                interval.value,
                interval.low,
                interval.high,
                len(answered),
            )
        )
    return pd.DataFrame(rows, columns=["share", "least", "accuracy", "low", "high", "n"]).set_index(
        "share"
    )


def _threshold(given: np.ndarray, coverage: float) -> float:
    """Return the probability that all but the allowed number of the right classes reach."""
    allowed = int(np.floor((len(given) + 1) * (1 - coverage) + 1e-9))  # rows that may fall below it
    return float(np.sort(given)[allowed - 1]) if allowed >= 1 else 0.0
