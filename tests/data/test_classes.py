import pandas as pd
import pytest
from labelled_tables import settings, table_of

from lib.config import Config
from lib.data.classes import check_class_sizes, check_labels, check_training_texts, merged_labels
from lib.errors import WorkbookError


def test_labels_that_are_all_missing_are_an_error():
    with pytest.raises(
        WorkbookError,
        match=r"t.csv: no row has both a text and a label; check --text-column and --label-column",
    ):
        check_labels(table_of(None, None), settings("t.csv"))


def test_a_label_without_a_text_does_not_count():
    with pytest.raises(WorkbookError, match="no row has both a text and a label"):
        check_labels(table_of("x", "y", text=None), settings("t.csv"))


def test_a_single_class_is_an_error():
    with pytest.raises(
        WorkbookError, match=r"t.csv: all rows have the label 'x'; at least two classes are needed"
    ):
        check_labels(table_of(*["x"] * 30, None), settings("t.csv"))


FEW = {
    "search__trials": 0,
    "cross_validation__curve_draws": 0,
}  # what deals a class into five parts, whatever the folds
FEWER = (
    "or set labels.folds=2, cross_validation.folds=2, search.trials=0, "
    "cross_validation.curve_draws=0"
)


def test_a_class_with_too_few_rows_is_named_with_its_count():
    labels = ["news"] * 30 + ["rare"] * 3 + ["odd"] * 8 + ["just enough"] * 9
    with pytest.raises(
        WorkbookError,
        match=r"t.csv: .*fewer than the 9 rows that three splits and 5 folds need: 'rare' "
        rf"\(3\), 'odd' \(8\); add rows, .*{FEWER}$",
    ):
        check_labels(table_of(*labels), settings("t.csv"))


def test_fewer_folds_need_fewer_rows_until_the_shares_do():
    labels = ["news"] * 30 + ["rare"] * 8
    fewest = settings("t.csv", labels__folds=2, cross_validation__folds=2, **FEW)
    check_labels(table_of(*labels), fewest)
    with pytest.raises(
        WorkbookError,
        match=r"fewer than the 8 rows that three splits and 2 folds need: 'rare' \(7\)",
    ):
        check_labels(table_of(*labels[:-1]), fewest)
    for more in ({"labels__folds": 7}, {"cross_validation__folds": 7}):
        with pytest.raises(
            WorkbookError, match="fewer than the 11 rows that three splits and 7 folds need"
        ):
            check_labels(
                table_of(*labels),
                settings(
                    "t.csv", **{"labels__folds": 2, "cross_validation__folds": 2, **FEW, **more}
                ),
            )
    for more in ({"search__trials": 1}, {"cross_validation__curve_draws": 1}):
        with pytest.raises(
            WorkbookError, match="fewer than the 9 rows that three splits and 5 folds need"
        ):
            check_labels(
                table_of(*labels),
                settings(
                    "t.csv", **{"labels__folds": 2, "cross_validation__folds": 2, **FEW, **more}
                ),
            )


def test_a_class_that_lost_rows_says_how_many_and_to_which_rules():
    counts = pd.Series({"red": 30, "blue": 2, "green": 0, "odd": 5})
    rules = {
        "green": ["exact_duplicate"] * 3 + ["min_words"] * 7,
        "blue": ["exact_duplicate"],
        "red": ["min_words"],
        None: ["null_label"] * 4,
    }
    dropped = pd.DataFrame(
        [(label, rule) for label, lost in rules.items() for rule in lost], columns=["label", "rule"]
    )
    listed = (
        r"'green' \(0 of 10 left: min_words took 7, exact_duplicate took 3\), 'blue' \(2 of "
        r"3 left: exact_duplicate took 1\), 'odd' \(5\)"
    )
    remedies = (
        "add rows, drop the class, or keep more of its rows with other settings of "
        "cleaning"
    )  # no deal has folds of five rows
    with pytest.raises(WorkbookError, match=rf"^t, after cleaning: .*: {listed}; {remedies}$"):
        check_class_sizes(counts, settings("t"), where="t, after cleaning", dropped=dropped)


def test_a_remedy_that_would_not_help_is_not_named():
    three = settings("t", labels__folds=3, cross_validation__folds=3, **FEW)
    dropped = pd.DataFrame({"label": ["blue", "red"], "rule": ["drop", "min_words"]})
    with pytest.raises(
        WorkbookError,
        match=r"need: 'blue' \(2 of 3 left: drop took 1\); add rows, drop the class, or change "
        r"decisions$",
    ):
        check_class_sizes(pd.Series({"red": 30, "blue": 2}), three, where="t", dropped=dropped)
    with pytest.raises(
        WorkbookError, match=r"the 8 rows .*'blue' \(7\); add rows, or drop the class$"
    ):
        check_class_sizes(pd.Series({"red": 8, "blue": 7}), three, where="t")


def test_of_many_small_classes_as_many_are_listed_as_fit_in_a_line_and_the_rest_counted():
    counts = pd.Series({f"class {i:02}": i % 3 for i in range(40)} | {"red": 30})
    with pytest.raises(WorkbookError) as caught:
        check_class_sizes(counts, settings("t"), where="t")
    message = str(caught.value)
    assert "need: 'class 00' (0), 'class 03' (0), " in message
    assert message.endswith("'class 30' (0) and 29 more; add rows, or drop the class")
    assert message.count("'class ") == 11 and len(message) == 289


def test_a_long_class_name_with_a_newline_is_cut_and_stays_in_one_line():
    name = "first\nsecond " + "x" * 200
    with pytest.raises(WorkbookError) as caught:
        check_class_sizes(pd.Series({name: 3, "red": 30}), settings("t"), where="t")
    assert f"need: 'first\\nsecond {'x' * 25}…' (3); add rows" in str(caught.value)


def test_a_sampled_class_that_lost_rows_is_told_of_the_setting_of_the_sample():
    sampled = settings("t", data__rows=40, **FEW)
    dropped = pd.DataFrame({"label": ["blue"] * 5, "rule": ["exact_duplicate"] * 5})
    sizes = pd.Series({"red": 30, "blue": 5})
    with pytest.raises(WorkbookError, match=r"took 5\); raise data.rows=40, add rows, or drop"):
        check_class_sizes(sizes, sampled, where="t", dropped=dropped)
    whole = settings("t", data__rows=41, **FEW)
    with pytest.raises(WorkbookError, match=r"took 5\); add rows, or drop"):
        check_class_sizes(sizes, whole, where="t", dropped=dropped)
    with pytest.raises(WorkbookError, match=r"'blue' \(5\); add rows, or drop"):
        check_class_sizes(pd.Series({"red": 60, "blue": 5}), sampled, where="t")


def test_near_copies_count_as_one_training_text_of_a_class():
    train = pd.DataFrame({"label": ["a"] * 6 + ["b"] * 5, "group": [*range(10), 9]})
    check_training_texts(train.assign(group=range(11)), settings("t"), where="t")
    with pytest.raises(
        WorkbookError,
        match=r"^t: 5 folds need as many different training texts of each class \(near-copies are "
        rf"one\): 'b' \(4\); add texts, drop the class, {FEWER}$",
    ):
        check_training_texts(train, settings("t"), where="t")
    fewest = settings("t", labels__folds=2, cross_validation__folds=2, **FEW)
    with pytest.raises(WorkbookError, match=r"'b' \(1\); add texts, or drop the class$"):
        check_training_texts(train.assign(group=[*range(6), *[6] * 5]), fewest, where="t")
    authors = settings("t", data__group_column="author")
    with pytest.raises(WorkbookError, match=r"\(near-copies, and rows of one 'author', are one\)"):
        check_training_texts(train, authors, where="t")


def test_labels_that_differ_in_case_or_blanks_alone_are_listed():
    labels = [*["Sport", "sport ", "NEWS", "News", "art"] * 9]
    with pytest.raises(
        WorkbookError,
        match=r"t.csv: labels that differ in case or blanks alone: 'NEWS' and 'News', 'Sport' and "
        r"'sport '. Merge them with --set data.merge_labels=true",
    ):
        check_labels(table_of(*labels), settings("t.csv"))
    check_labels(table_of(*labels), settings("t.csv", data__merge_labels=True))


def test_spellings_that_merge_into_one_class_leave_nothing_to_tell_apart():
    with pytest.raises(WorkbookError, match="all rows have the label 'x'"):
        check_labels(
            table_of(*["x"] * 20, *["X "] * 10), settings("t.csv", data__merge_labels=True)
        )


def test_merged_labels_take_the_commonest_spelling():
    labels = pd.Series(["sport ", "Sport", "Sport", "hot  dog", "Hot dog", None, "art"])
    assert merged_labels(labels).tolist()[:5] == ["Sport", "Sport", "Sport", "Hot dog", "Hot dog"]
    assert merged_labels(labels).isna().tolist() == [False] * 5 + [True, False]


def grouped(rows, groups, **settings):
    table = pd.DataFrame(rows, columns=["text", "label"]).assign(group_key=groups)
    table.insert(0, "row_id", range(len(table)))
    check_labels(table, Config.load("smoke", {"data.source": "t.csv", **settings}))


def test_each_class_needs_a_group_for_each_split():
    """Ann wrote all of x but a text of nobody's; y is by three."""
    rows = [(f"text {i}", "xy"[i % 2]) for i in range(40)]
    groups = ["ann" if i % 2 == 0 else f"bob {i % 3}" for i in range(40)]
    groups[0] = None
    with pytest.raises(WorkbookError) as caught:
        grouped(rows, groups)
    assert str(caught.value).endswith(
        "t.csv: the rows of class 'x' are of 2 groups, and each split needs one; name a finer "
        "data.group_column, or unset it"
    )
    grouped(rows, groups, **{"data.split_column": "part"})  # the data say which split
    groups[2] = None
    grouped(rows, groups)


def test_groups_are_counted_by_merged_labels():
    rows = [(f"text {i}", ("Red", "red", "blue")[i % 3]) for i in range(60)]
    groups = [f"u{i % 9}" for i in range(60)]
    rows[1] = ("text 1", " red")
    grouped(rows, groups, **{"data.merge_labels": True})
