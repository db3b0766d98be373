"""Columns that are guessed, how sure that is, and tables in which there is nothing to guess."""

import pandas as pd
import pytest

from lib.data.columns import guess_columns
from lib.errors import WorkbookError

N = 120
TEXTS = [f"the parcel number {i} came late and the box was open" for i in range(N)]
TOPICS = [("delivery", "payment", "refund")[i % 3] for i in range(N)]
AUTHORS = [f"u{i // 4}" for i in range(N)]


def guessed(columns, **known):
    guesses = guess_columns(pd.DataFrame(columns), **known)
    return {use: (guess.column, guess.sure) for use, guess in guesses.items()}


def test_named_columns_without_a_rival_are_sure():
    found = guessed({"id": range(N), "author": AUTHORS, "body": TEXTS, "topic": TOPICS})
    assert found == {
        "text": ("body", "sure"),
        "label": ("topic", "sure"),
        "group": ("author", "sure"),
    }


def test_the_reasons_are_counted():
    guesses = guess_columns(pd.DataFrame({"body": TEXTS, "topic": TOPICS, "author": AUTHORS}))
    assert [guess.describe() for guess in guesses.values()] == [
        "'body' (sure: named like one, 10 words on average, 120 values in 120 rows)",
        "'topic' (sure: named like one, 1 words on average, 3 values in 120 rows)",
        "'author' (sure: named like one, 1 words on average, 30 values in 120 rows)",
    ]


def test_columns_of_other_names_are_told_by_what_they_hold():
    dates = pd.date_range("2026-01-01", periods=N).astype(str)
    found = guessed({"a": dates, "b": TEXTS, "c": TOPICS, "d": AUTHORS, "e": range(N)})
    assert found == {
        "text": ("b", "likely"),
        "label": ("c", "a guess"),  # d repeats as well
        "group": ("d", "likely"),
    }


def test_a_second_column_that_fits_as_well_makes_it_a_guess():
    yes = ["yes", "no"] * (N // 2)
    table = pd.DataFrame({"one": TEXTS, "two": TEXTS, "c": TOPICS, "d": yes})
    guesses = guess_columns(table)
    assert (guesses["text"].sure, guesses["text"].rivals) == ("a guess", ("two",))
    assert guesses["label"].describe().endswith("; or 'c')")
    short = table.assign(two="a b c " + table.index.astype(str))
    assert guess_columns(short)["text"].rivals == ()


def test_a_known_column_is_taken_and_is_no_candidate_for_the_rest():
    found = guessed({"title": TEXTS, "body": TEXTS, "topic": TOPICS}, text="title", label="topic")
    assert found == {"text": ("title", "given"), "label": ("topic", "given")}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("id", [f"u{i}" for i in range(N)]),  # each once
        ("user", ["u1"] * N),  # one alone
        ("user", ["u1"] * 13 + [f"u{i // 2}" for i in range(107)]),  # one of many rows
        ("user", [f"u{i // 7}" for i in range(N)]),  # too few
        ("price", [f"{i % 30}.5" for i in range(N)]),
        ("day", [f"2026-01-{i % 30}" for i in range(N)]),
    ],
)
def test_what_is_no_group(name, values):
    assert "group" not in guessed({"text": TEXTS, "label": TOPICS, name: values})


def test_splits_and_numbers_are_no_labels_where_there_are_others():
    parts = ["train", "test"] * (N // 2)
    votes = [i % 2 for i in range(N)]
    found = guessed({"part": parts, "votes": votes, "x": TOPICS, "text": TEXTS})
    assert found["label"] == ("x", "a guess")


def test_texts_without_blanks_and_names_in_one_word_are_read():
    chinese = [f"今天的天气很好我们去公园散步第{i}次" for i in range(N)]
    found = guessed({"reviewText": chinese, "productCategory": TOPICS})
    assert found == {"text": ("reviewText", "sure"), "label": ("productCategory", "sure")}


def test_addresses_and_dates_are_no_texts():
    with pytest.raises(WorkbookError) as caught:
        guess_columns(
            pd.DataFrame(
                {
                    "url": [f"https://example.org/a/b/c/d/{i}" for i in range(N)],
                    "when": ["2026-01-01 10:00:00"] * N,
                    "label": TOPICS,
                }
            )
        )
    assert str(caught.value) == (
        "the table: no column looks like texts: values of 3 words or more; there are 'url', "
        "'when', 'label': name it with --text-column"
    )


def test_a_table_without_labels_names_the_option():
    with pytest.raises(WorkbookError, match=r"like labels: short .* 'id': name it with --label-co"):
        guess_columns(pd.DataFrame({"text": TEXTS, "id": range(N)}))


def test_of_forty_columns_the_two_are_found_and_the_error_stays_short():
    noise = {f"feature {i}": [(i * row) % 97 / 7 for row in range(N)] for i in range(38)}
    found = guessed({**noise, "comment": TEXTS, "class": TOPICS})
    assert (found["text"][0], found["label"][0]) == ("comment", "class")
    with pytest.raises(WorkbookError) as caught:
        guess_columns(pd.DataFrame(noise))
    assert len(str(caught.value)) <= 300 and "more: name it with --text-column" in str(caught.value)


def test_lists_columns_without_values_and_names_twice_are_passed_over():
    table = pd.DataFrame({"a": [[1]] * N, "b": [None] * N, "c": [""] * N, "x": TEXTS, "y": TOPICS})
    table = pd.concat([table, table[["a"]]], axis=1)
    assert guess_columns(table)["text"].column == "x"
