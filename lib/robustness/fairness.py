"""Whether a classifier is as right, and as sure, for one group of people as for the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lib.errors import listed
from lib.evaluation.significance import Interval, grouped_share, share_gap
from lib.robustness.editable import read_own
from lib.robustness.prediction import Predict, checked
from lib.robustness.rates import rates_by_name, units_of
from lib.robustness.substitution import replace_words, seeded, word_pattern

COLUMNS = ("dimension", "slot", "group", "term")
MEASURES = ("error", "overconfidence")
TOO_FEW = "too few texts"


@dataclass(frozen=True)
class GroupGaps:
    """How groups compare with all other texts.

    Attributes
    ----------
    table : DataFrame by (group, measure), "error" (share of wrong answers) and "overconfidence"
        (mean confidence less share of right answers): `of_group`, `of_others`, and the gap between
        them as `value` with `low` and `high`, which hold for all groups together; `verdict`
        ("higher" or "lower" where the interval excludes 0, "inconclusive", or "too few texts",
        where the numbers are NaN); `n`
    min_rows : texts, near-copies counted once, that a group and the others need
    n_unknown : texts whose group is not known, which are left out
    """

    table: pd.DataFrame
    min_rows: int
    n_unknown: int

    def describe(self) -> str:
        """Return as sentences which groups differ, and where nothing can be said."""
        is_error = self.table.index.get_level_values("measure") == "error"
        errors = self.table[is_error].droplevel("measure")
        small = errors.index[errors["verdict"] == TOO_FEW].tolist()
        found = []
        for group, row in errors.drop(small).iterrows():
            gap = Interval(row["value"], row["low"], row["high"], n=row["n"])
            found.append(f"{group} {gap.signed()} ({row['verdict']}, n = {gap.n:,})")
        sentences = [f"Error rate less that of the others: {'; '.join(found)}."] if found else []
        if small:
            few = f"Fewer than {self.min_rows} texts in it or in the others, nothing claimed"
            sentences.append(f"{few}: {listed(small)}.")
        if self.n_unknown:
            sentences.append(f"{self.n_unknown:,} texts of no known group are left out.")
        return " ".join(sentences) or "There is no group."


def column_groups(values: Sequence[object]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the members of each value of a column, and which rows have a value.

    Returns
    -------
    members : value -> ndarray of bool of shape (n,)
    known : ndarray of bool of shape (n,), False where the value is missing or blank
    """
    column = pd.Series(values, dtype=object)
    column = column.where(column.isna(), column.astype(str).str.strip()).replace("", None)
    members = {
        str(value): (column == value).to_numpy() for value in sorted(column.dropna().unique())
    }
    return members, column.notna().to_numpy()


def mentioned_groups(texts: Sequence[str], terms: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return which texts name a group of people by one of its terms.

    Parameters
    ----------
    terms : from `read_terms`

    Returns
    -------
    "dimension: group" -> ndarray of bool of shape (n,); a text may name several groups
    """
    members = {}
    for (dimension, group), of_group in terms.groupby(["dimension", "group"], sort=False):
        pattern = word_pattern(of_group["term"])
        found = [pattern.search(text) is not None for text in texts]
        members[f"{dimension}: {group}"] = np.array(found, dtype=bool)
    return members


def group_gaps(
    y_true: np.ndarray,
    probs: np.ndarray,
    members: Mapping[str, np.ndarray],
    *,
    known: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    min_rows: int = 30,
    confidence: float = 0.95,
) -> GroupGaps:
    """Compare error rate and overconfidence of each group with those of all other texts.

    Parameters
    ----------
    y_true, probs : n classes, columns of the probabilities of shape (n, k)
    members : group of people -> ndarray of bool of shape (n,)
    known : ndarray of bool of shape (n,), the rows that take part; None: all
    groups : (n,) of anything; rows of a group (near-copies) count as little more than one
    min_rows : of a group and of the others, or nothing is claimed
    confidence : of all intervals of a measure together (Bonferroni)

    Source
    ------
    `significance.share_gap`. Overconfidence is measured given the confidences: only the accuracy
    has chance.
    """
    known = np.ones(len(y_true), dtype=bool) if known is None else known
    unit = units_of(len(y_true), groups)
    wrong = probs.argmax(axis=1) != y_true
    sure = probs.max(axis=1)
    sides = {name: [known & belongs, known & ~belongs] for name, belongs in members.items()}
    is_large = {
        name: min(len(np.unique(unit[side])) for side in pair) >= min_rows
        for name, pair in sides.items()
    }
    of_each = 1 - (1 - confidence) / max(1, sum(is_large.values()))
    rows: dict[tuple[str, str], tuple] = {}
    for name, pair in sides.items():
        n = int(pair[0].sum())
        if not is_large[name]:
            rows |= {(name, measure): (*[np.nan] * 5, TOO_FEW, n) for measure in MEASURES}
            continue
        errors = [
            grouped_share(wrong[side], groups=unit[side], confidence=of_each) for side in pair
        ]
        shifts = [float(sure[side].mean()) - 1 for side in pair]
        rows[name, MEASURES[0]] = (*_gap(errors, [0, 0]), n)
        rows[name, MEASURES[1]] = (*_gap(errors, shifts), n)
    index = pd.MultiIndex.from_tuples(list(rows), names=["group", "measure"])
    columns = ["of_group", "of_others", "value", "low", "high", "verdict", "n"]
    table = pd.DataFrame(list(rows.values()), index, columns)
    return GroupGaps(table, min_rows, int((~known).sum()))


def _gap(shares: Sequence[Interval], shifts: Sequence[float]) -> tuple:
    """Return two shares that are shifted by so much, their gap with its ends, and the verdict."""
    gap = share_gap(*shares)
    values = [share.value + shift for share, shift in zip(shares, shifts)]
    low, high = (end + shifts[0] - shifts[1] for end in (gap.low, gap.high))
    verdict = "inconclusive"
    if low > 0:
        verdict = "higher"
    elif high < 0:
        verdict = "lower"
    return *values, values[0] - values[1], low, high, verdict


def read_terms(path: Path) -> pd.DataFrame:
    """Read terms by which texts name groups of people; without a file, those that are shipped.

    Returns
    -------
    DataFrame with COLUMNS; the terms of a dimension's `slot` can take each other's place
    """
    return read_own(path, COLUMNS)


def swap_identities(
    predict: Predict,
    texts: Sequence[str],
    terms: pd.DataFrame,
    *,
    class_names: Sequence[str],
    groups: np.ndarray | None = None,
    min_rows: int = 30,
    confidence: float = 0.95,
    seed: int = 42,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return how often an answer changes when a text names another group of people.

    All terms of a group in a text give way to those of one other group in the same slots.

    Returns
    -------
    rates : DataFrame by dimension: `rate` of changed answers with `low` and `high` (NaN where fewer
        than `min_rows` texts, near-copies counted once, name a group), `count`, `n`
    flips : DataFrame of the changed answers: `dimension`, `row` (position of the text), `swapped`,
        `answer`, `new_answer`
    """
    predict = checked(predict, n_classes=len(class_names))
    names = np.array(class_names, dtype=object)
    swaps = []
    for dimension, of_dimension in terms.groupby("dimension", sort=False):
        others = _other_terms(of_dimension)
        pattern = word_pattern(others)
        of_people = of_dimension["group"].unique().tolist()
        for row, text in enumerate(texts):
            order = seeded(seed, dimension, text).sample(of_people, len(of_people))
            chosen = {}
            for term in {found.lower() for found in pattern.findall(text)} & others.keys():
                chosen[term] = others[term][min(others[term], key=order.index)]
            if chosen:
                swaps.append((dimension, row, text, replace_words(text, chosen)))
    table = pd.DataFrame(swaps, columns=["dimension", "row", "text", "swapped"])
    table["answer"] = names[predict(table.pop("text").tolist()).argmax(axis=1)]
    table["new_answer"] = names[predict(table["swapped"].tolist()).argmax(axis=1)]
    table["found"] = table["answer"] != table["new_answer"]
    table["unit"] = units_of(len(texts), groups)[table["row"].to_numpy(dtype=int)]
    rates = rates_by_name(
        table,
        "dimension",
        names=terms["dimension"].unique(),
        min_cases=min_rows,
        confidence=confidence,
    )
    flips = table[table["found"]].drop(columns=["found", "unit"])
    return rates, flips.reset_index(drop=True)


def _other_terms(terms: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Return what can take the place of each term of a dimension: term -> other group -> its term.

    Terms are in lower case; one in several slots is taken in the first.
    """
    others: dict[str, dict[str, str]] = {}
    for slot, group, term in terms[["slot", "group", "term"]].itertuples(index=False):
        is_other = (terms["slot"] == slot) & (terms["group"] != group)
        first = terms[is_other].drop_duplicates("group")
        if len(first):
            others.setdefault(term.lower(), dict(zip(first["group"], first["term"])))
    return others


def describe_swaps(rates: pd.DataFrame, *, min_rows: int) -> str:
    """Return as a sentence how often answers change, from `swap_identities`."""
    is_small = rates["rate"].isna()
    small = [f"{dimension} ({n})" for dimension, n in rates["n"][is_small].items()]
    parts = []
    for dimension, value, low, high, _, n in rates[~is_small].itertuples():
        parts.append(f"{dimension} {Interval(value, low, high, n).percent()} of {n:,}")
    sentences = []
    if parts:
        sentences.append(f"Answers that change with the group named: {'; '.join(parts)}.")
    if small:
        sentences.append(f"Fewer than {min_rows} texts, nothing claimed: {', '.join(small)}.")
    return " ".join(sentences)
