from dataclasses import astuple, replace

import numpy as np
import pandas as pd
import pytest

from lib.evaluation.metrics import macro_f1
from lib.evaluation.significance import Interval
from lib.training import baseline
from lib.training.search import cross_validation, learning_curve
from lib.training.search.learning_curve import PowerLaw


def table(n=600, seed=0):
    """Two classes, each text with two of its class's 400 words and seven of anybody's: the more
    texts, the more words are known."""
    rng = np.random.default_rng(seed)
    labels = np.array(["a", "b"])[np.arange(n) % 2]
    texts = [
        " ".join(
            [
                *(f"{label}{i}" for i in rng.integers(0, 400, 2)),
                *(f"x{i}" for i in rng.integers(0, 300, 7)),
            ]
        )
        for label in labels
    ]
    return pd.DataFrame({"text": texts, "label": labels, "group": np.arange(n)})


@pytest.mark.parametrize("law", [(0.9, 2.0, 0.5), (0.95, 8.0, 1.2), (0.7, 0.9, 0.1)])
def test_a_power_law_is_found_again(law):
    sizes = np.geomspace(100, 10_000, 6)
    found = learning_curve.power_law(sizes, PowerLaw(*law)(sizes))
    assert found(20_000) == pytest.approx(PowerLaw(*law)(20_000), abs=1e-4)
    assert astuple(found) == pytest.approx(law, rel=0.05)


def test_flat_and_falling_scores_promise_nothing():
    sizes = np.array([100, 200, 400, 800])
    for scores in (np.full(4, 0.8), np.array([0.82, 0.81, 0.80, 0.80])):
        law = learning_curve.power_law(sizes, scores)
        assert 0 <= law.gain_of_doubling(800) < 2e-3


def test_the_curve_is_the_baselines_score_on_rows_that_no_size_learns_from():
    rows = table()
    found = learning_curve.learning_curve(rows, n_sizes=4, draws=1, progress=False)
    held_out = cross_validation.assign_folds(rows, n_folds=5, seed=42) == 0
    train, scored = rows[~held_out], rows[held_out]
    assert found.table.index.tolist() == [30, 76, 190, 480]
    assert found.n_held_out == len(scored) == found.doubled.n == 120
    model = baseline.fit_baseline(train["text"].tolist(), train["label"].tolist())
    y_true, y_pred = (
        (values == "b").astype(int)
        for values in (scored["label"].to_numpy(), model.predict(scored["text"].tolist()))
    )
    assert found.table["macro_f1"].iloc[-1] == pytest.approx(
        macro_f1(y_true, y_pred), abs=0.01
    )  # the order of the rows is another
    assert (found.table["low"] < found.table["macro_f1"]).all() and (
        found.table["macro_f1"] < found.table["high"]
    ).all()
    assert found.table["macro_f1"].iloc[-1] - found.table["macro_f1"].iloc[0] > 0.1


def test_what_twice_the_texts_would_add_is_read_off_the_law_and_what_the_forecast_missed_is_told():
    found = learning_curve.learning_curve(table(), n_sizes=5, draws=2, progress=False)
    law, largest = found.law, found.table.index[-1]
    assert law == learning_curve.power_law(
        found.table.index.to_numpy(), found.table["macro_f1"].to_numpy()
    )
    assert found.doubled.value == pytest.approx(law(2 * largest) - law(largest))
    assert found.doubled.low < found.doubled.value < found.doubled.high
    before = learning_curve.power_law(
        found.table.index[:-1].to_numpy(), found.table["macro_f1"].to_numpy()[:-1]
    )
    assert found.missed == pytest.approx(found.table["macro_f1"].iloc[-1] - before(largest))


def test_the_smallest_size_holds_every_class_in_its_share(monkeypatch):
    rows = table(1000).assign(
        label=lambda t: np.where(np.arange(1000) % 20 == 0, "rare", t["label"])
    )
    seen = []
    fit = baseline.fit_baseline
    monkeypatch.setattr(
        learning_curve,
        "fit_baseline",
        lambda texts, labels, **options: (
            seen.append(pd.Series(labels)) or fit(texts, labels, **options)
        ),
    )
    learning_curve.learning_curve(rows, n_sizes=4, draws=2, progress=False)
    # all rows are the same in every draw, and are learned once
    assert [len(labels) for labels in seen] == [50, 126, 317, 800, 50, 126, 317]
    assert all(abs((labels == "rare").mean() - 0.05) < 0.02 for labels in seen)
    assert not seen[0].equals(seen[4])


def test_three_sizes_cannot_carry_a_law():
    with pytest.raises(
        ValueError, match="a power law has three parameters and needs 4 sizes or more, got 3"
    ):
        learning_curve.learning_curve(table(), n_sizes=3)


def test_the_forecast_is_a_sentence():
    scores = pd.DataFrame({"macro_f1": [0.5, 0.7512]}, index=[100, 1_600])
    law = PowerLaw(0.9, 2.0, 0.5)
    curve = learning_curve.LearningCurve(scores, law, Interval(0.02, 0.01, 0.03, 99), -0.0041, 99)
    assert learning_curve.describe(curve) == (
        "Twice 1,600 training texts would add +0.020 [+0.010, +0.030] to the baseline's macro F1 "
        "of 0.751. A law fitted to the smaller sizes alone missed the last one by -0.004."
    )
    assert learning_curve.describe(None) == "No learning curve: cross_validation.curve_draws is 0."
    [(step, points)] = learning_curve.next_steps(curve).items()
    assert step.endswith(f"add {curve.doubled.signed()} to macro F1 (of the baseline).")
    assert points == pytest.approx(100 * curve.doubled.low)
    flat = replace(curve, doubled=Interval(0.0, -0.01, 0.01, n=100))
    assert learning_curve.next_steps(flat) == learning_curve.next_steps(None) == {}


def test_a_law_gives_the_gain_of_twice_the_rows():
    assert PowerLaw(0.9, 2.0, 0.5)(400) == pytest.approx(0.8)
    assert PowerLaw(0.9, 2.0, 0.5).gain_of_doubling(200) == pytest.approx(2 / 200**0.5 - 0.1)
