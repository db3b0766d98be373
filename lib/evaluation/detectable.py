"""What gain in accuracy test sets of given sizes can show, before any model is trained."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from lib.evaluation.significance import minimum_detectable_effect

_TYPICAL_DISAGREEMENT = 0.1  # share of rows where one of two models alone is right


def design_effect(groups: np.ndarray) -> float:
    """Return how many times as large as of single rows the variance of a mean is.

    Parameters
    ----------
    groups : (n,) of anything; rows of a group are taken to be right or wrong together

    Source
    ------
    Kish 1965, "Survey Sampling".

    Examples
    --------
    >>> design_effect(np.array([0, 0, 1, 1])), design_effect(np.arange(4))
    (2.0, 1.0)
    """
    _, sizes = np.unique(groups, return_counts=True)
    return float((sizes**2).sum() / sizes.sum())


def detectable_gains(groups: Mapping[str, np.ndarray], *, confidence: float = 0.95) -> pd.DataFrame:
    """Return the smallest gain that each split shows with 80 % power.

    Parameters
    ----------
    groups : split -> the group of each of its rows (near-copies, one author), of shape (n,)

    Returns
    -------
    DataFrame of gains, 0..1, with a column for each split; the index is the share of rows where one
    of two models alone is right, 0.01 to 0.2
    """
    rates = np.linspace(0.01, 0.2, 20)
    gains = {
        split: [_smallest_gain(of_rows, rate, confidence=confidence) for rate in rates]
        for split, of_rows in groups.items()
    }
    return pd.DataFrame(gains, index=rates)


def _smallest_gain(groups: np.ndarray, disagreement: float, *, confidence: float) -> float:
    return minimum_detectable_effect(
        len(groups),
        disagreement=disagreement,
        alpha=1 - confidence,
        design_effect=design_effect(groups),
    )


def describe_detectable_gains(groups: Mapping[str, np.ndarray], *, confidence: float = 0.95) -> str:
    """Return in a sentence what each split shows where two models disagree on 10 % of its rows."""
    listed = []
    for split, of_rows in groups.items():
        gain = _smallest_gain(of_rows, _TYPICAL_DISAGREEMENT, confidence=confidence)
        listed.append(f"{split} ({len(of_rows):,} rows) {100 * gain:.1f}")
    return (
        "Where one model alone is right on 10% of the rows, accuracy must rise by this many points "
        f"to show with 80% power: {', '.join(listed)}."
    )
