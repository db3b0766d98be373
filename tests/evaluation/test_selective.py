import numpy as np
import pandas as pd
import pytest

from lib.evaluation import selective


def drawn(n, *, k=4, sharpness=2.0, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    logits = rng.normal(0, 1, (n, k))
    logits[np.arange(n), y] += sharpness * (1 + y / k)  # later classes are easier
    odds = np.exp(logits)
    return odds / odds.sum(axis=1, keepdims=True), y


def test_a_threshold_lets_the_allowed_number_of_right_classes_fall_below_it():
    given = np.linspace(0.10, 0.90, 9)
    probs, y = np.c_[given, 1 - given], np.zeros(9, dtype=int)
    for coverage, n_below in ((0.9, 0), (0.8, 1), (0.5, 4)):
        thresholds = selective.conformal_thresholds(probs, y, coverage=coverage)
        assert (given < thresholds[0]).sum() == n_below
        assert thresholds[0] in given
    assert (selective.conformal_thresholds(probs, y, coverage=0.95) == 0).all(), (
        "nine rows cannot promise 95 %: every class joins"
    )


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("by_class", [False, True])
def test_sets_hold_the_truth_as_often_as_promised(coverage, by_class):
    held = []
    for seed in range(60):
        probs, y = drawn(600, seed=seed)
        thresholds = selective.conformal_thresholds(
            probs[:300], y[:300], coverage=coverage, by_class=by_class
        )
        held.append(selective.prediction_sets(probs[300:], thresholds)[np.arange(300), y[300:]])
    assert coverage - 0.01 < np.mean(held) < coverage + (0.02 if by_class else 0.012)


def test_by_class_keeps_the_promise_in_the_hardest_class():
    probs, y = drawn(6_000)
    fold = np.arange(6_000) % 5
    over_all, by_class = (
        selective.conformal_table(probs, y, fold, coverages=[0.9], by_class=flag).loc[0.9]
        for flag in (False, True)
    )
    assert over_all["worst_class"] < 0.86
    assert by_class["worst_class"] > 0.88
    assert over_all["covered"] == pytest.approx(0.9, abs=0.012)
    assert over_all["low"] < over_all["covered"] < over_all["high"]


def test_a_table_counts_sets_of_one_class_and_of_none():
    probs, y = np.tile([[0.9, 0.1], [0.6, 0.4]], (50, 1)), np.zeros(100, dtype=int)
    row = selective.conformal_table(probs, y, np.arange(100) // 2 % 2, coverages=[0.5]).loc[0.5]
    assert (row["covered"], row["single"], row["empty"], row["mean_size"]) == (1.0, 1.0, 0.0, 1.0)
    row = selective.conformal_table(probs, y, np.arange(100) // 2 % 2, coverages=[0.2]).loc[0.2]
    assert (row["covered"], row["single"], row["empty"], row["mean_size"]) == (0.5, 0.5, 0.5, 0.5)


def test_thresholds_of_a_fold_come_from_the_others():
    probs, y = drawn(400)
    fold = np.arange(400) % 2
    probs[fold == 0] = np.eye(4)[
        (y[fold == 0] + 1) % 4
    ]  # wrong, and sure: what is fitted on this fold lets everything in
    row = selective.conformal_table(probs, y, fold, coverages=[0.9]).loc[0.9]
    held_in_1 = 2 * row["covered"] - 0.0
    assert held_in_1 == pytest.approx(1.0, abs=0.01), (
        "fold 1 is all held by thresholds of 0, fold 0 never"
    )


def test_the_surest_texts_are_answered_first():
    probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    table = selective.accuracy_coverage_curve(
        probs, np.array([0, 0, 0, 1]), shares=[0.25, 0.5, 0.75, 1.0]
    )
    assert table["accuracy"].tolist() == [1, 1, pytest.approx(2 / 3), 0.5]
    assert table["threshold"].tolist() == [0.9, 0.8, 0.7, 0.6]
    assert table["n"].tolist() == [1, 2, 3, 4]
    assert (table["low"] <= table["accuracy"]).all() and (table["accuracy"] <= table["high"]).all()
    given = selective.accuracy_coverage_curve(  # of the labels 1, 0, 1, 1: surest 0.8, 0.7
        probs, np.array([0, 0, 0, 1]), y_pred=np.array([1, 0, 1, 1]), shares=[0.25, 0.75]
    )
    assert given["threshold"].tolist() == [0.8, 0.4]
    assert given["accuracy"].tolist() == [1, pytest.approx(2 / 3)]


def test_a_coverage_out_of_range_is_named():
    with pytest.raises(ValueError, match="coverage must be between 0 and 1, got 1"):
        selective.conformal_thresholds(np.eye(2), np.array([0, 1]), coverage=1)


def test_a_promise_and_its_cost_are_a_sentence():
    table = pd.DataFrame(
        {
            "covered": [0.81, 0.898],
            "low": [0.78, 0.88],
            "high": [0.83, 0.915],
            "mean_size": [1.1, 1.344],
            "single": [0.9, 0.7],
            "worst_class": [0.7, 0.82],
            "n_rare": [0, 3],
        },
        index=[0.8, 0.92],
    )
    assert selective.describe_conformal(table, n=1_000) == (
        "Sets that promise 92% hold the right class in 89.8% [88.0%, 91.5%] of 1,000 texts, and "
        "name 1.34 classes on average; 70% of them name one. The class with the lowest coverage is "
        "held in 82.0%. 3 classes have fewer than the 12 rows that a promise to a class by itself "
        "needs; by class, they are taken together."
    )
    without_rare = selective.describe_conformal(table, n=9, coverage=0.5)
    assert without_rare.startswith("Sets that promise 80%")
    assert without_rare.endswith("is held in 70.0%.")


def test_what_unanswered_texts_gain_is_a_sentence():
    curve = pd.DataFrame(
        {
            "threshold": [0.9, 0.62, 0.3],
            "accuracy": [0.97, 0.91, 0.85],
            "low": [0.96, 0.89, 0.83],
            "high": [0.98, 0.93, 0.87],
            "n": [50, 80, 100],
        },
        index=[0.5, 0.8, 1.0],
    )
    assert selective.describe_coverage_curve(curve, model="ensemble") == (
        "Answering the surest 80% of the texts (confidence 0.62 or more), the ensemble is "
        "right "
        "in 91.0% [89.0%, 93.0%]; on all texts in 85.0%."
    )
    half = selective.describe_coverage_curve(curve, model="ensemble", share=0.5)
    assert half.startswith("Answering the surest 50% of the texts (confidence 0.90 or more)")


@pytest.mark.parametrize(("share", "answered"), [(0.01, 1), (0.25, 1), (0.5, 2), (0.75, 3), (1, 4)])
def test_the_threshold_of_abstention_answers_the_surest_share(share, answered):
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
    threshold = selective.abstention_threshold(probs, answered_share=share)
    assert (probs.max(axis=1) >= threshold).sum() == answered
    given = selective.abstention_threshold(
        probs, answered_share=share, y_pred=np.array([1, 1, 1, 1])
    )
    assert given == (0 if share == 1 else [0.8, 0.7, 0.4][answered - 1])


def test_each_promised_coverage_has_its_thresholds():
    probs, y = drawn(200)
    thresholds = selective.thresholds_by_coverage(probs, y, coverages=(0.8, 0.95))
    assert list(thresholds) == [0.8, 0.95]
    expected = selective.conformal_thresholds(probs, y, coverage=0.95)
    np.testing.assert_array_equal(thresholds[0.95], expected)
    assert (thresholds[0.8] > thresholds[0.95]).all()


def test_classes_with_too_few_rows_for_a_promise_share_one():
    rng = np.random.default_rng(5)
    k = 60

    def rows(n_common, n_rare):  # a promise of 90 % needs nine rows of a class
        y = np.r_[np.zeros(n_common, dtype=int), np.repeat(np.arange(1, k), n_rare)]
        return rng.dirichlet(np.ones(k), len(y)) * 0.4 + np.eye(k)[y] * 0.6, y

    probs, y = rows(100, 8)
    thresholds = selective.conformal_thresholds(probs, y, coverage=0.9, by_class=True)
    assert len(set(thresholds[1:])) == 1
    common = selective.conformal_thresholds(probs[y == 0], y[y == 0], coverage=0.9)
    assert thresholds[0] == common[0]
    fresh, y_fresh = rows(0, 100)
    sets = selective.prediction_sets(fresh, thresholds)
    assert sets[np.arange(len(y_fresh)), y_fresh].mean() == pytest.approx(0.9, abs=0.03)
    assert sets.sum(axis=1).mean() < 2


def test_the_coverage_of_near_copies_is_as_unsure_as_their_groups_are_few():
    rng = np.random.default_rng(6)
    groups = np.repeat(np.arange(40), 25)
    y = rng.integers(0, 2, 40)[groups]
    sure = rng.uniform(0.3, 1, 40)[groups]
    probs = np.where(np.arange(2) == y[:, None], sure[:, None], 1 - sure[:, None])
    fold = groups % 2
    alone = selective.conformal_table(probs, y, fold, coverages=[0.8]).loc[0.8]
    together = selective.conformal_table(probs, y, fold, coverages=[0.8], groups=groups).loc[0.8]
    assert together["high"] - together["low"] > 4 * (alone["high"] - alone["low"])
    curve = selective.accuracy_coverage_curve(probs, y, shares=[0.5], groups=groups).loc[0.5]
    of_rows = selective.accuracy_coverage_curve(probs, y, shares=[0.5]).loc[0.5]
    assert curve["accuracy"] == of_rows["accuracy"]
    assert curve["low"] < of_rows["low"]
