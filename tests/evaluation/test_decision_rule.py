import numpy as np
import pytest

from lib.evaluation import decision_rule, significance
from lib.evaluation.decision_rule import MOST_PROBABLE, DecisionRule
from lib.evaluation.metrics import macro_f1

OPTIONS = {"n_resamples": 300, "seed": 0}
COUNTS = np.array([900, 100])  # of which the weights of power p are 1 and 9 ** p


def rows(n_common, n_rare, *, rare_prob):
    """Rows of the classes 0 and 1 to which a model gives one and the same probability."""
    y_true = np.repeat([0, 1], [n_common, n_rare])
    return np.tile([1 - rare_prob, rare_prob], (len(y_true), 1)), y_true


def together(*parts):
    probs, y_true = (np.concatenate(arrays) for arrays in zip(*parts))
    return probs, y_true, np.arange(len(y_true)) % 4


def imbalanced():
    """900 rows of class 0, 100 of class 1, which is likely in 50 rows and half likely in 80."""
    return together(
        rows(855, 15, rare_prob=0.02),
        rows(40, 40, rare_prob=0.4),
        rows(5, 45, rare_prob=0.9),
    )


def test_rare_classes_weigh_more_where_macro_f1_gains():
    probs, y_true, fold = imbalanced()
    fit = decision_rule.fit_decision(probs, y_true, fold, class_counts=COUNTS, **OPTIONS)
    assert fit.rule.weights.tolist() == [1, pytest.approx(9**0.25)]
    before = (2 * 45 / (100 + 50) + 2 * 895 / (900 + 950)) / 2
    after = (2 * 85 / (100 + 130) + 2 * 855 / (900 + 870)) / 2
    labels = fit.rule.labels(probs)
    assert macro_f1(y_true, labels) == pytest.approx(after)
    assert labels.sum() == 130
    assert fit.gains.index.tolist() == [
        *("power 0.25", "power 0.5", "power 0.75", "power 1"),
        "chosen on other folds",
    ]
    assert fit.gains["gain"].tolist() == pytest.approx([after - before] * 5)
    test = significance.paired_test(y_true, probs.argmax(axis=1), labels, **OPTIONS)
    assert fit.cross_fitted == test
    assert test.verdict == "inconclusive" and test.accuracy_gain.value == 0
    assert fit.describe() == (
        "Weighting by rarity, its power chosen on other folds: macro F1 "
        f"{test.macro_f1_gain.signed()} (randomisation p = {test.p_macro_f1:.2g}), "
        f"accuracy {test.accuracy_gain.signed()}, n = 1,000. The label is the most probable class "
        "after weighting by rarity: power 0.25 has the highest macro F1 on all folds."
    )


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"method": "most_probable"}, "the setting ensemble.decision"),
        ({"class_counts": np.array([190, 100])}, "the largest class has 1.9 times the rows of the"),
        ({"groups": np.arange(1000) // 40}, "no significant gain"),
    ],
)
def test_else_the_label_is_the_most_probable_class(changed, reason):
    probs, y_true, fold = imbalanced()
    options = {"class_counts": COUNTS, **OPTIONS, **changed}
    fit = decision_rule.fit_decision(probs, y_true, fold, **options)
    assert fit.rule is MOST_PROBABLE
    assert f"The label is the most probable class: {reason}" in fit.describe()
    np.testing.assert_array_equal(fit.rule.labels(probs), probs.argmax(axis=1))


def test_of_classes_of_one_size_it_is_said_that_weighting_changes_nothing():
    probs, y_true, fold = together(rows(60, 40, rare_prob=0.4))
    fit = decision_rule.fit_decision(
        probs, y_true, fold, class_counts=np.array([100, 100]), **OPTIONS
    )
    assert fit.describe() == (
        "Weighting by rarity changes no score. The label is the most probable class: "
        "the largest class has 1.0 times the rows of the smallest."
    )


def test_a_gain_of_the_power_that_these_very_rows_chose_does_not_count():
    # the labels of two folds ask for opposite powers, so that each gets the one of the other
    likely, unlikely = rows(0, 60, rare_prob=0.4), rows(60, 0, rare_prob=0.4)
    probs, y_true, _ = together(likely, unlikely, rows(400, 40, rare_prob=0.1))
    fold = np.r_[np.zeros(60, int), np.ones(60, int), np.arange(440) % 2]
    fit = decision_rule.fit_decision(probs, y_true, fold, class_counts=COUNTS, **OPTIONS)
    held_out = np.zeros(560, int)
    held_out[60:120] = 1  # what fold 0 asks for, given to fold 1
    assert fit.cross_fitted.macro_f1_gain.value == pytest.approx(
        macro_f1(y_true, held_out) - macro_f1(y_true, np.zeros(560, int))
    )
    assert fit.gains["gain"]["power 0.25"] > 0.2
    assert fit.rule is MOST_PROBABLE


def test_equal_classes_weigh_the_same_to_the_last_digit():
    rng = np.random.default_rng(0)
    y_true = np.arange(300) % 3
    probs = rng.dirichlet(np.ones(3), 300)
    counts = np.array([100, 100, 100])
    fit = decision_rule.fit_decision(probs, y_true, y_true % 2, class_counts=counts, **OPTIONS)
    assert fit.gains["gain"].tolist() == [0] * 5
    assert fit.rule is MOST_PROBABLE
    assert DecisionRule.by_rarity(counts, power=1.0).is_most_probable
    assert not DecisionRule.by_rarity(COUNTS, power=0.25).is_most_probable
