"""How well a score tells texts of one kind from texts of another."""

from __future__ import annotations

import numpy as np

from lib.evaluation.resampling import draws, weighted_sums
from lib.evaluation.significance import Interval, intervals_of, rare, share_interval

FOUND = 0.95  # share of the outside texts that are found where false alarms are counted
MEASURES = ("auroc", "aupr", "fpr95")


def separation(
    inside: np.ndarray,
    outside: np.ndarray,
    *,
    n_resamples: int = 500,
    confidence: float = 0.95,
    seed: int = 42,
) -> dict[str, Interval]:
    """Return how well a score tells outside texts, which should have higher values.

    Parameters
    ----------
    inside, outside : ndarrays of shape (n,) and (m,), finite

    Returns
    -------
    dict of Interval, `n` counts all texts:

    - `auroc`: probability that an outside text has the higher value, 0.5 is chance; the interval
      holds for few texts, and for values near 1 (`rare.auc_ends`)
    - `aupr`: average precision where outside texts are the positives; chance is their share
    - `fpr95`: share of the inside texts that are flagged where 95 % of the outside ones are found

    The intervals of the last two are of the bootstrap. It is blind where no inside text is above
    an outside one: that of `fpr95` reaches as far as Wilson's, and that of `aupr`, where it has no
    width, down to the precision that follows from it.

    Source
    ------
    Hendrycks and Gimpel 2017, "A Baseline for Detecting Misclassified and Out-of-Distribution
    Examples in Neural Networks".

    Examples
    --------
    >>> found = separation(np.array([1.0, 2.0, 3.0]), np.array([2.5, 4.0]))
    >>> round(found["auroc"].value, 3), round(found["fpr95"].value, 3)
    (0.833, 0.333)
    """
    values = np.concatenate([inside, outside])
    is_outside = np.repeat([0.0, 1.0], [len(inside), len(outside)])
    levels, level = np.unique(-values, return_inverse=True)  # the highest value first

    def measures(weights: np.ndarray) -> np.ndarray:
        n_levels = len(levels)
        found = weighted_sums(weights, level, n_codes=n_levels, values=is_outside)
        flagged = weighted_sums(weights, level, n_codes=n_levels, values=1 - is_outside)
        return _measures(found, flagged)

    options = {"n_resamples": n_resamples, "confidence": confidence, "seed": seed}
    with np.errstate(invalid="ignore", divide="ignore"):
        intervals = intervals_of(measures, draws(len(values)), **options)  # type: ignore[arg-type]
    auroc, aupr, fpr = intervals
    areas = np.full(2, auroc.value)
    codes = is_outside.astype(int)
    low, high = rare.auc_ends(codes, areas, np.arange(len(codes)), confidence=confidence)
    wilson = share_interval(round(fpr.value * len(inside)), len(inside), confidence=confidence)
    fpr_high = max(fpr.high, wilson.high)
    aupr_low = aupr.low
    if aupr.low == aupr.high:  # precision, were as many inside texts above all the outside ones
        aupr_low = len(outside) / (len(outside) + fpr_high * len(inside))
    n = len(values)
    return {
        "auroc": Interval(auroc.value, low, high, n, confidence),
        "aupr": Interval(aupr.value, aupr_low, aupr.high, n, confidence),
        "fpr95": Interval(fpr.value, min(fpr.low, wilson.low), fpr_high, n, confidence),
    }


def _measures(outside: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the three measures from weights at each level of the score, the highest first.

    Parameters
    ----------
    outside, inside : ndarrays of shape (b, n_levels)

    Returns
    -------
    ndarray of shape (b, 3); NaN where a resample lacks one of the sides
    """
    n_outside = outside.sum(axis=1)
    n_inside = inside.sum(axis=1)
    found = outside.cumsum(axis=1)
    flagged = inside.cumsum(axis=1)
    below = n_inside[:, None] - flagged + inside / 2  # a tie counts one half
    auroc = (outside * below).sum(axis=1) / (n_outside * n_inside)
    precision = found / np.maximum(found + flagged, np.finfo(float).tiny)
    aupr = (outside * precision).sum(axis=1) / n_outside
    needed = FOUND * n_outside[:, None] - 1e-6
    at = (found >= needed).argmax(axis=1)
    fpr95 = flagged[np.arange(len(at)), at] / n_inside
    return np.stack([auroc, aupr, fpr95], axis=1)
