import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from lib.robustness.separation import separation


def scikit(inside, outside):
    y = np.repeat([0, 1], [len(inside), len(outside)])
    values = np.concatenate([inside, outside])
    fpr, tpr, _ = roc_curve(y, values, drop_intermediate=False)
    at = np.flatnonzero(tpr >= 0.95)[0]
    return roc_auc_score(y, values), average_precision_score(y, values), fpr[at]


@pytest.mark.parametrize("digits", [0, 1, 9])  # with many ties, some, and none
def test_the_measures_are_scikit_learns(digits):
    rng = np.random.default_rng(digits)
    inside = rng.normal(size=150).round(digits)
    outside = rng.normal(1, size=60).round(digits)
    found = separation(inside, outside, n_resamples=100)
    values = [interval.value for interval in found.values()]
    np.testing.assert_allclose(values, scikit(inside, outside), rtol=1e-6)
    for interval in found.values():
        assert interval.low < interval.value < interval.high
        assert interval.n == 210


def test_the_intervals_hold_in_most_samples():
    """Of normal values one apart the AUROC is 0.760."""
    rng = np.random.default_rng(0)
    n_held = 0
    for _ in range(100):
        found = separation(rng.normal(size=60), rng.normal(1, size=30), n_resamples=50)
        n_held += found["auroc"].low <= 0.760 <= found["auroc"].high
    assert n_held >= 90


def test_a_perfect_score_is_not_held_for_certain():
    found = separation(np.arange(40.0), np.arange(50.0, 60.0), n_resamples=100)
    assert [interval.value for interval in found.values()] == [1, 1, 0]
    assert 0.8 < found["auroc"].low < 1
    assert found["fpr95"].high == pytest.approx(0.0876, abs=1e-4)  # Wilson of 0 in 40
    assert found["aupr"].low == pytest.approx(10 / (10 + 0.0876 * 40), abs=1e-4)
