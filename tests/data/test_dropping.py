"""Each rule drops its rows, the first rule that holds counts, and every row is accounted for."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lib import provenance
from lib.data import dropping, duplicates, splits
from lib.errors import WorkbookError
from lib.training.search import cross_validation


def table(*rows):
    columns = pd.DataFrame(rows, columns=["text", "label"], dtype=object)
    return columns.assign(row_id=range(100, 100 + len(rows)))


def drop(rows, texts, given=None):
    return dropping.drop_rows(rows, texts, pd.Series(given or [""] * len(rows)))


def rules_of(selection):
    return selection.dropped.set_index("row_id")[["rule", "same_as"]].T.to_dict("list")


def pairs_of(*pairs, similarity=0.97):
    return pd.DataFrame(pairs, columns=["i", "j"], dtype="int64").assign(similarity=similarity)


def test_each_rule_drops_its_rows_and_says_which_row_stays():
    rows = table(("a b c", "x"), (None, "x"), ("d e f", None), ("g", "x"), ("a  b c", "x"))
    selection = drop(rows, ["a b c", "", "d e f", "", "a b c"])
    assert rules_of(selection) == {
        101: ["null_text", -1],
        102: ["null_label", -1],
        103: ["min_words", -1],
        104: ["exact_duplicate", 100],
    }
    assert selection.kept["row_id"].tolist() == [100]
    assert selection.rule_counts["rows dropped"].to_dict() == dict.fromkeys(dropping.ROW_RULES, 1)


def test_a_row_is_dropped_by_the_first_rule_that_holds():
    rows = table((None, None), ("g", None), ("h", "x"), ("i", "x"), ("a b c", None))
    selection = drop(rows, ["", "", "", "", "a b c"])
    assert rules_of(selection) == {
        100: ["null_text", -1],
        101: ["null_label", -1],
        102: ["min_words", -1],
        103: ["min_words", -1],  # not the duplicate of row 102, which is dropped itself
        104: ["null_label", -1],
    }
    assert selection.kept.empty


def test_the_same_text_under_another_label_stays():
    selection = drop(table(("a b c", "x"), ("a b c", "y")), ["a b c", "a b c"])
    assert selection.kept["label"].tolist() == ["x", "y"]
    assert selection.dropped.empty


def test_of_equal_rows_the_first_in_the_latest_given_split_stays():
    rows = table(*[("a b c", "x")] * 4)
    selection = drop(rows, ["a b c"] * 4, ["train", "test", "val", "test"])
    assert selection.kept["row_id"].tolist() == [101]
    assert selection.dropped["same_as"].tolist() == [101] * 3


def test_a_row_kept_has_its_cleaned_text_and_the_fingerprint_of_its_raw_one():
    kept = drop(table(("<b>a</b> b c", "x")), ["a b c"], ["val"]).kept
    assert kept[["text", "raw", "given"]].to_numpy().tolist() == [["a b c", "<b>a</b> b c", "val"]]
    assert kept["fingerprint"].tolist() == [provenance.text_fingerprint("<b>a</b> b c")]


def near_copies(given):
    rows = table(("a", "x"), ("b", "x"), ("c", "y"), ("d", "x"), ("e", "x"))
    selection = drop(rows, ["a", "b", "c", "d", "e"], given)
    return dropping.drop_later_copies(selection, pairs_of((0, 1), (1, 2)))


def test_without_given_splits_near_copies_stay_in_one_group():
    selection = near_copies([""] * 5)
    assert selection.dropped.empty
    assert selection.kept["group"].tolist() == [0, 0, 0, 1, 2]
    assert selection.kept["conflict"].tolist() == [True, True, True, False, False]
    assert selection.pairs_by_id[["i", "j"]].to_numpy().tolist() == [[100, 101], [101, 102]]


def test_a_row_with_a_near_copy_in_a_later_given_split_is_dropped():
    selection = near_copies(["train", "test", "test", "train", "val"])
    assert rules_of(selection) == {100: ["copy_in_later_split", 101]}
    assert selection.kept["row_id"].tolist() == [101, 102, 103, 104]
    assert selection.pairs[["i", "j"]].to_numpy().tolist() == [[0, 1]]  # positions among the kept
    assert selection.kept["group"].tolist() == [0, 0, 1, 2]


def test_every_row_is_kept_or_dropped():
    rows = table(("a b c", "x"), (None, "x"), ("a b c", "x"), ("a b d", "x"))
    selection = drop(rows, ["a b c", "", "a b c", "a b d"], ["train", "train", "train", "test"])
    assert (len(selection.kept), len(selection.dropped), selection.n_unaccounted) == (2, 2, 0)
    both = dropping.drop_later_copies(selection, pairs_of((0, 1)))
    assert (len(both.kept), len(both.dropped), both.n_unaccounted) == (1, 3, 0)
    assert both.rule_counts.loc["copy_in_later_split"].tolist() == [1]
    assert replace(both, kept=both.kept.head(0)).n_unaccounted == 1


def test_near_duplicates_are_described_in_a_sentence():
    selection = near_copies(["train", "test", "test", "train", "val"])
    assert selection.describe() == (
        "1 near-duplicate pairs join 2 rows in groups; 2 rows contradict the label of a "
        "(near-)copy; 1 rows were dropped for a copy in a later split."
    )
    capped = replace(selection, n_similar=duplicates.MAX_PAIRS)
    assert capped.describe().startswith("At least 1 near-duplicate pairs")


def of_authors(authors, pairs, given=None):
    n = len(authors)
    rows = table(*[(f"text {i}", "xy"[i % 2]) for i in range(n)]).assign(group_key=authors)
    selection = drop(rows, [f"text {i}" for i in range(n)], given)
    return dropping.drop_later_copies(selection, pairs_of(*pairs))


def test_a_group_is_what_near_copies_and_authors_join():
    """Rows 0 and 3 are Ann's, row 3 is a near-copy of row 4, which is Bob's, and so is row 1."""
    selection = of_authors(["ann", "bob", None, "ann", "bob", None, "cid"], [(3, 4)])
    assert selection.kept["group"].tolist() == [0, 0, 1, 0, 0, 2, 3]
    assert selection.kept["conflict"].tolist() == [False] * 3 + [True, True] + [False] * 2
    assert selection.describe() == (
        "1 near-duplicate pairs join 2 rows in groups; 2 rows contradict the label of a "
        "(near-)copy; 0 rows were dropped for a copy in a later split. 5 rows are of 3 groups that "
        "the data name; with near-copies joined, 4 groups go whole into one split. WARNING: one "
        "has 57% of all rows: splits and folds will be uneven."
    )


def test_an_exact_copy_by_another_author_is_dropped_and_joins_none():
    rows = table(("a", "x"), ("a", "x"), ("b", "x")).assign(group_key=["ann", "bob", "bob"])
    selection = dropping.drop_later_copies(drop(rows, ["a", "a", "b"]), pairs_of())
    assert rules_of(selection) == {101: ["exact_duplicate", 100]}
    assert selection.kept["group"].tolist() == [0, 1]


def test_authors_of_two_given_splits_are_refused_once_later_copies_are_gone():
    """Ann's training row has a near-copy in the test set, and goes; one of hers is left."""
    authors = ["ann", "bob", "ann", "bob"]
    given = ["train", "train", "test", "train"]
    assert of_authors(authors, [(0, 2)], given).kept["group"].tolist() == [0, 1, 0]
    with pytest.raises(WorkbookError, match=r"1 of 2 groups \('ann'\) have rows in two of the"):
        of_authors(authors, [], given)


def test_authors_stay_in_one_split_and_in_one_fold():
    n = 300
    rng = np.random.default_rng(0)
    authors = [f"author {i}" for i in rng.integers(0, 60, n)]
    kept = of_authors(authors, [(0, 7), (8, 50)]).kept
    kept["split"] = splits.assign_splits(kept, shares=(0.6, 0.2, 0.2))
    assert kept.groupby("group_key")["split"].nunique().max() == 1
    assert kept["split"][[0, 8]].tolist() == kept["split"][[7, 50]].tolist()
    train = kept[kept["split"] == "train"].reset_index(drop=True)
    train["fold"] = cross_validation.assign_folds(train, n_folds=4, seed=1)
    assert train.groupby("group_key")["fold"].nunique().max() == 1
    stops = cross_validation.early_stopping_mask(train, share=0.2, seed=1)
    assert train.assign(stops=stops).groupby("group_key")["stops"].nunique().max() == 1


def test_a_group_of_more_than_a_tenth_of_the_rows_is_warned_of():
    authors = ["ann"] * 3 + [f"u{i}" for i in range(17)]
    warning = " WARNING: one has 15% of all rows: splits and folds will be uneven."
    assert of_authors(authors, []).describe().endswith(f"go whole into one split.{warning}")
    authors = ["ann"] * 2 + [f"u{i}" for i in range(18)]
    assert of_authors(authors, []).describe().endswith("go whole into one split.")
