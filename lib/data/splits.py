"""Leak-free stratified splits, and the matrix that shows whether one leaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Leaks:
    """Near-duplicate pairs counted by the splits of their two rows.

    Attributes
    ----------
    matrix : DataFrame, SPLITS by SPLITS, symmetric; off the diagonal are pairs that cross
    n_crossing : pairs whose rows are in different splits
    """

    matrix: pd.DataFrame
    n_crossing: int


def split_rows(labels: Sequence[str], groups: np.ndarray, *, shares: tuple[float, float, float] = (0.70, 0.15, 0.15), seed: int = 42) -> np.ndarray:
    """Assign rows to train, validation and test: stratified by label, no group in two splits.

    Groups of several rows go first, largest first, each to the split that lacks most of its labels; single rows then
    fill what is missing of every label, so that class shares are exact to a row wherever groups leave room.

    Parameters
    ----------
    labels : n labels
    groups : ndarray of shape (n,); rows with one number stay together
    shares : of train, validation, test; positive, summing to 1

    Returns
    -------
    ndarray of str of shape (n,), "train" | "val" | "test"
    """
    if len(labels) != len(groups):
        raise ValueError(f"labels and groups must have one length, got {len(labels)} and {len(groups)}")
    codes = pd.factorize(np.asarray(labels, dtype=object), sort=True)[0]
    counts = np.bincount(codes)
    missing = np.stack([_quotas(n, shares) for n in counts])  # (n_classes, 3)
    assigned = np.full(len(codes), -1)
    order = np.random.default_rng(seed).permutation(len(codes))
    sizes = pd.Series(groups).groupby(groups).transform("size").to_numpy()
    grouped = pd.Series(order[sizes[order] > 1]).groupby(groups[order[sizes[order] > 1]], sort=False)
    for rows in sorted((rows.to_numpy() for _, rows in grouped), key=len, reverse=True):
        need = np.bincount(codes[rows], minlength=len(counts))
        lacking, fits = need @ missing, (missing >= need[:, None]).all(axis=0)
        split = int(np.argmax(np.where(fits, lacking / np.asarray(shares), -1) if fits.any() else lacking))
        assigned[rows] = split
        missing[:, split] -= need
    for code in range(len(counts)):
        rows = order[(codes[order] == code) & (assigned[order] < 0)]
        assigned[rows] = np.repeat(np.arange(3), _fit(missing[code], len(rows)))
    return np.array(SPLITS)[assigned]


def leak_matrix(pairs: pd.DataFrame, split: Sequence[str]) -> Leaks:
    """Count pairs (`i`, `j`: positions) by the splits of their rows."""
    names = np.asarray(split, dtype=object)
    left, right = names[pairs["i"].to_numpy()], names[pairs["j"].to_numpy()]
    counts = pd.crosstab(left, right).reindex(index=SPLITS, columns=SPLITS, fill_value=0).to_numpy()
    symmetric = counts + counts.T - np.diag(np.diag(counts))
    matrix = pd.DataFrame(symmetric, index=pd.Index(SPLITS, name="split"), columns=list(SPLITS))
    return Leaks(matrix, int((left != right).sum()))


def class_shares(labels: Sequence[str], split: Sequence[str]) -> pd.DataFrame:
    """Return each class's share of rows in each split: rows of the table sum to 1."""
    shares = pd.crosstab(np.asarray(labels, dtype=object), np.asarray(split, dtype=object), normalize="index")
    return shares.reindex(columns=list(SPLITS), fill_value=0.0).rename_axis(index="label", columns=None)


def _quotas(n: int, shares: tuple[float, float, float]) -> np.ndarray:
    """Share n rows out by largest remainder, each split at least one where n allows."""
    exact = n * np.asarray(shares)
    quotas = np.floor(exact).astype(int)
    quotas[np.argsort(quotas - exact, kind="stable")[: n - quotas.sum()]] += 1
    return quotas


def _fit(missing: np.ndarray, n: int) -> np.ndarray:
    """Return non-negative counts that sum to n and follow `missing`, which groups may have overdrawn."""
    counts = np.maximum(missing, 0)
    while counts.sum() > n:
        counts[np.argmax(counts)] -= 1
    counts[0] += n - counts.sum()
    return counts
