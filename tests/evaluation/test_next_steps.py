import numpy as np
import pandas as pd
import pytest

from lib.evaluation import next_steps
from lib.evaluation.significance import Interval, share_gap, share_interval
from lib.evaluation.slices import WeakSlices

COLUMNS = ["n", "share", "accuracy", "elsewhere", "gain", "low", "high", "p", "verdict"]
SLICES = pd.DataFrame(
    [
        (50, 0.25, 0.5, 0.9, -0.4, -0.6, -0.2, 0.001, "worse"),
        (100, 0.5, 0.6, 0.9, -0.3, -0.4, -0.1, 0.002, "worse"),
        (100, 0.5, 0.1, 0.9, -0.8, -0.9, 0.1, 0.5, "inconclusive"),
    ],
    index=["short", "long", "odd"],
    columns=COLUMNS,
)
LABELS = np.array(["a", "b"]).repeat(100)
RIGHT = np.r_[np.arange(100) < 60, np.arange(100) < 90]
TEXTS = ["one two three"] * 50 + ["one two"] * 150
NONE = WeakSlices(SLICES[:0], 0, 200, 200)


def test_rows_as_right_as_the_others_would_win_their_share_of_the_gap():
    found = next_steps.accuracy_to_win(RIGHT, LABELS == "a")
    gap = share_gap(share_interval(90, 100), share_interval(60, 100))
    assert found.with_ends == pytest.approx([end / 2 for end in gap.with_ends])
    better = next_steps.accuracy_to_win(RIGHT, LABELS == "b")
    assert better.value == pytest.approx(-0.15)
    assert np.isnan(next_steps.accuracy_to_win(RIGHT, LABELS == "c").value)
    assert np.isnan(next_steps.accuracy_to_win(RIGHT, LABELS != "c").value)


def test_steps_are_ranked_by_what_is_certain_and_name_their_figure():
    found = next_steps.next_steps(
        TEXTS,
        LABELS,
        RIGHT,
        weak=WeakSlices(SLICES, 9, 200, 200),
        calibration_error=Interval(0.03, 0.0, 0.05, n=200),
        label_errors=share_interval(10, 20),
        max_tokens=2,
    )
    assert found.index.tolist() == [
        *("collect: a class", "relabel", "collect: a slice", "calibrate", "lengthen"),
    ]
    of_judged = share_interval(10, 20)
    assert found.loc["relabel", "low"] == pytest.approx(0.25 * of_judged.low)
    assert found["follows_from"].to_dict() == {
        "relabel": "50.0% [29.9%, 70.1%] of 20 judged mistakes are label errors",
        "collect: a class": "a: 0.600 right, n = 100",
        "collect: a slice": "long: 0.600 right, n = 100",
        "lengthen": "50 texts have more words than the 2 tokens it reads",
        "calibrate": "the debiased calibration error of its confidences",
    }
    assert found.loc["collect: a slice", "points"] == "+15.0 [+5.0, +20.0]"
    assert found.loc["calibrate", ["points", "low"]].tolist() == ["+3.0 [+0.0, +5.0]", 0]
    shown = found.loc[["collect: a slice", "calibrate"]]
    assert next_steps.describe(shown) == "The figures ask for 1 of 2 steps."
    step = (
        "Collect texts of the weakest slice: +15.0 [+5.0, +20.0] points (long: 0.600 right, n = "
        "100)."
    )
    assert next_steps.asked_for(shown) == {step: pytest.approx(5)}
    (calibrate,) = next_steps.asked_for(found.loc[["calibrate"]].assign(low=0.01))
    assert calibrate.startswith("Calibrate the confidences: +3.0 [+0.0, +5.0] points of confidence")


def test_what_is_not_known_comes_last():
    found = next_steps.next_steps(
        TEXTS,
        np.full(200, "a"),
        RIGHT,
        weak=NONE,
        calibration_error=Interval(0.0, 0.0, 0.02, n=200),
        label_errors=None,
        max_tokens=0,
    )
    assert found.index[0] == "calibrate"
    assert found["points"].tolist()[1:] == ["unknown"] * 4
    assert found.loc["relabel", "follows_from"] == "nobody has judged a mistake in judgements.csv"
    assert next_steps.describe(found) == "The figures ask for 0 of 5 steps."
    assert next_steps.asked_for(found) == {}


def test_the_weakest_of_many_classes_is_less_sure():
    right = np.r_[RIGHT, np.ones(800, dtype=bool)]
    labels = np.r_[LABELS, np.arange(800) // 100 + 10].astype(str)
    found = next_steps.next_steps(
        ["one"] * 1_000,
        labels,
        right,
        weak=NONE,
        calibration_error=Interval(0.0, 0.0, 0.02, n=200),
        label_errors=None,
        max_tokens=0,
    )
    alone = next_steps.accuracy_to_win(right, labels == "a", confidence=1 - 0.05 / 10)
    assert found.loc["collect: a class", "low"] == alone.low
