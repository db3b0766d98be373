"""What gain in accuracy test sets of given sizes can show, before any model is trained."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from lib.evaluation.significance import minimum_detectable_effect

_TYPICAL_DISAGREEMENT = 0.1  # share of rows where one of two models alone is right


def detectable_gains(sizes: Mapping[str, int], *, confidence: float = 0.95) -> pd.DataFrame:
    """Return the smallest gain that each split shows with 80 % power.

    Parameters
    ----------
    sizes : split -> rows

    Returns
    -------
    DataFrame of gains, 0..1, with a column for each split; the index is the share of rows where one
    of two models alone is right, 0.01 to 0.2
    """
    rates = np.linspace(0.01, 0.2, 20)
    alpha = 1 - confidence
    gains = {
        split: [minimum_detectable_effect(n, disagreement=rate, alpha=alpha) for rate in rates]
        for split, n in sizes.items()
    }
    return pd.DataFrame(gains, index=rates)


def describe_detectable_gains(sizes: Mapping[str, int], *, confidence: float = 0.95) -> str:
    """Return in a sentence what each split shows where two models disagree on 10 % of its rows."""
    listed = []
    for split, n in sizes.items():
        gain = minimum_detectable_effect(
            n, disagreement=_TYPICAL_DISAGREEMENT, alpha=1 - confidence
        )
        listed.append(f"{split} ({n:,} rows) {100 * gain:.1f}")
    return (
        "Where one model alone is right on 10% of the rows, accuracy must rise by this many points "
        f"to show with 80% power: {', '.join(listed)}."
    )
