import numpy as np
import pytest

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
    place, gap = metrics.calibration_gaps(probs, y)
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
        assert resampling.weighted_roc_auc(of, y, probs)[0] == pytest.approx(
            metrics.roc_auc(probs[often], repeated), abs=1e-6
        )
        error = np.abs(resampling.weighted_sums(of, place, n_places=15, values=gap)).sum() / w.sum()
        assert error == pytest.approx(
            metrics.expected_calibration_error(probs[often], repeated), abs=1e-6
        )


def test_auc_without_any_class_to_rank_is_not_a_number():
    y, probs = rows()
    assert np.isnan(resampling.weighted_roc_auc((y == 1)[None].astype(np.float32), y, probs)[0])


def test_rows_of_a_cell_are_alike_and_the_cells_give_the_rows_back():
    y, probs = rows()
    cell, (of_y, of_pred) = resampling.unique_cells(y, probs.argmax(axis=1))
    assert cell.max() + 1 == len(of_y) <= 16
    assert of_y[cell].tolist() == y.tolist()
    assert of_pred[cell].tolist() == probs.argmax(axis=1).tolist()


def test_cells_give_the_interval_that_rows_give():
    y, probs = rows()
    y_pred = probs.argmax(axis=1)
    cell, (of_y, of_pred) = resampling.unique_cells(y, y_pred)
    options = {"n_resamples": 300, "confidence": 0.9, "seed": 1}
    by_cell = resampling.bca_interval(
        lambda w: resampling.weighted_macro_f1(w, of_y, of_pred, n_classes=4)[:, None],
        resampling.draws(len(y), cell=cell),
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
    scipys = significance.bootstrap_interval(np.mean, values, n_resamples=20_000)
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


@pytest.mark.parametrize("arrays", [1, 2])
def test_groups_and_strata_reach_any_statistic(arrays):
    seen = []

    def statistic(y, *_):
        seen.append(y)
        return float(y.mean())

    y = np.repeat([0, 0, 0, 1, 1], 2)
    groups, given = np.repeat(["a", "b", "c", "d", "e"], 2), [y, y][:arrays]
    significance.bootstrap_interval(statistic, *given, groups=groups, strata=y, n_resamples=50)
    resamples = [each for each in seen if len(each) == 10]
    assert len(resamples) >= 50
    assert {tuple(np.bincount(each)) for each in resamples} == {(6, 4)}
    significance.bootstrap_interval(statistic, *given, groups=groups, n_resamples=50)
    assert len({each.sum() for each in seen}) > 3
    assert all(each.sum() % 2 == 0 for each in seen)  # groups come whole


def test_strata_keep_their_rows_in_every_resample():
    y = np.repeat([0, 1], [30, 10])
    found = resampling.resampled(
        lambda w: resampling.weighted_sums(w, y, n_places=2),
        resampling.draws(40, strata=y),
        n_resamples=40,
        seed=0,
    )
    assert np.unique(found, axis=0).tolist() == [[30, 10]]


def test_a_stratified_interval_is_scipys_of_several_samples():
    values = np.r_[
        np.random.default_rng(0).exponential(1, 60),
        50 + np.random.default_rng(1).exponential(1, 10),
    ]
    strata, options = (
        np.repeat([0, 1], [60, 10]),
        {"n_resamples": 20_000, "confidence": 0.95, "seed": 3},
    )
    scipys = significance.bootstrap_interval(np.mean, values, strata=strata, n_resamples=20_000)
    how = resampling.draws(70, strata=strata)
    _, low, high = (
        ends[0]
        for ends in resampling.bca_interval(
            lambda w: resampling.weighted_mean(w, values)[:, None], how, **options
        )
    )
    assert (low, high) == pytest.approx(
        (scipys.low, scipys.high), abs=0.02 * (scipys.high - scipys.low)
    )


def test_a_group_in_two_strata_and_a_single_group_are_refused():
    with pytest.raises(
        ValueError, match=r"a group must lie in one stratum; that of row \d lies in several"
    ):
        resampling.draws(4, groups=np.array([0, 0, 1, 1]), strata=np.array([0, 1, 1, 1]))
    with pytest.raises(ValueError, match="two rows or groups at least, found 1 in 4 rows"):
        resampling.draws(4, groups=np.zeros(4))
