"""JSON is read in the forms in which pandas writes it, or refused in a short line."""

import json

import pandas as pd
import pytest

from lib.data.sources import load_table
from lib.errors import WorkbookError

TABLE = pd.DataFrame({"text": ["a", "b", "c"], "label": ["x", "y", "x"]}, index=[7, 5, 9])


def load(write, content):
    return load_table(write("t.json", content))[["text", "label"]].to_numpy().tolist()


@pytest.mark.parametrize("orient", ["columns", "index", "split", "table", "records"])
def test_each_form_of_pandas_gives_the_rows_in_their_order(write, orient):
    assert load(write, TABLE.to_json(orient=orient)) == TABLE.to_numpy().tolist()


def test_an_object_of_lists_is_a_table(write):
    assert load(write, '{"text": ["a", "b"], "label": ["x", "y"]}') == [["a", "x"], ["b", "y"]]


def test_an_object_by_index_has_cells_that_are_missing(write):
    assert load(write, '{"text": {"0": "a", "1": "b"}, "label": {"1": "y"}}') == [
        ["a", None],
        ["b", "y"],
    ]


def test_a_single_object_is_a_row(write):
    assert load(write, '{"text": "a", "label": "x"}') == [["a", "x"]]


LONG = {f"a rather long key with the number {i}": [i] for i in range(10_000)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"meta": {"n": 3}, "rows": [1, 2]}, r"one object with the keys 'meta', 'rows'; a table"),
        ({"text": ["a", "b"], "label": ["x"]}, "columns of different lengths, 1 to 2; give a list"),
        (LONG, r"no column 'text'; it has '.*' and 9,\d+ more: name it with --text-column"),
        (LONG | {"x": 1}, r"one object with the keys '.*' and 9,\d+ more; a table is"),
        (
            [["a", "x"]] * 9,
            r"record 1: an object such as .* is needed, found list \"\['a', 'x'\]\"",
        ),
        ([{"a": 1, **LONG}], r"no column 'text'; it has 'a', '.*' and 9,\d+ more"),
    ],
)
def test_other_json_is_refused_in_a_short_line(write, content, message):
    with pytest.raises(WorkbookError, match=message) as caught:
        load(write, json.dumps(content))
    assert len(str(caught.value)) <= 300
