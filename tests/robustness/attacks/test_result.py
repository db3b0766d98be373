import numpy as np
import pandas as pd
import pytest

from lib.robustness.attacks import AttackResult, compare
from lib.robustness.attacks.search import COLUMNS


def record(outcome="succeeded", edits=(), queries=10, similarity=np.nan):
    return {
        "outcome": outcome,
        "edits": [list(edit) for edit in edits],
        "n_words": 4,
        "n_queries": queries,
        "predicted": "bad",
        "similarity": similarity,
    }


def result_of(records, texts=None, recipe="TextFooler"):
    table = pd.DataFrame(records, columns=COLUMNS)
    table.insert(0, "text", texts or ["one two three four"] * len(records))
    table.insert(1, "label", "good")
    return AttackResult(recipe, "a thesaurus", table)


ONE, TWO = [(0, 3, "1")], [(0, 3, "1"), (4, 7, "2")]
RECORDS = [
    record(edits=ONE, similarity=0.95, queries=20),
    record(edits=TWO, similarity=0.85, queries=40),
    record(edits=TWO, similarity=0.75, queries=60),
    *[record("failed", edits=ONE, queries=40)] * 4,
    record("out of queries", queries=80),
    record("no word to change", queries=1),
    record("wrong before", queries=1),
    {"outcome": "out of time"},
]


def test_shares_are_of_texts_that_were_right_and_had_their_turn():
    found = result_of(RECORDS).intervals()
    assert str(found["success"]) == "0.333 [0.121, 0.646]"  # 3 of 9, Wilson
    assert found["success, similarity 0.80 or more"].value == pytest.approx(2 / 9)
    assert found["success, similarity 0.90 or more"].value == pytest.approx(1 / 9)
    assert found["words changed"].value == pytest.approx((0.25 + 0.5 + 0.5) / 3)
    # mean 41.2, error 9.01, Student's quantile for 8 degrees of freedom 2.306
    assert found["queries a text"].value == pytest.approx(361 / 9)
    queries = [20, 40, 60, 40, 40, 40, 40, 80, 1]
    reach = 2.306 * np.std(queries, ddof=1) / 3
    assert found["queries a text"].high == pytest.approx(361 / 9 + reach, abs=0.01)


def test_the_description_says_it_all():
    assert result_of(RECORDS).describe() == (
        "TextFooler changes the answer to 33.3% [12.1%, 64.6%] of 9 texts that were classified "
        "correctly. The meaning: success, similarity 0.80 or more in 22.2% [6.3%, 54.7%]; success, "
        "similarity 0.90 or more in 11.1% [2.0%, 43.5%]. A successful attack changes 41.7% [5.8%, "
        "77.5%] of the words. It takes 40 [23, 57] queries a text. Of 11 texts: 3 succeeded, 4 "
        "failed, 1 out of queries, 1 no word to change, 1 wrong before, 1 out of time. Candidates: "
        "a thesaurus."
    )


def test_differences_are_escaped_and_the_most_similar_come_first():
    texts = ["<b>one</b> & two", "x < one"]
    records = [
        record(edits=[(3, 6, "<1>")], similarity=0.8),
        record(edits=[(4, 7, "1")], similarity=0.9),
    ]
    shown = result_of(records, texts).diffs()
    assert repr(shown).splitlines() == [
        "good → bad (similarity 0.90): one → 1",
        "good → bad (similarity 0.80): one → <1>",
    ]
    assert "&lt;b&gt;<del>one</del><ins>&lt;1&gt;</ins>&lt;/b&gt; &amp; two" in shown.html
    assert shown.html.index("x &lt;") < shown.html.index("&lt;b&gt;")
    assert "<b>" not in shown.html
    assert len(result_of(records, texts).diffs(1).html.split("<del>")) == 2


def test_attacks_are_compared_measure_by_measure():
    other = result_of([record("failed"), record("failed")], recipe="DeepWordBug")
    table = compare([result_of(RECORDS), other])
    assert list(table.index) == [
        ("success", "TextFooler"),
        ("success", "DeepWordBug"),
        ("success, similarity 0.80 or more", "TextFooler"),
        ("success, similarity 0.80 or more", "DeepWordBug"),
        ("success, similarity 0.90 or more", "TextFooler"),
        ("success, similarity 0.90 or more", "DeepWordBug"),
        ("words changed", "TextFooler"),
    ]
    assert table.loc[("success", "DeepWordBug"), "value"] == 0


def test_no_texts_have_no_rates():
    empty = result_of([])
    assert empty.intervals() == {}
    assert list(empty.table) == list(result_of(RECORDS).table)
    assert "no text to attack" in empty.describe()
    assert repr(empty.diffs()) == "TextFooler changed no answer."


def test_attacks_of_which_no_text_got_its_turn_are_an_empty_table():
    table = compare([result_of([])])
    assert len(table) == 0
    assert table.index.nlevels == 2
