import numpy as np
import pandas as pd
import pytest

from lib.data.splits import (
    SPLITS,
    assign_splits,
    check_given_groups,
    class_shares,
    copies_in_later_splits,
    describe_given,
    given_splits,
    group_links,
    leak_matrix,
    leaked_rows,
    repeated_rows,
    share_error,
    share_tolerance,
    split_rows,
    split_sizes,
)
from lib.errors import WorkbookError


def counts(labels, split):
    return (
        pd.crosstab(np.asarray(labels), split)
        .reindex(columns=list(SPLITS), fill_value=0)
        .T.to_dict("list")
    )


def together(groups, split):
    return all(len(set(split[groups == group])) == 1 for group in set(groups))


def test_classes_without_groups_are_shared_out_exactly():
    labels = ["a"] * 100 + ["b"] * 40 + ["c"] * 20
    split = split_rows(labels, np.arange(160))
    assert counts(labels, split) == {"a": [70, 15, 15], "b": [28, 6, 6], "c": [14, 3, 3]}


@pytest.mark.parametrize(
    ("n", "shares", "expected"),
    [
        (7, (0.7, 0.15, 0.15), [5, 1, 1]),
        (9, (0.7, 0.15, 0.15), [6, 2, 1]),
        (10, (0.8, 0.1, 0.1), [8, 1, 1]),
        (10, (0.5, 0.25, 0.25), [5, 3, 2]),
        (101, (0.34, 0.33, 0.33), [35, 33, 33]),
    ],
)
def test_what_does_not_divide_goes_by_largest_remainder(n, shares, expected):
    assert counts(["a"] * n, split_rows(["a"] * n, np.arange(n), shares=shares))["a"] == expected


@pytest.mark.parametrize("seed", range(5))
def test_no_group_straddles_and_quotas_stay_exact(seed):
    labels = np.array(["a", "b", "c"] * 40)
    groups = np.arange(120)
    for start in (0, 12, 24, 36):
        groups[[start, start + 3, start + 6]] = start
        groups[[start + 1, start + 2]] = start + 1
    groups[[100, 101, 102, 103]] = 100
    split = split_rows(labels, groups, seed=seed)
    assert together(groups, split)
    assert counts(labels, split) == {"a": [28, 6, 6], "b": [28, 6, 6], "c": [28, 6, 6]}


@pytest.mark.parametrize("seed", range(5))
def test_random_groups_never_straddle(seed):
    rng = np.random.default_rng(seed)
    labels, groups = rng.choice(list("abcd"), size=300), rng.integers(0, 120, size=300)
    split = split_rows(labels, groups, seed=seed)
    assert together(groups, split)
    off = pd.DataFrame(counts(labels, split)).T / pd.Series(
        labels
    ).value_counts().sort_index().to_numpy()[:, None] - [0.70, 0.15, 0.15]
    assert off.abs().to_numpy().max() < 0.05


def test_large_groups_go_where_they_fit():
    groups = np.arange(100)
    groups[:40], groups[40:70] = 0, 40
    split = split_rows(["a"] * 100, groups)
    assert together(groups, split)
    assert counts(["a"] * 100, split) == {"a": [70, 15, 15]}


def test_the_largest_groups_choose_first():
    groups = np.array([0, 0, 1, 1, 2, 2, 2, 2])
    for seed in range(5):
        split = split_rows(["a"] * 8, groups, shares=(0.5, 0.25, 0.25), seed=seed)
        assert together(groups, split)
        assert counts(["a"] * 8, split) == {"a": [4, 2, 2]}


def test_a_group_larger_than_every_quota_is_still_whole():
    labels = ["a"] * 50 + ["b"] * 50
    groups = np.r_[np.zeros(45, dtype=int), np.arange(1, 56)]
    split = split_rows(labels, groups)
    assert together(groups, split)
    assert split[0] == "train"
    assert counts(labels, split)["b"] == [35, 8, 7]


def test_group_numbers_mean_nothing():
    labels, groups = ["a", "b"] * 30, np.repeat(np.arange(30), 2)
    split = split_rows(labels, groups, seed=3)
    assert split_rows(labels, groups * 1_000 - 7, seed=3).tolist() == split.tolist()


def test_a_seed_repeats_its_split_and_another_gives_another():
    labels, groups = ["a", "b"] * 50, np.repeat(np.arange(50), 2)
    assert (
        split_rows(labels, groups, seed=1).tolist() == split_rows(labels, groups, seed=1).tolist()
    )
    assert (
        split_rows(labels, groups, seed=1).tolist() != split_rows(labels, groups, seed=2).tolist()
    )


def test_rows_are_not_split_by_their_position():
    split = split_rows(["a"] * 100, np.arange(100))
    assert set(split[:50]) == set(split[50:]) == set(SPLITS)


def test_labels_and_groups_of_two_lengths_are_refused():
    with pytest.raises(ValueError, match="labels and groups must have one length, got 2 and 3"):
        split_rows(["a", "b"], np.arange(3))


PAIRS = pd.DataFrame({"i": [0, 0, 1, 2, 3, 1], "j": [1, 2, 3, 4, 5, 5], "similarity": [0.96] * 6})


def test_the_leak_matrix_counts_pairs_by_the_splits_of_their_rows():
    leaks = leak_matrix(PAIRS, ["train", "train", "val", "test", "train", "test"])
    assert leaks.matrix.to_dict() == {
        "train": {"train": 1, "val": 2, "test": 2},
        "val": {"train": 2, "val": 0, "test": 0},
        "test": {"train": 2, "val": 0, "test": 1},
    }
    assert leaks.n_crossing == 4
    assert leaks.matrix.index.name == "split"


def test_of_equal_texts_all_pairs_count_though_the_first_alone_is_listed():
    pairs = pd.DataFrame({"i": [0, 0, 0, 0], "j": [1, 2, 3, 4], "similarity": [1.0] * 3 + [0.97]})
    leaks = leak_matrix(pairs, ["train", "test", "train", "test", "val"])
    assert leaks.matrix.to_dict() == {
        "train": {"train": 1, "val": 2, "test": 4},
        "val": {"train": 2, "val": 0, "test": 2},
        "test": {"train": 4, "val": 2, "test": 1},
    }
    assert leaks.n_crossing == 8


@pytest.mark.parametrize("size", [10, 60])
def test_large_groups_are_drawn_in_proportion(size):
    n = 1_200
    groups = np.arange(n) // size
    shares = pd.DataFrame(
        [
            pd.Series(split_rows(["a"] * n, groups, seed=seed)).value_counts(normalize=True)
            for seed in range(40)
        ]
    ).fillna(0)
    assert shares.mean()[list(SPLITS)].tolist() == pytest.approx([0.70, 0.15, 0.15], abs=0.03)
    grouped = np.r_[np.arange(300) // 60, np.arange(1_000, 1_900)]  # five groups and single rows
    reached = [set(split_rows(["a"] * n, grouped, seed=seed)[:300]) for seed in range(40)]
    assert 0.2 < np.mean(["test" in splits for splits in reached]) < 0.9


def test_a_class_of_three_groups_has_one_in_every_split():
    for seed in range(10):
        split = split_rows(["a"] * 12, np.arange(12) // 4, seed=seed)
        assert sorted(split[::4]) == ["test", "train", "val"]
        pair = split_rows(["a"] * 8 + ["b"] * 100, np.r_[[0] * 4, [1] * 4, 2:102], seed=seed)
        assert len(set(pair[[0, 4]])) == 2  # as many splits as it has groups


def test_without_leaks_all_pairs_are_on_the_diagonal():
    leaks = leak_matrix(PAIRS, ["val"] * 6)
    assert leaks.n_crossing == 0
    assert leaks.matrix.to_numpy().tolist() == [[0, 0, 0], [0, 6, 0], [0, 0, 0]]


def test_no_pairs_leak_nothing():
    leaks = leak_matrix(PAIRS.head(0), ["train"] * 6)
    assert leaks.n_crossing == 0
    assert leaks.matrix.to_numpy().tolist() == [[0] * 3] * 3


def test_a_split_that_keeps_groups_leaks_none_of_their_pairs():
    pairs = pd.DataFrame({"i": range(0, 60, 2), "j": range(1, 60, 2), "similarity": 1.0})
    labels, groups = ["a"] * 100, np.arange(100)
    groups[pairs["j"]] = groups[pairs["i"]]
    assert leak_matrix(pairs, split_rows(labels, groups)).n_crossing == 0
    assert leak_matrix(pairs, split_rows(labels, np.arange(100))).n_crossing > 0


def test_class_shares_are_the_rows_of_each_class():
    labels = ["a", "a", "a", "a", "b", "b"]
    shares = class_shares(labels, ["train", "train", "val", "test", "val", "val"])
    assert shares.T.to_dict("list") == {"a": [0.5, 0.25, 0.25], "b": [0.0, 1.0, 0.0]}
    assert shares.columns.tolist() == list(SPLITS)
    assert class_shares(["a"], ["train"]).loc["a"].tolist() == [1.0, 0.0, 0.0]


# --- splits that the data give ---


def rows_of(given, labels=None, groups=None):
    n = len(given)
    return pd.DataFrame(
        {
            "row_id": np.arange(n) + 100,
            "label": labels or ["a"] * n,
            "group": np.arange(n) if groups is None else groups,
            "given": given,
        }
    )


def test_a_share_of_zero_gets_no_row_even_where_no_group_fits():
    groups = np.r_[np.zeros(60, dtype=int), np.ones(30, dtype=int), np.arange(2, 12)]
    split = split_rows(["a"] * 100, groups, shares=(0.5, 0.5, 0.0))
    assert together(groups, split) and set(split) == {"train", "val"}


def test_the_latest_rows_are_the_test_set_and_one_moment_stays_together():
    times = np.r_[np.arange(66), np.full(8, 66), np.arange(67, 93)].astype(float)
    shuffled = np.random.default_rng(0).permutation(len(times))
    given = given_splits(pd.DataFrame({"time": times[shuffled]}), shares=(0.70, 0.15, 0.15))[
        np.argsort(shuffled)
    ]
    assert given.value_counts().to_dict() == {
        "train": 66,
        "val": 19,
        "test": 15,
    }  # the moment of the 70th row goes to validation whole
    by_split = pd.Series(times).groupby(given.to_numpy())
    assert (
        by_split.max()["train"]
        < by_split.min()["val"]
        <= by_split.max()["val"]
        < by_split.min()["test"]
    )


def test_by_time_a_share_of_less_than_a_row_is_the_last_row():
    given = given_splits(pd.DataFrame({"time": np.arange(100.0)}), shares=(0.9, 0.0999, 0.0001))
    assert given.value_counts().to_dict() == {"train": 90, "val": 9, "test": 1}


@pytest.mark.parametrize("times", [[5.0] * 20, [1.0] * 19 + [2.0]])
def test_too_few_moments_are_refused(times):
    with pytest.raises(
        WorkbookError, match=f"data.time_column: {len(set(times))} distinct times leave no row for"
    ):
        given_splits(pd.DataFrame({"time": times}), shares=(0.70, 0.15, 0.15))


def test_a_split_column_is_taken_as_it_is_and_without_one_nothing_is_given():
    assert given_splits(
        pd.DataFrame({"split": ["test", "train"], "time": [1.0, 2.0]}), shares=(0.7, 0.15, 0.15)
    ).tolist() == ["test", "train"]
    assert given_splits(pd.DataFrame({"text": ["x", "y"]}), shares=(0.7, 0.15, 0.15)).tolist() == [
        "",
        "",
    ]


def test_of_repeated_rows_the_first_of_the_latest_split_stays():
    rows = rows_of(["train", "test", "val", "test", "train", "train"]).assign(
        text=["x", "x", "x", "x", "y", "x"], label=["a", "a", "a", "a", "a", "b"]
    )
    assert repeated_rows(rows).tolist() == [101, -1, 101, 101, -1, -1]
    assert repeated_rows(rows.assign(given="")).tolist() == [-1, 100, 100, 100, -1, -1]


def test_rows_without_a_label_repeat_none():
    assert repeated_rows(rows_of(["", ""]).assign(text="x", label=None)).tolist() == [-1, -1]


def test_a_near_copy_stays_in_the_latest_split_alone():
    rows = rows_of(["train", "val", "test", "train", "train", "val"])
    pairs = pd.DataFrame(
        {"i": [0, 1, 3], "j": [1, 2, 4], "similarity": 1.0}
    )  # 0 is bound to the test row through 1
    assert copies_in_later_splits(rows, pairs).tolist() == [102, 102, -1, -1, -1, -1]
    assert copies_in_later_splits(rows.assign(given=""), pairs).tolist() == [-1] * 6


def test_given_splits_stay_and_a_missing_one_is_drawn_from_training_rows():
    labels = ["a", "b"] * 60
    given = ["train"] * 100 + ["test"] * 20
    rows = rows_of(given, labels, np.r_[np.repeat(np.arange(50), 2), np.arange(50, 70)])
    split = assign_splits(rows, shares=(0.70, 0.15, 0.15))
    assert (split[100:] == "test").all() and together(rows["group"].to_numpy(), split)
    assert pd.Series(split[:100]).value_counts().to_dict() == {"train": 82, "val": 18}
    complete = rows_of(["train", "val", "test"] * 10)
    assert (
        assign_splits(complete, shares=(0.70, 0.15, 0.15)).tolist() == ["train", "val", "test"] * 10
    )


def test_where_nothing_is_given_the_splits_are_drawn():
    labels, groups = ["a", "b"] * 30, np.repeat(np.arange(30), 2)
    drawn = split_rows(labels, groups, shares=(0.6, 0.2, 0.2), seed=3)
    assert (
        assign_splits(rows_of([""] * 60, labels, groups), shares=(0.6, 0.2, 0.2), seed=3).tolist()
        == drawn.tolist()
    )


def test_a_class_that_a_given_split_lacks_is_named():
    with pytest.raises(
        WorkbookError,
        match="class 'b' has no row in the split 'test'; the splits were given by the data: merge",
    ):
        assign_splits(
            rows_of(["train", "val", "test"] * 2, ["a", "b", "a", "b", "a", "a"]),
            shares=(0.7, 0.15, 0.15),
        )


def test_a_class_of_near_copies_alone_is_in_one_split_and_no_data_is_said_to_give_it():
    rows = rows_of([""] * 30, ["a"] * 20 + ["b"] * 10, [*range(20), *[20] * 10])
    with pytest.raises(WorkbookError) as caught:
        assign_splits(rows, shares=(0.7, 0.15, 0.15))
    assert str(caught.value) == (
        "class 'b' has no row in the split 'val'; its rows are near-copies, which stay together: "
        "add rows, or drop the class"
    )
    with pytest.raises(WorkbookError, match=r"'val'; its rows are of too few groups of data.group"):
        assign_splits(rows.assign(group_key="ann"), shares=(0.7, 0.15, 0.15))


def test_any_string_is_a_class_of_the_splits(odd_name):
    name = odd_name
    rows = pd.DataFrame({"label": [name] * 4 + ["other"] * 2, "split": ["train"] * 3 + ["val"] * 3})
    sizes = split_sizes(rows)
    assert sizes.index.tolist() == [*sorted([name, "other"]), "all classes"]
    assert sizes.columns.tolist() == ["train", "val", "test", "rows"]
    assert sizes.iloc[sorted([name, "other"]).index(name)].tolist() == [3, 1, 0, 4]
    assert sizes.iloc[-1].tolist() == [3, 3, 0, 6]
    shares = class_shares(rows["label"].tolist(), rows["split"].tolist())
    assert shares.loc[name].tolist() == [0.75, 0.25, 0]
    drawn = rows_of([""] * 40, [name, "other"] * 20)
    split = assign_splits(drawn, shares=(0.5, 0.25, 0.25))
    assert pd.Series(split[::2]).value_counts().to_dict() == {"train": 10, "val": 5, "test": 5}


def test_leaked_rows_are_test_rows_that_a_chain_of_copies_ties_to_training():
    split = ["train", "test", "val", "test", "test", "train", "val", "test", "train"]
    pairs = pd.DataFrame(
        {"i": [0, 2, 5, 6, 6], "j": [1, 3, 1, 7, 8]}
    )  # rows 7 and 8 are copies of row 6: such pairs name the first alone
    assert np.flatnonzero(leaked_rows(pairs, split)).tolist() == [1, 7]
    assert not leaked_rows(pairs.head(0), split).any()


def test_the_error_of_shares_is_the_largest_of_all_classes_and_splits():
    rows = pd.DataFrame(
        {"label": ["a"] * 4 + ["b"] * 4, "split": ["train", "train", "val", "test"] * 2}
    )
    assert share_error(rows, shares=(0.5, 0.25, 0.25)) == 0
    rows.loc[7, "split"] = "train"  # b: three quarters, a quarter, none
    assert share_error(rows, shares=(0.5, 0.25, 0.25)) == 0.25


def test_shares_may_be_off_by_half_a_point_and_the_largest_group():
    rows = pd.DataFrame({"label": ["a"] * 10 + ["b"] * 4, "group": [0, 0, *range(1, 13)]})
    assert share_tolerance(rows) == pytest.approx(0.005 + 2 / 4)


def test_given_splits_are_described_with_their_rows():
    split = pd.Series(["train"] * 1_200 + ["test"] * 3)
    assert (
        describe_given(split)
        == "The data give the splits: 1,200 train, 0 val, 3 test rows, whatever the shares asked "
        "for."
    )


def test_rows_of_a_key_are_linked_to_its_first_and_rows_without_one_to_none():
    keys = pd.Series(["ann", None, "bob", "ann", None, "ann"], index=[9, 8, 7, 6, 5, 4])
    assert group_links(keys).to_numpy().tolist() == [[0, 3], [0, 5]]


def test_groups_in_two_given_splits_are_counted_and_refused():
    given = pd.Series(["train", "test", "train", "val", "test", "test"])
    keys = pd.Series(["ann", "ann", "bob", "cid", "cid", None])
    with pytest.raises(
        WorkbookError,
        match=r"data.group_column: 2 of 3 groups \('ann', 'cid'\) have rows in two of the splits "
        r"that the data give; unset data.group_column, or what splits the rows \(data.split_column",
    ):
        check_given_groups(given, keys)
    check_given_groups(pd.Series(["train", "train", "test"]), pd.Series(["ann", "ann", "bob"]))
