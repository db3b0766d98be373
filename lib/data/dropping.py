"""Which rows are dropped, and by which rule: rows in = rows kept + rows dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lib import provenance
from lib.data import duplicates, splits

ROW_RULES = ("null_text", "null_label", "min_words", "exact_duplicate")  # the first that holds
LARGE_GROUP = 0.1  # of the rows; a test set has 15 %
LATER_COPY_RULE = "copy_in_later_split"


@dataclass(frozen=True)
class Selection:
    """Rows that are kept, and rows that are dropped with their rule.

    Attributes
    ----------
    n_rows : rows that came in
    kept : DataFrame with `row_id`, `fingerprint` (of the raw text), `text`, `label`, `raw`,
        `given` (the split that the data give, "" for none), where the data name groups
        `group_key`, and, once near-copies are dropped, `group` and `conflict` (a (near-)copy has
        another label)
    dropped : DataFrame with `rule` and `same_as` as well (the `row_id` of the row that stays in
        place of a duplicate, -1 for none)
    pairs : near-duplicates among the rows kept: `i`, `j` (positions), `similarity`
    n_similar : near-duplicate pairs below similarity 1 that were found, before rows were dropped
    """

    n_rows: int
    kept: pd.DataFrame
    dropped: pd.DataFrame
    pairs: pd.DataFrame
    n_similar: int = 0

    @property
    def n_unaccounted(self) -> int:
        """Rows that are neither kept nor dropped; 0 unless a rule is wrong."""
        return self.n_rows - len(self.kept) - len(self.dropped)

    @property
    def rule_counts(self) -> pd.DataFrame:
        """Rows dropped by each rule, in the order of the rules."""
        rules = dict.fromkeys([*ROW_RULES, *self.dropped["rule"]])
        counts = self.dropped["rule"].value_counts().reindex(list(rules), fill_value=0)
        return counts.rename_axis("rule").to_frame("rows dropped")

    @property
    def pairs_by_id(self) -> pd.DataFrame:
        """The near-duplicate pairs with `row_id` in place of positions."""
        row_ids = self.kept["row_id"].to_numpy()
        return self.pairs.assign(i=row_ids[self.pairs["i"]], j=row_ids[self.pairs["j"]])

    def describe(self) -> str:
        """Return in a sentence what the near-duplicates are and what they cost."""
        at_least = "At least " if self.n_similar >= duplicates.MAX_PAIRS else ""
        n_grouped = len(np.unique(self.pairs[["i", "j"]]))
        n_conflicts = self.kept["conflict"].sum()
        n_later = (self.dropped["rule"] == LATER_COPY_RULE).sum()
        return (
            f"{at_least}{len(self.pairs):,} near-duplicate pairs join {n_grouped:,} rows in groups;"
            f" {n_conflicts:,} rows contradict the label of a (near-)copy; {n_later:,} rows were"
            " dropped for a copy in a later split."
            f"{self._describe_groups()}"
        )

    def _describe_groups(self) -> str:
        if "group_key" not in self.kept:
            return ""
        sizes = self.kept["group_key"].value_counts()
        n_units = self.kept["group"].nunique()
        largest = self.kept["group"].value_counts(normalize=True).max()
        warning = f" WARNING: one has {largest:.0%} of all rows: splits and folds will be uneven."
        return (
            f" {sizes.sum():,} rows are of {len(sizes):,} groups that the data name; with "
            f"near-copies joined, {n_units:,} groups go whole into one split."
            f"{warning if largest > LARGE_GROUP else ''}"
        )


def drop_rows(table: pd.DataFrame, texts: Sequence[str], given: pd.Series) -> Selection:
    """Drop rows without a text, a label or enough words, and rows that repeat another.

    A row is dropped by the first of ROW_RULES that holds. Of rows with the same text and label the
    first stays; where splits are given, the first in the latest split.

    Parameters
    ----------
    table : with `row_id`, `text` (as it came) and `label`
    texts : the n cleaned texts, "" for one with too few words
    given : the split that the data give each row (`splits.given_splits`)
    """
    rows = table.assign(
        fingerprint=[provenance.text_fingerprint(text or "") for text in table["text"]],
        raw=table["text"],
        text=list(texts),
        given=given,
    )
    rows["same_as"] = splits.repeated_rows(rows)
    repeats = rows["same_as"] >= 0
    holds = [rows["raw"].isna(), rows["label"].isna(), rows["text"] == "", repeats]
    rule = np.select(holds, ROW_RULES, default="")
    dropped = rows.assign(rule=rule)[rule != ""]
    dropped["same_as"] = dropped["same_as"].where(dropped["rule"] == "exact_duplicate", -1)
    kept = rows[rule == ""].drop(columns="same_as").reset_index(drop=True)
    no_pairs = pd.DataFrame({"i": [], "j": [], "similarity": []})
    return Selection(len(table), kept, dropped, no_pairs)


def drop_later_copies(selection: Selection, pairs: pd.DataFrame) -> Selection:
    """Drop rows with a near-copy in a later given split; number the groups of the rows that stay.

    A model would be tested on what it was trained on. Chains of pairs count. A group is what
    near-copies and `group_key` join, whichever way.

    Parameters
    ----------
    pairs : near-duplicates among the rows kept so far (`duplicates.near_duplicate_pairs`)

    Raises
    ------
    WorkbookError : rows of one `group_key` are in two given splits.
    """
    rows = selection.kept.assign(same_as=splits.copies_in_later_splits(selection.kept, pairs))
    leaks = rows["same_as"] >= 0
    dropped = [selection.dropped, rows[leaks].assign(rule=LATER_COPY_RULE)]
    kept, pairs_left = duplicates.without_rows(rows.drop(columns="same_as"), pairs, leaks)
    copies = duplicates.group_ids(len(kept), pairs_left)
    conflicts = duplicates.conflicting_rows(kept["label"].tolist(), copies)
    group = copies
    if "group_key" in kept:
        splits.check_given_groups(kept["given"], kept["group_key"])
        links = [pairs_left[["i", "j"]], splits.group_links(kept["group_key"])]
        group = duplicates.group_ids(len(kept), pd.concat(links))
    return replace(
        selection,
        kept=kept.assign(group=group, conflict=np.isin(np.arange(len(kept)), conflicts)),
        dropped=pd.concat(dropped, ignore_index=True),
        pairs=pairs_left,
        n_similar=int((pairs["similarity"] < 1).sum()),
    )
