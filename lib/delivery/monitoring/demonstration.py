"""Predictions that are changed on purpose: what drift looks like where nothing was logged yet."""

from __future__ import annotations

import numpy as np
import pandas as pd


def shifted(rows: pd.DataFrame, *, size: int, share: float = 0.1, seed: int) -> pd.DataFrame:
    """Draw rows, the class of the first one `share` (0..1) commoner among them than in `rows`."""
    rng = np.random.default_rng(seed)
    rows = rows.iloc[rng.permutation(len(rows))]
    belongs = (rows["label"] == rows["label"].iloc[0]).to_numpy()
    n_more = min(round(size * (belongs.mean() + share)), belongs.sum())
    return pd.concat([rows[belongs][:n_more], rows[~belongs][: size - n_more]])


def mixed(
    rows: pd.DataFrame, foreign: pd.DataFrame, *, size: int, share: float, seed: int
) -> pd.DataFrame:
    """Draw rows, `share` (0..1) of them from others."""
    n_foreign = round(size * share)
    drawn = rows.sample(size - n_foreign, random_state=seed)
    strange = foreign.sample(n_foreign, random_state=seed, replace=len(foreign) < n_foreign)
    return pd.concat([drawn, strange])
