"""Classes: spellings that are one, and whether each has what splits and folds need."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lib.config import Config
from lib.data import splits
from lib.errors import MAX_CHARS, WorkbookError, listed, quoted


def check_labels(table: pd.DataFrame, config: Config) -> None:
    """Raise WorkbookError where the labels cannot be learned from.

    No label at all; one class alone; labels that differ in case or blanks alone (unless they are to
    be merged); a class with too few rows for every split and fold.
    """
    source = config.data.source
    labels = table.dropna(subset=["text", "label"])["label"]
    textless = sorted(set(table["label"].dropna()) - set(labels))
    if labels.empty:
        raise WorkbookError(
            f"{source}: no row has both a text and a label; check --text-column and --label-column"
        )
    if config.data.merge_labels:
        labels = merged_labels(labels)
    names = pd.Series(sorted(labels.unique()), dtype=object)
    clashes = [group for _, group in names.groupby(_folded(names)) if len(group) > 1]
    if clashes:
        spellings = listed((" and ".join(map(quoted, group)) for group in clashes), 100)
        raise WorkbookError(
            f"{source}: labels that differ in case or blanks alone: {spellings}. "
            "Merge them with --set data.merge_labels=true, or fix the data"
        )
    if len(names) == 1:
        rows = f"rows have the label {quoted(names[0])}"
        if textless:
            rows = f"rows that have a text have the label {quoted(names[0])}"
            rows += f" ({listed(map(quoted, textless), 60)} has none)"
        raise WorkbookError(
            f"{source}: all {rows}; at least two classes are needed; check --label-column"
        )
    check_class_sizes(labels.value_counts(), config, where=source)
    if "group_key" in table and not config.data.split_column:
        _check_groups(table.loc[labels.index, "group_key"], labels, where=source)


def _check_groups(keys: pd.Series, labels: pd.Series, *, where: str) -> None:
    """Raise WorkbookError where a class has too few groups for every split to have one."""
    alone = keys.index.to_series().map("row {}".format)
    n_groups = keys.fillna(alone).groupby(labels).nunique()
    if n_groups.min() < len(splits.SPLITS):
        raise WorkbookError(
            f"{where}: the rows of class {quoted(n_groups.idxmin())} are of {n_groups.min()} "
            "groups, and each split needs one; name a finer data.group_column, or unset it"
        )


def check_class_sizes(
    counts: pd.Series, config: Config, *, where: str, dropped: pd.DataFrame | None = None
) -> None:
    """Raise WorkbookError where a class has too few rows for every split and every training fold.

    Parameters
    ----------
    counts : rows a class, 0 for one that has none left
    where : what the rows are, for the message
    dropped : rows that went before, with `label` and `rule` (a rule's name, or a person's
        decision): the message says which took a class's rows
    """
    needed = min_rows(config, folds=config.n_folds)
    small = counts[counts < needed].sort_values(kind="stable")
    if small.empty:
        return
    if dropped is None:
        dropped = pd.DataFrame(columns=["label", "rule"])
    remedies = ["add rows", "drop the class"]
    lost = dropped[dropped["label"].isin(small.index)]
    is_sample = bool(config.data.rows) and config.data.rows <= counts.sum() + len(dropped)
    if is_sample and len(lost):
        remedies.insert(0, f"raise data.rows={config.data.rows}")
    if (lost["rule"] == "min_words").any():
        remedies.append("keep more of its rows with other settings of cleaning")
    if dropped["rule"].isin(["drop", "relabel"]).any():
        remedies.append("change decisions")
    if small.max() >= min_rows(config, folds=2):
        remedies += _fewer_folds(config)
    start = f"{where}: classes with fewer than the {needed} rows that three splits and "
    start += f"{config.n_folds} folds need: "
    end = f"; {_alternatives(remedies)}"
    classes = [_class_size(name, n, dropped) for name, n in small.items()]
    raise WorkbookError(start + listed(classes, MAX_CHARS - len(start + end)) + end)


def check_training_texts(train: pd.DataFrame, config: Config, *, where: str) -> None:
    """Raise WorkbookError where a class has fewer different training texts than there are folds.

    Parameters
    ----------
    train : training rows with `label` and `group`; the rows of a group are one text
    where : what the rows are, for the message
    """
    n_texts = train.groupby("label")["group"].nunique().sort_values(kind="stable")
    small = n_texts[n_texts < config.n_folds]
    if small.empty:
        return
    start = f"{where}: {config.n_folds} folds need as many different training texts of each class "
    same = "near-copies"
    if config.data.group_column:
        same += f", and rows of one {quoted(config.data.group_column)},"
    start += f"({same} are one): "
    remedies = ["add texts", "drop the class", *_fewer_folds(config)]
    end = f"; {_alternatives(remedies)}"
    classes = [f"{quoted(name)} ({n})" for name, n in small.items()]
    raise WorkbookError(start + listed(classes, MAX_CHARS - len(start + end)) + end)


def merged_labels(labels: pd.Series) -> pd.Series:
    """Give labels that differ in case or blanks alone the commonest of their spellings."""
    folded = _folded(labels)
    commonest = labels.groupby(folded).agg(lambda group: group.mode()[0])
    return folded.map(commonest)


def min_rows(config: Config, *, folds: int) -> int:
    """Return the rows that a class needs, to be in every split and every fold."""
    train, val, test = config.split.shares
    return int(np.ceil(max(folds / train, 1 / val, 1 / test) + 1))


def _fewer_folds(config: Config) -> list[str]:
    """Return the remedy that takes the fewest folds; none where these are taken."""
    return [f"set {', '.join(config.fewer_folds)}"] if config.fewer_folds else []


def _alternatives(remedies: list[str]) -> str:
    return f"{', '.join(remedies[:-1])}, or {remedies[-1]}"


def _class_size(name: Any, n: int, dropped: pd.DataFrame) -> str:
    """Return a class with its number of rows, and what took those that went before."""
    lost = dropped.loc[dropped["label"] == name, "rule"].value_counts()
    if lost.empty:
        return f"{quoted(name)} ({n})"
    rules = ", ".join(f"{rule} took {count}" for rule, count in lost.items())
    return f"{quoted(name)} ({n} of {n + lost.sum()} left: {rules})"


def _folded(labels: pd.Series) -> pd.Series:
    return labels.map(lambda label: " ".join(label.split()).casefold(), na_action="ignore")
