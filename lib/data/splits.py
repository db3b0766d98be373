"""Leak-free stratified splits, and the matrix that shows whether one leaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lib.data.duplicates import group_ids
from lib.errors import WorkbookError

SPLITS = ("train", "val", "test")
_RANK = {"": 0, **{name: rank for rank, name in enumerate(SPLITS)}}


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
    shares : of train, validation, test, summing to 1; a split with a share of 0 gets no row

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
        split = int(np.argmax(np.where(fits, lacking / np.maximum(shares, 1e-12), -1) if fits.any() else lacking))
        assigned[rows] = split
        missing[:, split] -= need
    for code in range(len(counts)):
        rows = order[(codes[order] == code) & (assigned[order] < 0)]
        assigned[rows] = np.repeat(np.arange(3), _fit(missing[code], len(rows)))
    return np.array(SPLITS)[assigned]


def given_splits(table: pd.DataFrame, *, shares: tuple[float, float, float]) -> pd.Series:
    """Return the split that the source gives each row: its column `split`, else by its column `time`, else "" for all.

    By time the latest rows are the test set and those before them validation; rows of one moment stay together.

    Raises
    ------
    WorkbookError : too many rows share a moment for three splits.
    """
    if "split" in table:
        return table["split"]
    if "time" not in table:
        return pd.Series("", index=table.index, dtype=object)
    moments = np.sort(table["time"].to_numpy())
    cuts = moments[np.minimum(np.ceil(np.cumsum(shares[:2]) * len(moments)).astype(int), len(moments) - 1)]
    given = np.array(SPLITS)[np.searchsorted(cuts, table["time"], side="right")]
    if lacking := sorted(set(SPLITS) - set(given)):
        n = len(np.unique(moments))
        raise WorkbookError(
            f"data.time_column: {n} distinct times leave no row for {lacking[0]} at shares {shares}: name a finer column, or other split.shares"
        )
    return pd.Series(given, index=table.index, dtype=object)


def repeated_rows(rows: pd.DataFrame) -> pd.Series:
    """Return the `row_id` of the row whose text and label each row repeats, -1 for none.

    The first of equal rows repeats none; where splits are given, the first in the latest of their splits.

    Parameters
    ----------
    rows : with `row_id`, `text`, `label` and `given`
    """
    latest_first = rows.assign(rank=rows["given"].map(_RANK)).sort_values("rank", ascending=False, kind="stable")
    first = latest_first.groupby(["text", "label"], sort=False)["row_id"].transform("first").reindex(rows.index)
    return first.where(first.notna() & (first != rows["row_id"]), -1).astype("int64")


def copies_in_later_splits(rows: pd.DataFrame, pairs: pd.DataFrame) -> pd.Series:
    """Return the `row_id` of a near-copy in a later of the splits that were given, -1 where a row has none.

    Parameters
    ----------
    rows : with `row_id` and `given`
    pairs : near-duplicates, `i` and `j` being positions in `rows`; chains of pairs count
    """
    rank, group = rows["given"].map(_RANK).to_numpy(), group_ids(len(rows), pairs)
    latest = pd.Series(rank).groupby(group).transform("max").to_numpy()
    stays = pd.Series(rows["row_id"].to_numpy()[rank == latest]).groupby(group[rank == latest]).first()
    return pd.Series(np.where(rank < latest, stays.reindex(group).to_numpy(), -1), index=rows.index)


def assign_splits(rows: pd.DataFrame, *, shares: tuple[float, float, float], seed: int = 42) -> np.ndarray:
    """Return each row's split: the one given, else drawn by `split_rows`; a split that was not given is drawn from training rows.

    Parameters
    ----------
    rows : with `label`, `group` and `given`, no group in two of the splits given
    shares, seed : as for `split_rows`

    Raises
    ------
    WorkbookError : a class has no row in one of the splits.
    """
    split = rows["given"].replace("", "train").to_numpy(dtype=object, copy=True)
    lacking = np.array([name == "train" or name not in split for name in SPLITS])
    source = rows[split == "train"]
    parts = np.where(lacking, shares, 0.0)
    drawn = split_rows(source["label"].tolist(), source["group"].to_numpy(), shares=tuple(parts / parts.sum()), seed=seed)
    split[split == "train"] = drawn
    rows_of = pd.crosstab(rows["label"].to_numpy(), split).reindex(columns=list(SPLITS), fill_value=0)
    for label, name in rows_of[rows_of == 0].stack().index:
        raise WorkbookError(
            f"class {label!r} has no row in the split {name!r}; the splits were given by the data: merge or drop the class, or let them be drawn"
        )
    return split


def leak_matrix(pairs: pd.DataFrame, split: Sequence[str]) -> Leaks:
    """Count pairs (`i`, `j`: positions) by the splits of their rows."""
    names = np.asarray(split, dtype=object)
    left, right = names[pairs["i"].to_numpy()], names[pairs["j"].to_numpy()]
    counts = pd.crosstab(left, right).reindex(index=SPLITS, columns=SPLITS, fill_value=0).to_numpy()
    symmetric = counts + counts.T - np.diag(np.diag(counts))
    matrix = pd.DataFrame(symmetric, index=pd.Index(SPLITS, name="split"), columns=list(SPLITS))
    return Leaks(matrix, int((left != right).sum()))


def leaked_rows(pairs: pd.DataFrame, split: Sequence[str]) -> np.ndarray:
    """Return which test rows have a near-copy (`i`, `j`: positions) among the training rows, chains of pairs counted: ndarray of bool of shape (n,)."""
    names, group = np.asarray(split, dtype=object), group_ids(len(split), pairs)
    return (names == "test") & np.isin(group, group[names == "train"])


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
