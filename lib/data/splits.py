"""Leak-free stratified splits, and the matrix that shows whether one leaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lib.data.duplicates import group_ids
from lib.errors import WorkbookError, listed, quoted

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
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


def split_rows(
    labels: Sequence[str],
    groups: np.ndarray,
    *,
    shares: tuple[float, float, float] = (0.70, 0.15, 0.15),
    seed: int = 42,
) -> np.ndarray:
    """Assign rows to train, validation and test: stratified by label, no group in two splits.

    Groups of several rows go first, largest first, each to a split drawn in proportion to what it
    lacks of the group's labels. Single rows then fill what is missing of every label, so that class
    shares are exact to a row wherever groups leave room. A class is in every split if it has as
    many groups and single rows as there are splits, and no group has rows of several classes.

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
        raise ValueError(
            f"labels and groups must have one length, got {len(labels)} and {len(groups)}"
        )
    codes = pd.factorize(np.asarray(labels, dtype=object), sort=True)[0]
    n_classes = codes.max() + 1
    missing = np.stack([_quotas(n, shares) for n in np.bincount(codes).tolist()])  # (n_classes, 3)
    assigned = np.full(len(codes), -1)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(codes))
    n_units = pd.Series(groups).groupby(codes).nunique().to_numpy()
    is_wanted = np.tile(np.asarray(shares) > 0, (n_classes, 1))  # splits without a row of a class
    for rows in _groups_of_several(groups, order):
        needed = np.bincount(codes[rows], minlength=n_classes)
        is_short = (needed > 0) & (n_units <= is_wanted.sum(axis=1))
        split = _split_for_group(needed, missing, wanted=is_wanted[is_short].any(axis=0), rng=rng)
        assigned[rows] = split
        missing[:, split] -= needed
        n_units -= needed > 0
        is_wanted[needed > 0, split] = False
    for code in range(n_classes):
        rows = order[(codes[order] == code) & (assigned[order] < 0)]
        assigned[rows] = np.repeat(np.arange(3), _fit(missing[code], len(rows)))
    return np.array(SPLITS)[assigned]


def _groups_of_several(groups: np.ndarray, order: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each group that has several, the largest group first."""
    sizes = pd.Series(groups).groupby(groups).transform("size").to_numpy()
    grouped = order[sizes[order] > 1]
    by_group = pd.Series(grouped).groupby(groups[grouped], sort=False)
    return sorted((rows.to_numpy() for _, rows in by_group), key=len, reverse=True)


def _split_for_group(
    needed: np.ndarray, missing: np.ndarray, *, wanted: np.ndarray, rng: np.random.Generator
) -> int:
    """Return a split for a group: in proportion to what it lacks, among those with room for it.

    Where none has room, it is the one that lacks most.

    Parameters
    ----------
    needed : ndarray of int of shape (n_classes,), rows of the group
    missing : ndarray of int of shape (n_classes, 3), rows that each split lacks
    wanted : ndarray of bool of shape (3,), splits that would else be left without a class: they
        come before all others
    """
    lacking = needed @ missing
    has_room = (missing >= needed[:, None]).all(axis=0)
    allowed = has_room
    if wanted.any():
        allowed = wanted & has_room if (wanted & has_room).any() else wanted
    weights = np.where(allowed, np.maximum(lacking, 0), 0)
    if not weights.any():
        return int(np.argmax(lacking))
    return int(rng.choice(len(SPLITS), p=weights / weights.sum()))


def given_splits(table: pd.DataFrame, *, shares: tuple[float, float, float]) -> pd.Series:
    """Return the split that the source gives each row.

    It is the column `split`, else follows the column `time`, else is "" for all. By time the latest
    rows are the test set and those before them validation; rows of one moment stay together.

    Raises
    ------
    WorkbookError : too many rows share a moment for three splits.
    """
    if "split" in table:
        return table["split"]
    if "time" not in table:
        return pd.Series("", index=table.index, dtype=object)
    moments = np.sort(table["time"].to_numpy())
    positions = np.ceil(np.cumsum(shares[:2]) * len(moments)).astype(int)
    cuts = moments[np.minimum(positions, len(moments) - 1)]
    given = np.array(SPLITS)[np.searchsorted(cuts, table["time"], side="right")]
    empty = sorted(set(SPLITS) - set(given))
    if empty:
        raise WorkbookError(
            f"data.time_column: {len(np.unique(moments))} distinct times leave no row for "
            f"{empty[0]} at shares {shares}: name a finer column, or other split.shares"
        )
    return pd.Series(given, index=table.index, dtype=object)


def check_given_groups(given: pd.Series, keys: pd.Series) -> None:
    """Raise WorkbookError where rows of one group are in two of the splits that the data give.

    Parameters
    ----------
    given : the split of each row, "" for none
    keys : what the rows of a group share, None for a row on its own
    """
    n_splits = given.groupby(keys.to_numpy(), sort=False).nunique()
    torn = n_splits.index[n_splits > 1]
    if len(torn):
        raise WorkbookError(
            f"data.group_column: {len(torn):,} of {len(n_splits):,} groups "
            f"({listed(map(quoted, torn), 80)}) have rows in two of the splits that the data give; "
            "unset data.group_column, or what splits the rows (data.split_column, data.time_column)"
        )


def group_links(keys: pd.Series) -> pd.DataFrame:
    """Return pairs `i`, `j` of positions that join the rows of each group; None joins none."""
    rows = pd.Series(np.arange(len(keys)))
    first = rows.groupby(keys.to_numpy(), sort=False).transform("first")
    joined = first.notna() & (first != rows)
    return pd.DataFrame({"i": first[joined].astype("int64"), "j": rows[joined]})


def repeated_rows(rows: pd.DataFrame) -> pd.Series:
    """Return the `row_id` of the row whose text and label each row repeats, -1 for none.

    The first of equal rows repeats none; where splits are given, the first in the latest of them.

    Parameters
    ----------
    rows : with `row_id`, `text`, `label` and `given`
    """
    ranked = rows.assign(rank=rows["given"].map(_RANK))
    latest_first = ranked.sort_values("rank", ascending=False, kind="stable")
    by_content = latest_first.groupby(["text", "label"], sort=False)
    first = by_content["row_id"].transform("first").reindex(rows.index)
    return first.where(first.notna() & (first != rows["row_id"]), -1).astype("int64")


def copies_in_later_splits(rows: pd.DataFrame, pairs: pd.DataFrame) -> pd.Series:
    """Return the `row_id` of a near-copy in a later given split, -1 where a row has none.

    Parameters
    ----------
    rows : with `row_id` and `given`
    pairs : near-duplicates, `i` and `j` being positions in `rows`; chains of pairs count
    """
    rank = rows["given"].map(_RANK).to_numpy()
    group = group_ids(len(rows), pairs)
    latest = pd.Series(rank).groupby(group).transform("max").to_numpy()
    stays = rank == latest
    kept = pd.Series(rows["row_id"].to_numpy()[stays]).groupby(group[stays]).first()
    return pd.Series(np.where(stays, -1, kept.reindex(group).to_numpy()), index=rows.index)


def assign_splits(
    rows: pd.DataFrame, *, shares: tuple[float, float, float], seed: int = 42
) -> np.ndarray:
    """Return each row's split: the one given, else drawn by `split_rows`.

    A split that was not given is drawn from the training rows.

    Parameters
    ----------
    rows : with `label`, `group` and `given`, no group in two of the splits given; with `group_key`
        where the data name groups
    shares, seed : as for `split_rows`

    Raises
    ------
    WorkbookError : a class has no row in one of the splits.
    """
    split = rows["given"].replace("", "train").to_numpy(dtype=object, copy=True)
    is_drawn = [name == "train" or name not in split for name in SPLITS]
    source = rows[split == "train"]
    parts = np.where(is_drawn, shares, 0.0)
    split[split == "train"] = split_rows(
        source["label"].tolist(),
        source["group"].to_numpy(),
        shares=tuple(parts / parts.sum()),
        seed=seed,
    )
    n_rows = split_sizes(rows.assign(split=split)).iloc[:-1, :-1]
    missing = np.argwhere(n_rows.to_numpy() == 0)
    if len(missing):
        row, column = missing[0]
        why = "its rows are near-copies, which stay together: add rows, or drop the class"
        if "group_key" in rows:
            why = (
                "its rows are of too few groups of data.group_column: add groups, or drop the class"
            )
        if rows["given"].ne("").any():
            why = "the splits were given by the data: merge or drop the class, or let them be drawn"
        label = quoted(n_rows.index[row])
        raise WorkbookError(f"class {label} has no row in the split {SPLITS[column]!r}; {why}")
    return split


def split_sizes(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how many rows each class has in each split.

    Parameters
    ----------
    rows : with `label` and `split`

    Returns
    -------
    DataFrame by label, of SPLITS and `rows`, their sum; the last row is the sum of all classes
    """
    counts = pd.crosstab(rows["label"], rows["split"]).reindex(columns=list(SPLITS), fill_value=0)
    counts["rows"] = counts.sum(axis=1)
    totals = counts.sum().to_frame("all classes").T
    return pd.concat([counts, totals]).rename_axis(index="label", columns="split")


def leak_matrix(pairs: pd.DataFrame, split: Sequence[str]) -> Leaks:
    """Count pairs by the splits of their rows.

    Parameters
    ----------
    pairs : from `duplicates.near_duplicate_pairs`: of equal texts it lists the pairs with the first
        alone, which stands for them all; here all their pairs count
    split : n splits
    """
    equal = group_ids(len(split), pairs[pairs["similarity"] == 1])
    codes = pd.Categorical(split, categories=SPLITS).codes
    members = np.zeros((equal.max(initial=-1) + 1, len(SPLITS)), dtype=np.int64)
    np.add.at(members, (equal, codes), 1)
    alike = pairs[pairs["similarity"] < 1]
    left = members[equal[alike["i"].to_numpy()]]
    right = members[equal[alike["j"].to_numpy()]]
    counts = members.T @ members + left.T @ right + right.T @ left  # of ordered pairs
    within = (np.diag(counts) - members.sum(axis=0)) // 2
    n_crossing = int(np.triu(counts, 1).sum())
    np.fill_diagonal(counts, within)
    matrix = pd.DataFrame(counts, index=pd.Index(SPLITS, name="split"), columns=list(SPLITS))
    return Leaks(matrix, n_crossing)


def leaked_rows(pairs: pd.DataFrame, split: Sequence[str]) -> np.ndarray:
    """Return which test rows have a near-copy among the training rows, chains of pairs counted.

    Parameters
    ----------
    pairs : near-duplicates, `i` and `j` being positions
    split : n splits

    Returns
    -------
    ndarray of bool of shape (n,)
    """
    names = np.asarray(split, dtype=object)
    group = group_ids(len(split), pairs)
    return (names == "test") & np.isin(group, group[names == "train"])


def class_shares(labels: Sequence[str], split: Sequence[str]) -> pd.DataFrame:
    """Return each class's share of rows in each split: rows of the table sum to 1."""
    names = np.asarray(split, dtype=object)
    shares = pd.crosstab(np.asarray(labels, dtype=object), names, normalize="index")
    shares = shares.reindex(columns=list(SPLITS), fill_value=0.0)
    return shares.rename_axis(index="label", columns=None)


def share_error(rows: pd.DataFrame, *, shares: tuple[float, float, float]) -> float:
    """Return the largest distance of a class's share of a split from the wanted one, 0..1.

    Parameters
    ----------
    rows : with `label` and `split`
    shares : of train, validation, test, summing to 1
    """
    actual = class_shares(rows["label"].tolist(), rows["split"].tolist())
    return float((actual - np.array(shares)).abs().to_numpy().max())


def share_tolerance(rows: pd.DataFrame) -> float:
    """Return the distance that `share_error` may reach where a group goes whole into one split.

    Parameters
    ----------
    rows : with `label` and `group`

    Returns
    -------
    half a point, and the largest group's share of the smallest class
    """
    largest_group = rows["group"].value_counts().max()
    return float(0.005 + largest_group / rows["label"].value_counts().min())


def describe_given(split: pd.Series) -> str:
    """Return in a sentence how many rows the splits have that the data give."""
    sizes = split.value_counts().reindex(SPLITS, fill_value=0)
    listed = ", ".join(f"{n:,} {name}" for name, n in sizes.items())
    return f"The data give the splits: {listed} rows, whatever the shares asked for."


def _quotas(n: int, shares: tuple[float, float, float]) -> np.ndarray:
    """Share n rows out by largest remainder, each split at least one where n allows."""
    exact = n * np.asarray(shares)
    quotas = np.floor(exact).astype(int)
    quotas[np.argsort(quotas - exact, kind="stable")[: n - quotas.sum()]] += 1
    return quotas


def _fit(missing: np.ndarray, n: int) -> np.ndarray:
    """Return counts of 0 or more that sum to n and follow `missing`, which may be overdrawn."""
    counts = np.maximum(missing, 0)
    while counts.sum() > n:
        counts[np.argmax(counts)] -= 1
    counts[0] += n - counts.sum()
    return counts
