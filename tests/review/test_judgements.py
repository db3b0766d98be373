import csv

import numpy as np
import pandas as pd
import pytest

from lib.errors import WorkbookError
from lib.evaluation.significance import share_interval
from lib.review import judgements

MISTAKES = pd.DataFrame(
    {
        "row_id": [7, 3, 5],
        "label": ["a", "b", "a"],
        "predicted": ["b", "a", "c"],
        "confidence": [0.9, 0.8, 0.7],
        "label_prob": [0.1, 0.15, 0.05],
        "text": ["=cat", "dog\nand cat", "cow"],
    }
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "review" / "judgements.csv"


def read(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def fill_in(path, answers, **more):
    """Write answers by row_id as a spreadsheet does, with other line ends."""
    rows = [row | {"judgement": answers.get(row["row_id"], "")} | more for row in read(path)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\r\n")
        writer.writeheader()
        writer.writerows([row | {"text": row["text"].replace("\n", "\r\n")} for row in rows])


def test_the_most_confident_mistakes_and_those_of_highest_loss_are_asked_about(path):
    judgements.ask(path, MISTAKES, n_rows=1)
    assert read(path) == [
        {
            **{"row_id": "7", "label": "a", "predicted": "b", "confidence": "0.900"},
            **{"loss": "2.30", "judgement": "", "why": "", "text": "'=cat"},
        },
        {
            **{"row_id": "5", "label": "a", "predicted": "c", "confidence": "0.700"},
            **{"loss": "3.00", "judgement": "", "why": "", "text": "cow"},
        },
    ]


def test_what_a_person_filled_in_stays_when_others_are_added(path):
    judgements.ask(path, MISTAKES, n_rows=1)
    fill_in(path, {"7": " Label  Error "}, note="mine")
    asked = judgements.ask(path, MISTAKES, n_rows=3)
    assert [(row["row_id"], row["judgement"], row["note"]) for row in read(path)] == [
        ("7", "label error", "mine"),
        ("5", "", "mine"),
        ("3", "", ""),
    ]
    assert judgements.read_judgements(path).equals(asked)
    fill_in(path, {"3": "Model"})
    before = path.read_bytes()
    judgements.ask(path, MISTAKES.assign(confidence=0.5), n_rows=3)
    judgements.ask(path, MISTAKES[:0], n_rows=3)
    assert path.read_bytes() == before


def test_a_judgement_is_about_a_number_a_label_and_a_text(path):
    judgements.ask(path, MISTAKES, n_rows=3)
    fill_in(path, {"7": "model", "3": "ambiguous", "5": "label error"})
    asked = judgements.read_judgements(path)
    assert judgements.judged_rows(asked, MISTAKES)["row_id"].tolist() == ["7", "3", "5"]
    changed = MISTAKES.assign(label=["b", "b", "a"], text=["=cat", "dog and cat", "cows"])
    judged = judgements.judged_rows(asked, changed)
    assert judged["row_id"].tolist() == ["3"]
    assert judgements.describe(asked, judged) == (
        "Of 1 mistakes judged: label error 0.0% [0.0%, 79.3%], ambiguous 100.0% [20.7%, 100.0%], "
        "model 0.0% [0.0%, 79.3%]. 2 more are about other rows. "
        "No label of a test row is changed by a judgement."
    )
    again = judgements.ask(path, changed, n_rows=3)
    assert again["row_id"].tolist() == ["7", "3", "5", "7", "5"]  # other texts of these numbers


def test_shares_are_of_what_is_judged(path):
    judged = pd.DataFrame({"judgement": ["model", "model", "ambiguous", "label error"]})
    assert judgements.shares(judged) == {
        "label error": share_interval(1, 4),
        "ambiguous": share_interval(1, 4),
        "model": share_interval(2, 4),
    }
    assert judgements.shares(judged[:0]) == {}


def test_nothing_judged_says_what_to_do(path):
    asked = judgements.ask(path, MISTAKES, n_rows=3)
    judged = judgements.judged_rows(asked, MISTAKES)
    assert judgements.describe(asked, judged) == (
        "None of the 3 mistakes in judgements.csv is judged: fill in its column judgement "
        "(label error, ambiguous, model) and run again. "
        "No label of a test row is changed by a judgement."
    )


def test_a_wrong_value_is_named_and_nothing_is_written(path):
    judgements.ask(path, MISTAKES, n_rows=1)
    fill_in(path, {"5": "lable eror"})
    before = path.read_bytes()
    with pytest.raises(WorkbookError) as error:
        judgements.ask(path, MISTAKES, n_rows=3)
    assert str(error.value).endswith(
        "judgements.csv, line 3, row_id '5': judgement 'lable eror' (did you mean 'label error'?); "
        "it is one of label error, ambiguous, model, or blank"
    )
    assert len(str(error.value)) <= 300
    assert path.read_bytes() == before


def test_a_missing_column_is_named(path):
    path.parent.mkdir()
    path.write_text("row_id,label\n1,a\n", encoding="utf-8")
    with pytest.raises(WorkbookError, match="no column 'predicted'"):
        judgements.read_judgements(path)


def test_a_long_text_is_cut_and_is_still_the_same_row(path):
    long = MISTAKES.assign(text=[f"{'x ' * 2_000}{i}" for i in range(3)])
    judgements.ask(path, long, n_rows=3)
    assert {len(row["text"]) for row in read(path)} == {2_000}
    fill_in(path, {"3": "model"})
    asked = judgements.read_judgements(path)
    assert judgements.judged_rows(asked, long)["row_id"].tolist() == ["3"]


def test_a_probability_of_zero_has_a_finite_loss(path):
    zero = MISTAKES.assign(label_prob=[0.0, 0.1, 0.2])
    asked = judgements.ask(path, zero, n_rows=1)
    assert asked["loss"].tolist() == [f"{-np.log(np.finfo(float).eps):.2f}"]
