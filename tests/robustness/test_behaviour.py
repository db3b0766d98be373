import numpy as np
import pandas as pd
import pytest

from lib.errors import WorkbookError
from lib.evaluation.significance import share_interval
from lib.robustness.behaviour import COLUMNS, TYPES, read_tests, run_tests

NAMES = ["fruit", "tool"]
TEXTS = ["a pear of 12 on Monday", "a saw of 7 on Tuesday", "a saw in Paris", "a pear alone"]
Y_TRUE = np.array([0, 1, 1, 0])


def predict(texts):
    """Tools are saws; a greeting makes everything fruit, and thanks make it less sure."""
    tool = np.array([0.9 if "saw" in text or "tool" in text else 0.1 for text in texts])
    tool = np.where([text.startswith("Hello") for text in texts], 0.2, tool)
    tool = np.where([text.endswith("Thanks") for text in texts], 0.5 + 0.5 * (tool - 0.5), tool)
    return np.c_[1 - tool, tool]


def outcome(*rows, **options):
    tests = pd.DataFrame(rows, columns=COLUMNS)
    return run_tests(predict, TEXTS, Y_TRUE, tests, class_names=NAMES, **options)


@pytest.mark.parametrize(
    ("row", "count", "n"),
    [
        (("t", "invariance", "start", "Hello", ""), 2, 4),
        (("t", "invariance", "end", "Thanks", ""), 0, 4),
        (("t", "direction: not lower", "end", "Thanks", ""), 4, 4),
        (("t", "direction: not higher", "end", "Thanks", ""), 0, 4),
        (("t", "direction: not higher", "end", "Thanks", "fruit"), 2, 4),
        (("t", "invariance", "swap", "pear|saw", ""), 4, 4),
        (("t", "invariance", "swap", "Monday|Tuesday", ""), 0, 2),
        (("t", "invariance", "swap", "<number>", ""), 0, 2),
        (("t", "minimum function", "text", "a {label}", ""), 0, 2),
        (("t", "minimum function", "text", "a saw", "fruit"), 1, 1),
    ],
)
def test_a_test_counts_its_failures_among_its_cases(row, count, n):
    result = outcome(row).table.loc["t"]
    assert (result["type"], result["count"], result["n"]) == (row[1], count, n)
    assert result["rate"] == count / n
    assert result["low"] <= result["rate"] <= result["high"]
    assert result["high"] - result["low"] > 0.1


def test_each_text_of_a_tests_own_counts_by_itself():
    result = outcome(("t", "minimum function", "text", "a {label}", "")).table.loc["t"]
    assert (result["low"], result["high"]) == share_interval(0, 2).with_ends[1:]


def test_a_change_within_the_tolerance_is_no_failure():
    row = ("t", "direction: not lower", "end", "Thanks", "")
    assert outcome(row, tolerance=0.19).table.loc["t", "count"] == 4
    assert outcome(row, tolerance=0.21).table.loc["t", "count"] == 0


def test_a_test_without_a_case_has_no_rate_and_is_named():
    result = outcome(
        ("a city", "invariance", "swap", "London|Rome", ""),
        ("a greeting", "invariance", "start", "Hello", ""),
    )
    assert np.isnan(result.table.loc["a city", "rate"])
    assert result.table.loc["a city", "n"] == 0
    said = result.describe()
    assert said.startswith("Most failures: 'a greeting' (invariance), 50.0% [")
    assert said.endswith("of 4 cases. No text has a place for: a city.")


def test_tests_without_any_case_are_no_error():
    result = outcome(("a city", "invariance", "swap", "London|Rome", ""))
    assert result.cases.empty and result.failures().empty
    assert result.describe() == "No text has a place for: a city."


def test_each_text_gets_one_of_a_tests_values_and_always_the_same():
    rows = [("t", "invariance", "end", value, "") for value in ("One.", "Two.", "Three.")]
    first, second = outcome(*rows), outcome(*rows)
    assert len(first.cases) == 4
    assert first.cases["changed"].tolist() == second.cases["changed"].tolist()
    assert len({text.split()[-1] for text in first.cases["changed"]}) > 1
    alone = run_tests(
        predict,
        TEXTS[2:3],
        Y_TRUE[2:3],
        pd.DataFrame(rows, columns=COLUMNS),
        class_names=NAMES,
    )
    assert alone.cases["changed"].tolist() == first.cases["changed"].tolist()[2:3]


def test_swapped_words_change_for_others_of_the_list_in_their_case():
    changed = outcome(("t", "invariance", "swap", "monday|tuesday|friday", "")).cases["changed"]
    days = [text.split()[-1] for text in changed]
    assert days[0] in ("Tuesday", "Friday") and days[1] in ("Monday", "Friday")


def test_another_number_has_as_many_digits_and_another_first_one():
    row = ("t", "invariance", "swap", "<number>", "")
    for seed in range(20):
        number = outcome(row, seed=seed).cases["changed"].iloc[0].split()[3]
        assert len(number) == 2 and number[0] not in "01"


def test_the_cases_that_failed_are_shown():
    shown = outcome(("t", "invariance", "start", "Hello", "")).failures(per_test=1)
    assert shown.to_dict("records") == [
        {
            "test": "t",
            "changed": "Hello a saw of 7 on Tuesday",
            "label": "tool",
            "answer": "tool",
            "new_answer": "fruit",
        }
    ]


def test_near_copies_count_as_little_more_than_one():
    row = ("t", "invariance", "start", "Hello", "")
    alone, copies = outcome(row), outcome(row, groups=np.array([5, 7, 7, 5]))
    assert copies.table.loc["t", "low"] < alone.table.loc["t", "low"]


def test_the_shipped_tests_are_copied_and_can_be_extended(tmp_path):
    path = tmp_path / "review" / "behaviour.csv"
    shipped = read_tests(path, class_names=NAMES)
    assert set(shipped["type"]) == set(TYPES[:3])
    assert {"a greeting before", "another number", "another person", "another city"} <= set(
        shipped["test"]
    )
    with path.open("a", encoding="utf-8") as file:
        file.write("a saw,minimum function,text,A saw.,tool\n\n")
    extended = read_tests(path, class_names=NAMES)
    assert len(extended) == len(shipped) + 1
    assert extended.iloc[-1].tolist() == ["a saw", "minimum function", "text", "A saw.", "tool"]


def test_semicolons_of_a_spreadsheet_are_read(tmp_path):
    path = tmp_path / "behaviour.csv"
    path.write_text("test;type;change;value;label\nt;invariance;start;Oh,;\n", encoding="utf-8")
    assert read_tests(path, class_names=NAMES).iloc[0].tolist() == [
        *("t", "invariance", "start", "Oh,", "")
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "test,typ,change,value,label\nt,invariance,end,x,\n",
            r"behaviour.csv: unknown column 'typ' \(did you mean 'type'\?\); the columns are ",
        ),
        ("test,type,change,value\nt,invariance,end,x\n", "no column 'label'; add it to the header"),
        ("test,type,change,value,label\n", "no row; delete the file to start from the shipped"),
        (
            "test,type,change,value,label\nt,invariance,end,x,\nu,invarance,end,x,\n",
            r"row 2: type 'invarance' \(did you mean 'invariance'\?\); it is one of 'minimum",
        ),
        ("test,type,change,value,label\nt,invariance,ends,x,\n", "row 1: change 'ends'"),
        (
            "test,type,change,value,label\nt,minimum function,text,x,frut\n",
            r"row 1: label 'frut' \(did you mean 'fruit'\?\)",
        ),
        (
            "test,type,change,value,label\nt,minimum function,text,x,\n",
            "row 1: a minimum function needs a label",
        ),
        (
            "test,type,change,value,label\nt,invariance,text,x,\n",
            "row 1: the change 'text' and the type 'minimum function' need each other",
        ),
        (
            "test,type,change,value,label\nt,invariance,end,x,\nt,direction: not lower,end,x,\n",
            "row 1: the test has another type in another row; give each its own name",
        ),
    ],
)
def test_a_wrong_table_names_the_row_or_the_column(tmp_path, content, message):
    path = tmp_path / "behaviour.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(WorkbookError, match=message) as raised:
        read_tests(path, class_names=NAMES)
    assert len(str(raised.value).replace(str(tmp_path), "")) <= 300
