"""How often something is so of the cases of each name, and of how many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.evaluation.significance import grouped_share


def units_of(n: int, groups: np.ndarray | None) -> np.ndarray:
    """Return for each of n rows a number that the rows of its group share: ndarray of int (n,)."""
    return np.unique(np.arange(n) if groups is None else groups, return_inverse=True)[1]


def rates_by_name(
    cases: pd.DataFrame,
    by: str,
    *,
    names: Sequence[str],
    min_cases: int = 1,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return the rate of cases that are `found`, with its interval, for each name.

    Parameters
    ----------
    cases : with the column `by`, `found` (bool), and `unit` (cases of a unit are alike)
    names : the rows of the result, whether they have cases or not
    min_cases : units that a name needs, or its rate is NaN

    Returns
    -------
    DataFrame by name: `rate`, `low`, `high`, `count` (cases found), `n`
    """
    rows = {}
    for name in names:
        of_name = cases[cases[by] == name]
        found = of_name["found"].to_numpy(dtype=bool)
        ends = (np.nan, np.nan, np.nan)
        if of_name["unit"].nunique() >= max(1, min_cases):
            unit = of_name["unit"].to_numpy()
            ends = grouped_share(found, groups=unit, confidence=confidence).with_ends
        rows[name] = (*ends, int(found.sum()), len(found))
    columns = ["rate", "low", "high", "count", "n"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis(by)
