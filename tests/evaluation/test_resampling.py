import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import recall_score

from lib.evaluation import metrics, resampling, significance


def rows(n=300, k=4, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    probs = (
        rng.dirichlet(np.ones(k), n) * 0.5
        + 0.5 * np.eye(k)[np.where(rng.random(n) < 0.7, y, rng.integers(0, k, n))]
    )
    return y, np.round(probs, 1) / np.round(probs, 1).sum(
        axis=1, keepdims=True
    )  # rounded: with ties


@pytest.mark.parametrize("seed", range(5))
def test_a_row_of_weight_three_counts_as_three_rows(seed):
    y, probs = rows(seed=seed)
    y_pred, weights = (
        probs.argmax(axis=1),
        np.random.default_rng(seed).integers(0, 4, (2, len(y))).astype(np.float32),
    )
    weights[1, (y == 2) | (y_pred == 2)] = 0  # a class without a row or prediction
    bins = np.minimum((probs.max(axis=1) * 15).astype(int), 14)
    gap = probs.max(axis=1) - (y_pred == y)
    for w in weights:
        often = np.repeat(np.arange(len(y)), w.astype(int))
        of = w[None]
        repeated, predicted = y[often], y_pred[often]
        assert resampling.weighted_mean(of, y_pred == y)[0] == pytest.approx(
            metrics.accuracy(repeated, predicted)
        )
        assert resampling.weighted_macro_f1(of, y, y_pred, n_classes=4)[0] == pytest.approx(
            metrics.macro_f1(repeated, predicted, n_classes=4)
        )
        assert resampling.weighted_class_f1(of, y, y_pred, n_classes=4)[0][0] == pytest.approx(
            metrics.class_f1(repeated, predicted, n_classes=4)
        )
        balanced = resampling.weighted_balanced_accuracy(of, y, y_pred, n_classes=4)[0]
        assert balanced == pytest.approx(
            recall_score(repeated, predicted, labels=np.unique(repeated), average="macro")
        )
        assert resampling.weighted_matthews(of, y, y_pred, n_classes=4)[0] == pytest.approx(
            metrics.matthews_correlation(repeated, predicted)
        )
        error = np.abs(resampling.weighted_sums(of, bins, n_codes=15, values=gap)).sum() / w.sum()
        assert error == pytest.approx(
            metrics.expected_calibration_error(probs[often], repeated), abs=1e-6
        )


def test_a_correlation_with_a_single_class_is_undefined_and_with_a_single_prediction_0():
    y, y_pred = np.array([0, 0, 1]), np.array([0, 1, 1])
    weights = np.array([[1.0, 1, 0], [1, 0, 1], [0, 1, 1]])
    found = resampling.weighted_matthews(weights, y, y_pred, n_classes=2)
    assert found == pytest.approx([np.nan, 1, 0], nan_ok=True)


def test_rows_of_a_cell_are_alike_and_the_cells_give_the_rows_back():
    y, probs = rows()
    plan, (of_y, of_pred) = resampling.cell_draws(y, probs.argmax(axis=1))
    assert plan.n_cells == len(of_y) <= 16
    assert of_y[plan.cell].tolist() == y.tolist()
    assert of_pred[plan.cell].tolist() == probs.argmax(axis=1).tolist()


def test_cells_give_the_interval_that_rows_give():
    y, probs = rows()
    y_pred = probs.argmax(axis=1)
    plan, (of_y, of_pred) = resampling.cell_draws(y, y_pred)
    options = {"n_resamples": 300, "confidence": 0.9, "seed": 1}
    by_cell = resampling.bca_interval(
        lambda w: resampling.weighted_macro_f1(w, of_y, of_pred, n_classes=4)[:, None],
        plan,
        **options,
    )
    by_row = resampling.bca_interval(
        lambda w: resampling.weighted_macro_f1(w, y, y_pred, n_classes=4)[:, None],
        resampling.draws(len(y)),
        **options,
    )
    assert np.ravel(by_cell) == pytest.approx(np.ravel(by_row), abs=1e-9)


def test_the_ends_are_those_of_scipy_but_for_the_draw():
    values = np.random.default_rng(5).exponential(size=60)  # skewed: bias and acceleration matter
    options = {"n_resamples": 20_000, "confidence": 0.95, "seed": 3}
    _, low, high = (
        ends[0]
        for ends in resampling.bca_interval(
            lambda w: resampling.weighted_mean(w, values)[:, None], resampling.draws(60), **options
        )
    )
    scipys = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(42)
    ).confidence_interval
    plain = np.quantile(
        resampling.resampled(
            lambda w: resampling.weighted_mean(w, values),
            resampling.draws(60),
            n_resamples=20_000,
            seed=3,
        ),
        [0.025, 0.975],
    )
    width = scipys.high - scipys.low
    assert (low, high) == pytest.approx((scipys.low, scipys.high), abs=0.02 * width)
    assert abs(plain[1] - scipys.high) > 0.03 * width


def test_many_rows_are_left_out_in_parts_with_nearly_the_same_ends(monkeypatch):
    values = np.random.default_rng(6).exponential(size=900)
    options = {"n_resamples": 2_000, "confidence": 0.95, "seed": 3}
    found = []
    for most in (1_000, 100):
        monkeypatch.setattr(resampling, "MAX_JACKKNIFE", most)
        found.append(
            np.ravel(
                resampling.bca_interval(
                    lambda w: resampling.weighted_mean(w, values)[:, None],
                    resampling.draws(900),
                    **options,
                )
            )
        )
    assert found[0] != pytest.approx(found[1], abs=1e-12)
    assert found[0] == pytest.approx(found[1], abs=0.1 * (found[0][2] - found[0][1]))


def test_pairs_of_equal_rows_in_one_group_are_as_uncertain_as_one_row_each():
    y, probs = rows(n=100)
    y_pred = probs.argmax(axis=1)
    alone = significance.class_f1_intervals(y, y_pred, n_classes=4, n_resamples=300)
    twice, groups = np.repeat(y, 2), np.repeat(np.arange(100), 2)
    grouped = significance.class_f1_intervals(
        twice, np.repeat(y_pred, 2), n_classes=4, n_resamples=300, groups=groups
    )
    blind = significance.class_f1_intervals(
        twice, np.repeat(y_pred, 2), n_classes=4, n_resamples=300
    )
    for one, both, wrong in zip(alone, grouped, blind):
        assert (both.low, both.high) == pytest.approx((one.low, one.high), abs=0.01)
        assert wrong.high - wrong.low < 0.85 * (both.high - both.low)


def test_groups_come_whole():
    groups = np.repeat(["a", "b", "c"], [1, 2, 3])
    counts = resampling.resampled(
        lambda weights: weights, resampling.draws(6, groups=groups), n_resamples=40, seed=0
    )
    a, b, c = counts[:, 0], counts[:, 1], counts[:, 3]
    assert (counts == np.stack([a, b, b, c, c, c], axis=1)).all()
    assert (a + b + c == 3).all()
    assert len(np.unique(counts, axis=0)) > 3


def test_several_predictions_are_scored_at_once():
    y, probs = rows()
    weights = np.random.default_rng(0).integers(0, 4, (2, len(y))).astype(np.float32)
    y_pred = probs.argmax(axis=1)
    scores = resampling.stacked_macro_f1(weights, y, [y, y_pred], n_classes=4)
    assert scores[:, 0].tolist() == [1, 1]
    alone = resampling.weighted_macro_f1(weights, y, y_pred, n_classes=4)
    assert scores[:, 1].tolist() == alone.tolist()


def test_a_mean_of_no_weight_is_not_a_number():
    assert np.isnan(resampling.weighted_mean(np.zeros((1, 2)), np.ones(2)))


@pytest.mark.parametrize(
    ("n", "groups", "n_units"), [(4, np.zeros(4), 1), (1, None, 1), (0, None, 0)]
)
def test_a_single_row_or_group_is_refused(n, groups, n_units):
    with pytest.raises(ValueError, match=f"at least two rows or groups, found {n_units} in {n}"):
        resampling.draws(n, groups=groups)
