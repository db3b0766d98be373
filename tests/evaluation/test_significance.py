import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.evaluation import metrics, resampling, significance

FEW = {"n_resamples": 200}


def blocks(*parts):
    """Return (y_true, first, second) from (n, true class, first's class, second's class)."""
    return tuple(np.concatenate([np.full(part[0], part[i]) for part in parts]) for i in (1, 2, 3))


WORSE_BETTER = blocks(
    (60, 0, 0, 0), (60, 1, 1, 1), (15, 0, 1, 0), (15, 1, 0, 1), (1, 0, 0, 1), (1, 1, 1, 0)
)


def mean_interval(values, *, n_resamples=120, confidence=0.95, seed=42):
    (interval,) = significance.intervals_of(
        lambda weights: resampling.weighted_mean(weights, values)[:, None],
        resampling.draws(len(values)),
        n_resamples=n_resamples,
        confidence=confidence,
        seed=seed,
    )
    return interval


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(7)
    found = [mean_interval(rng.normal(3, 2, 40), seed=draw) for draw in range(200)]
    assert 0.88 <= np.mean([interval.low <= 3 <= interval.high for interval in found]) <= 0.99


def test_a_narrower_confidence_covers_less():
    rng = np.random.default_rng(8)
    found = [mean_interval(rng.normal(0, 1, 40), confidence=0.6, seed=draw) for draw in range(100)]
    assert 0.45 <= np.mean([interval.low <= 0 <= interval.high for interval in found]) <= 0.75


def test_an_accuracy_interval_is_close_to_the_binomial_one():
    right = np.r_[np.ones(160, int), np.zeros(40, int)]
    found = mean_interval(right, n_resamples=2_000)
    assert (found.value, found.n, found.confidence) == (0.8, 200, 0.95)
    assert (found.low, found.high) == pytest.approx(
        tuple(stats.binomtest(160, 200).proportion_ci(method="wilson")), abs=0.012
    )


def test_the_interval_of_a_skewed_statistic_is_scipys_bca():
    values = np.random.default_rng(5).exponential(size=40)
    found = mean_interval(values, seed=3, n_resamples=300)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=300, method="BCa", rng=np.random.default_rng(3)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_all_right_gives_an_interval_of_one_value():
    assert str(mean_interval(np.ones(40))) == "1.000 [1.000, 1.000]"


def test_the_seed_decides_the_interval():
    values = np.random.default_rng(0).normal(size=50)
    first, again, other = (mean_interval(values, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.01, 0.02, "better"),
        (-0.02, -0.01, "worse"),
        (-0.01, 0.01, "inconclusive"),
        (0.0, 0.01, "inconclusive"),
        (-0.01, 0.0, "inconclusive"),
        (np.nan, np.nan, "inconclusive"),
    ],
)
def test_a_gain_whose_interval_excludes_0_has_a_verdict(low, high, verdict):
    assert significance.Interval(0.0, low, high, n=10).verdict == verdict


def test_an_interval_is_written_as_a_score_a_difference_or_a_share():
    interval = significance.Interval(0.1234, -0.05, 0.25, n=10)
    assert str(interval) == "0.123 [-0.050, 0.250]"
    assert interval.signed() == "+0.123 [-0.050, +0.250]"
    assert interval.signed(1) == "+0.1 [-0.1, +0.2]"
    assert interval.percent() == "12.3% [-5.0%, 25.0%]"


def test_students_interval_is_the_quantile_times_the_error_and_stays_within_its_bounds():
    found = significance.student_interval(0.4, 0.1, n_values=4, n=50, confidence=0.9)
    reach = stats.t.ppf(0.95, 3) * 0.1
    assert (found.value, found.n, found.confidence) == (0.4, 50, 0.9)
    assert (found.low, found.high) == pytest.approx((0.4 - reach, 0.4 + reach), rel=1e-12)
    bound = significance.student_interval(0.4, 9.0, n_values=4, n=50, bounds=(0, 1))
    assert (bound.low, bound.high) == (0, 1)


def scored(*sizes):
    y_true = np.repeat(np.arange(len(sizes)), sizes)
    noise = np.random.default_rng(4).dirichlet(np.ones(len(sizes)), len(y_true))
    return y_true, 0.6 * noise + 0.4 * np.eye(len(sizes))[y_true]


def test_metric_intervals_hold_the_values_of_classification_metrics():
    y_true, probs = scored(70, 30, 20)
    single, found = (
        metrics.classification_metrics(y_true, probs, class_names=list("abc")),
        significance.metric_intervals(y_true, probs, **FEW),
    )
    assert found.keys() == {
        name for name in single if name not in ("n", "classes", "ece")
    }  # chance adds to that error, more so in a resample
    for name, interval in found.items():
        assert interval.value == pytest.approx(single[name], abs=1e-9), name
        assert interval.low < interval.value < interval.high, name


def test_the_log_loss_is_that_of_classification_metrics_also_where_a_probability_is_zero():
    y_true, probs = scored(70, 30, 20)
    probs[0] = [0.0, 0.5, 0.5]
    single = metrics.classification_metrics(y_true, probs, class_names=list("abc"))["nll_loss"]
    assert significance.metric_intervals(y_true, probs, **FEW)["nll_loss"].value == pytest.approx(
        single
    )


def test_auc_has_an_interval_also_where_a_class_is_so_rare_that_resamples_miss_it():
    found = significance.metric_intervals(*scored(30, 30, 2), **FEW)["roc_auc"]
    assert found.low <= found.value <= found.high


def test_ranking_is_left_out_where_a_class_has_no_row_and_correlation_where_one_alone_has():
    y_true, probs = scored(70, 30, 20)
    some = significance.metric_intervals(y_true[y_true < 2], probs[y_true < 2], **FEW)
    assert not {"roc_auc", "average_precision"} & some.keys()
    assert "matthews_correlation" in some
    one = significance.metric_intervals(y_true[y_true < 1], probs[y_true < 1], **FEW)
    assert "matthews_correlation" not in one
    assert one["balanced_accuracy"].value == one["accuracy"].value


def test_average_precision_has_wilsons_interval_of_a_classs_groups():
    y, unit = np.array([0] * 10 + [1] * 10), np.arange(20) // 2
    low, high = significance.rare.average_precision_ends(
        y, np.array([1.0, 0.8]), unit, confidence=0.95
    )
    ends = [significance.share_interval(n_right, 5) for n_right in (5, 4)]
    assert low == pytest.approx(np.mean([end.low for end in ends]))
    assert high == pytest.approx(np.mean([end.high for end in ends]))


def test_class_f1_intervals_are_in_the_order_of_the_classes():
    y_true, y_pred = np.array([0] * 20 + [1] * 20), np.array([0] * 15 + [1] * 25)
    found = significance.class_f1_intervals(y_true, y_pred, n_classes=2, **FEW)
    assert [interval.value for interval in found] == pytest.approx([30 / 35, 40 / 45])
    assert all(interval.low < interval.value < interval.high for interval in found)


NONE_OF_POISSON = stats.chi2.ppf(0.975, 2) / 2  # the largest mean that none in a count allows


def test_rows_that_are_all_right_have_the_interval_of_as_many_groups():
    y, groups = (
        np.arange(40) % 4,
        np.arange(40) // 2 // 4 * 4 + np.arange(40) % 4,
    )  # pairs of near-copies: five groups a class
    found = significance.metric_intervals(y, np.eye(4)[y], groups=groups, **FEW)
    for name in ("accuracy", "macro_f1", "weighted_f1", "balanced_accuracy"):
        assert found[name].low == pytest.approx(1 - NONE_OF_POISSON / 20)
        assert found[name].high == 1
    correlation = found["matthews_correlation"]  # rises by 1 / (1 - 4 / 16) as accuracy does by 1
    assert (correlation.low, correlation.high) == pytest.approx((1 - NONE_OF_POISSON / 15, 1))
    wrong = significance.metric_intervals(y, np.eye(4)[(y + 1) % 4], groups=groups, **FEW)
    assert (wrong["accuracy"].value, wrong["accuracy"].low) == (0, 0)
    assert wrong["accuracy"].high == pytest.approx(NONE_OF_POISSON / 20)


def test_one_error_gives_accuracy_the_exact_interval_of_a_poisson_count():
    y = np.arange(600) % 5
    predicted = y.copy()
    predicted[0] = 1
    found = significance.metric_intervals(y, np.eye(5)[predicted], **FEW)["accuracy"]
    low, high = stats.chi2.ppf(0.025, 2) / 2, stats.chi2.ppf(0.975, 4) / 2
    assert (1 - found.high, 1 - found.low) == pytest.approx((low / 600, high / 600))


def test_a_class_of_few_rows_is_not_surer_than_they_are():
    y = np.array([0] * 100 + [1] * 100 + [2] * 4 + [3] * 4)
    predicted = np.where(y == 3, 0, y)
    predicted[:30] = 1
    found = significance.class_f1_intervals(y, predicted, n_classes=5, **FEW)
    assert [str(found[code]) for code in (2, 3, 4)] == [
        f"1.000 [{1 - NONE_OF_POISSON / 8:.3f}, 1.000]",  # all four right: a support of 8
        f"0.000 [0.000, {min(1, 2 * NONE_OF_POISSON / 4):.3f}]",  # never predicted: a support of 4
        "0.000 [0.000, 1.000]",  # neither a row nor a prediction
    ]
    assert all(0 < interval.low < interval.value < interval.high < 1 for interval in found[:2])


def test_a_rare_class_that_resamples_miss_has_no_bound():
    y = np.array([0] * 300 + [1])
    found = significance.class_f1_intervals(y, y, n_classes=2, **FEW)[1]
    assert (found.low, found.high) == (0, 1)


@pytest.mark.parametrize(("n_classes", "error"), [(150, 0.0012), (150, 0.008), (5, 0.008)])
def test_intervals_of_near_perfect_scores_hold(n_classes, error):
    """Of 600 rows, a bootstrap's hold the truth in half of the draws where less than one is
    wrong."""
    rng = np.random.default_rng(9)
    joint = np.full((n_classes, n_classes), error / (n_classes - 1))
    np.fill_diagonal(joint, 1 - error)
    true_f1 = np.mean(2 * np.diag(joint) / (joint.sum(axis=0) + joint.sum(axis=1)))
    held = []
    for _ in range(150):
        y = rng.integers(0, n_classes, 600)
        moved = (y + rng.integers(1, n_classes, 600)) % n_classes
        predicted = np.where(rng.random(600) < error, moved, y)
        ends = significance.intervals._score_ends(
            y, predicted, np.arange(600), n_classes=n_classes, confidence=0.95
        )
        for name, truth in (("accuracy", 1 - error), ("macro_f1", true_f1)):
            if name in ends:
                held.append(ends[name][0] <= truth <= ends[name][1])
    assert len(held) > 200
    assert np.mean(held) > 0.93


@pytest.mark.parametrize(("n", "n_positive", "area"), [(500, 10, 0.9), (300, 60, 0.998)])
def test_the_interval_of_auc_holds_with_few_positives_and_near_1(n, n_positive, area):
    """That of a bootstrap holds in 82 to 90 %."""
    rng = np.random.default_rng(10)
    y = (np.arange(n) < n_positive).astype(int)
    shift = np.sqrt(2) * stats.norm.ppf(area)
    held = []
    for _ in range(300):
        score = stats.norm.cdf(rng.normal(size=n) + shift * y)
        areas = metrics.class_aucs(np.c_[1 - score, score], y)
        low, high = significance.rare.auc_ends(y, areas, np.arange(n), confidence=0.95)
        held.append(low <= area <= high)
    assert np.mean(held) > 0.93


def test_an_auc_of_1_has_an_interval_as_wide_as_the_classes_are_small():
    y = np.repeat([0, 1], [90, 10])
    low, high = significance.rare.auc_ends(y, np.ones(2), np.arange(100), confidence=0.95)
    few, _ = significance.rare.auc_ends(y, np.ones(2), np.arange(100) // 5, confidence=0.95)
    assert high == 1
    assert 0.5 < few < low < 0.99


def test_gains_in_macro_f1_are_those_of_paired_tests():
    y_true, first, second = WORSE_BETTER
    same, gain = significance.macro_f1_gains(y_true, first, [first, second], n_classes=2, **FEW)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    paired = significance.paired_test(y_true, first, second, **FEW).macro_f1_gain
    assert (gain.value, gain.low, gain.high) == pytest.approx(
        (paired.value, paired.low, paired.high), abs=0.02
    )


def test_gains_of_classes_are_the_differences_of_their_f1():
    y_true, first, second = WORSE_BETTER
    gains = significance.class_f1_gains(y_true, first, second, n_classes=2, **FEW)
    f1 = [
        [each.value for each in significance.class_f1_intervals(y_true, y_pred, n_classes=2, **FEW)]
        for y_pred in (first, second)
    ]
    assert [gain.value for gain in gains] == pytest.approx(np.subtract(f1[1], f1[0]))
    assert all(0 < gain.low < gain.value < gain.high for gain in gains)
    wider = significance.class_f1_gains(
        y_true,
        first,
        second,
        n_classes=2,
        groups=np.arange(len(y_true)) // 12,
        confidence=0.99,
        **FEW,
    )
    assert all(a.low < b.low and b.high < a.high for a, b in zip(wider, gains))


def test_a_clear_gain_is_better_and_its_mirror_is_worse():
    y_true, first, second = WORSE_BETTER
    better, worse = (
        significance.paired_test(y_true, first, second, **FEW),
        significance.paired_test(y_true, second, first, **FEW),
    )
    assert (better.verdict, worse.verdict) == ("better", "worse")
    assert better.accuracy_gain.value == pytest.approx(28 / 152) == -worse.accuracy_gain.value
    assert better.macro_f1_gain.value == -worse.macro_f1_gain.value > 0
    assert better.disagreement == worse.disagreement == pytest.approx(32 / 152)


def test_p_is_the_exact_binomial_one():
    found = significance.paired_test(*WORSE_BETTER, **FEW)
    assert found.p_value == pytest.approx(stats.binomtest(30, 32, 0.5).pvalue, rel=1e-12)
    by_hand = 2 * (1 + 32 + 32 * 31 / 2) / 2**32
    assert found.p_value == pytest.approx(by_hand, rel=1e-12)


def test_a_small_gain_cannot_be_told():
    found = significance.paired_test(
        *blocks((90, 0, 0, 0), (90, 1, 1, 1), (5, 0, 1, 0), (3, 1, 1, 0)), **FEW
    )
    assert found.verdict == "inconclusive"
    assert found.p_value == pytest.approx(stats.binomtest(5, 8).pvalue)


def test_identical_predictions_cannot_be_told():
    y_true, first, _ = WORSE_BETTER
    found = significance.paired_test(y_true, first, first, **FEW)
    assert (found.p_value, found.verdict, found.disagreement, found.detectable) == (
        1.0,
        "inconclusive",
        0.0,
        0.0,
    )
    assert (found.accuracy_gain.low, found.accuracy_gain.high, found.macro_f1_gain.value) == (
        0,
        0,
        0,
    )


def test_two_models_that_err_alike_but_differently_cannot_be_told():
    y_true, first, second = blocks((100, 0, 0, 0), (20, 1, 2, 0), (50, 2, 2, 2))
    found = significance.paired_test(y_true, first, second, **FEW)
    assert (found.p_value, found.disagreement, found.verdict) == (1.0, 0.0, "inconclusive")


def test_more_accuracy_at_the_cost_of_a_small_class_is_not_better():
    found = significance.paired_test(*blocks((300, 0, 0, 0), (30, 0, 1, 0), (10, 1, 1, 0)), **FEW)
    assert found.p_value < 0.05
    assert found.accuracy_gain.low > 0
    assert found.verdict == "inconclusive"


def test_a_stricter_confidence_needs_more():
    arrays = blocks((90, 0, 0, 0), (90, 1, 1, 1), (10, 0, 1, 0), (1, 1, 1, 0))
    assert significance.paired_test(*arrays, **FEW).verdict == "better"
    assert significance.paired_test(*arrays, confidence=0.99, **FEW).verdict == "inconclusive"


def test_three_thousand_rows_show_gains_of_about_a_point():
    gains = [
        100 * significance.minimum_detectable_effect(3000, disagreement=share)
        for share in (0.02, 0.03, 0.04, 0.05, 0.06)
    ]
    assert gains == sorted(gains)
    assert (round(gains[0], 1), round(gains[-1], 2)) == (0.7, 1.25)


def test_the_smallest_gain_has_the_power_it_claims():
    n, disagreement = 2000, 0.1
    gain = significance.minimum_detectable_effect(n, disagreement=disagreement)
    rng = np.random.default_rng(3)
    won, _, lost = rng.multinomial(
        n, [(disagreement + gain) / 2, 1 - disagreement, (disagreement - gain) / 2], size=4000
    ).T
    assert np.mean((won - lost) / np.sqrt(won + lost) > stats.norm.ppf(0.975)) == pytest.approx(
        0.8, abs=0.02
    )


def test_the_smallest_gain_solves_connors_equation():
    gain = significance.minimum_detectable_effect(60, disagreement=0.3)
    assert gain * 60**0.5 == pytest.approx(
        1.959964 * 0.3**0.5 + 0.841621 * (0.3 - gain**2) ** 0.5, abs=1e-5
    )


def test_four_times_the_rows_show_about_half_the_gain():
    one, four = (
        significance.minimum_detectable_effect(n, disagreement=0.05) for n in (3000, 12000)
    )
    assert four == pytest.approx(one / 2, rel=0.01)


def test_no_gain_shows_beyond_the_disagreement():
    assert significance.minimum_detectable_effect(20, disagreement=0.02) == 0.02
    assert significance.minimum_detectable_effect(20, disagreement=0) == 0


@pytest.mark.parametrize(
    ("n", "disagreement"), [(0, 0.1), (10, -0.1), (10, 1.1), (10, float("nan"))]
)
def test_impossible_arguments_are_refused(n, disagreement):
    with pytest.raises(ValueError, match=f"got {disagreement} and {n}"):
        significance.minimum_detectable_effect(n, disagreement=disagreement)


def seeds_of_predictions(*shares, n=400):
    """Return true classes and, for each share, predictions that are right on that share of the rows
    of either class."""
    y = np.arange(n) % 2
    return y, np.stack([np.where(np.arange(n) < share * n, y, 1 - y) for share in shares])


def test_the_gain_over_seeds_is_the_mean_of_the_gains_and_its_interval_students():
    y, first = seeds_of_predictions(1.0, 1.0, 1.0)
    _, second = seeds_of_predictions(0.9, 0.8, 0.7)
    found = significance.gain_over_seeds(y, first, second, n_resamples=4_000)
    assert found.value == pytest.approx(-0.2)
    rows = np.mean(
        np.stack([second[i] == y for i in range(3)]), axis=0
    )  # of balanced, symmetric errors macro F1 is the accuracy
    reach = stats.t.ppf(0.975, 2) * np.sqrt(0.1**2 / 3 + rows.var() / len(y))
    assert found.high - found.value == pytest.approx(reach, rel=0.03)
    assert found.value - found.low == pytest.approx(reach, rel=0.03)
    assert found.n == 400


def test_rows_of_a_group_say_once_what_they_say_together():
    y, first = seeds_of_predictions(1.0, 1.0, 1.0)
    _, second = seeds_of_predictions(0.8, 0.8, 0.8)  # seeds agree: the rows alone leave doubt
    once = significance.gain_over_seeds(y, first, second)
    twice = [np.repeat(array, 2, axis=-1) for array in (y, first, second)]
    grouped = significance.gain_over_seeds(*twice, groups=np.repeat(np.arange(len(y)), 2))
    assert grouped.high - grouped.low == pytest.approx(once.high - once.low, rel=0.1)
    ungrouped = significance.gain_over_seeds(*twice)
    assert ungrouped.high - ungrouped.low == pytest.approx((once.high - once.low) / 2**0.5, rel=0.1)


def test_equal_predictions_gain_nothing_for_sure_and_a_gain_stays_within_its_range():
    y, first = seeds_of_predictions(0.9, 0.8)
    same = significance.gain_over_seeds(y, first, first)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    wild = significance.gain_over_seeds(
        y, *(seeds_of_predictions(*shares)[1] for shares in ((0.1, 0.9), (0.9, 0.1)))
    )
    assert (wild.low, wild.high) == (-1, 1)


def test_seldom_does_a_gain_show_between_equal_ways_of_training():
    rng, n, n_seeds = np.random.default_rng(0), 300, 3
    false = 0
    for _ in range(200):
        y, hard = rng.integers(0, 2, n), rng.random(n)  # rows are hard or easy for either way
        first, second = (
            np.where(
                rng.random((n_seeds, n)) < 0.6 + 0.3 * hard + rng.normal(0, 0.02, (n_seeds, 1)),
                y,
                1 - y,
            )
            for _ in range(2)
        )
        found = significance.gain_over_seeds(y, first, second, n_resamples=60)
        false += found.low > 0 or found.high < 0
    assert false <= 16  # 5 % of 200 is 10; more than 16 has a probability of 2 %


@pytest.mark.parametrize(
    "shapes", [((1, 4), (1, 4)), ((2, 4), (3, 4)), ((2, 5), (2, 5)), ((4,), (4,))]
)
def test_gains_over_seeds_want_two_seeds_of_the_same_rows(shapes):
    with pytest.raises(ValueError, match=r"must be of shape \(seeds, 4\) with at least two seeds"):
        significance.gain_over_seeds(np.zeros(4, int), *(np.zeros(shape, int) for shape in shapes))


def test_a_share_has_wilsons_interval():
    found = significance.share_interval(3, 10)
    z = 1.959964
    centre, reach = (
        (0.3 + z**2 / 20) / (1 + z**2 / 10),
        z * (0.3 * 0.7 / 10 + z**2 / 400) ** 0.5 / (1 + z**2 / 10),
    )
    assert (found.value, found.n) == (0.3, 10)
    assert (found.low, found.high) == pytest.approx((centre - reach, centre + reach), abs=1e-6)


def test_the_randomisation_test_of_macro_f1_is_scipys_permutation_test():
    y, first, second = blocks(
        (20, 0, 0, 0),
        (20, 1, 1, 1),
        (6, 0, 1, 0),
        (2, 1, 1, 0),
        (3, 2, 2, 1),
        (9, 2, 2, 2),
        (4, 2, 0, 2),
    )
    found = significance.paired_test(y, first, second, n_resamples=20_000).p_macro_f1
    gain = lambda a, b: metrics.macro_f1(y, b, n_classes=3) - metrics.macro_f1(y, a, n_classes=3)  # noqa: E731
    scipys = stats.permutation_test(
        (first, second),
        gain,
        permutation_type="samples",
        n_resamples=4_000,
        vectorized=False,
        rng=np.random.default_rng(1),
    )
    assert found == pytest.approx(scipys.pvalue, abs=0.03)
    assert 0.05 < found < 0.9


def test_a_gain_of_a_small_class_alone_does_not_pass_for_better():
    found = significance.paired_test(*blocks((300, 0, 0, 0), (30, 1, 0, 1), (25, 0, 0, 1)), **FEW)
    assert found.p_macro_f1 < 0.05 < found.p_value
    assert found.macro_f1_gain.low > 0
    assert found.verdict == "inconclusive"


def test_a_family_of_tests_is_corrected_by_holm_and_its_intervals_hold_together():
    y, first, second = WORSE_BETTER
    others = {
        "better": second,
        "same": first,
        "nearly": np.where(np.arange(len(y)) < 146, first, second),
    }
    table = significance.paired_tests(y, first, others, **FEW)
    assert list(table.index) == list(others)
    assert list(table) == ["macro_f1", "gain", "low", "high", "p", "p_holm", "verdict"]
    single = {
        name: significance.paired_test(y, first, each, confidence=1 - 0.05 / 3, **FEW)
        for name, each in others.items()
    }
    for name, each in single.items():
        assert table.loc[name, "p"] == max(each.p_value, each.p_macro_f1)
        assert (table.loc[name, "low"], table.loc[name, "high"]) == (
            each.macro_f1_gain.low,
            each.macro_f1_gain.high,
        )
    ordered = table["p"].sort_values()
    assert table.loc[ordered.index, "p_holm"].tolist() == pytest.approx(
        np.minimum(1, np.maximum.accumulate(ordered.to_numpy() * [3, 2, 1])).tolist()
    )
    assert table["verdict"].to_dict() == {
        "better": "better",
        "same": "inconclusive",
        "nearly": "inconclusive",
    }
    assert table.loc["better", "macro_f1"] == metrics.macro_f1(y, second)


def test_a_test_that_passes_alone_may_not_pass_among_many():
    arrays = blocks((90, 0, 0, 0), (90, 1, 1, 1), (10, 0, 1, 0), (1, 1, 1, 0))
    y, first, second = arrays
    alone = significance.paired_tests(y, first, {"second": second}, **FEW)
    many = significance.paired_tests(
        y, first, {"second": second} | {f"copy {i}": first for i in range(30)}, **FEW
    )
    assert alone.loc["second", "verdict"] == "better"
    assert many.loc["second", "p_holm"] == pytest.approx(min(1, 31 * many.loc["second", "p"]))
    assert many.loc["second", "verdict"] == "inconclusive"


def test_overlapping_folds_widen_the_interval_of_a_cross_validation():
    scores = np.array([0.80, 0.82, 0.84, 0.82, 0.82])
    found = significance.cross_validation_interval(scores, n_train=80, n_test=20, confidence=0.9)
    assert (found.value, found.n, found.confidence) == (pytest.approx(0.82), 100, 0.9)
    reach = stats.t.ppf(0.95, 4) * scores.std(ddof=1) * np.sqrt(1 / 5 + 20 / 80)
    assert (found.high - found.value, found.value - found.low) == pytest.approx((reach, reach))


@pytest.mark.parametrize(("scores", "n_train"), [([0.5], 80), ([0.5, 0.6], 0)])
def test_a_cross_validation_of_one_score_or_without_rows_has_no_interval(scores, n_train):
    with pytest.raises(
        ValueError, match=f"got {len(scores)} scores, n_train={n_train} and n_test=20"
    ):
        significance.cross_validation_interval(np.array(scores), n_train=n_train, n_test=20)


def test_the_smallest_gain_of_a_stricter_test_is_larger():
    usual, strict = (
        significance.paired_test(*WORSE_BETTER, confidence=confidence, **FEW).detectable
        for confidence in (0.95, 0.999)
    )
    assert usual < strict


def test_few_resamples_do_not_forbid_a_verdict_in_a_family():
    y, first, better = blocks((200, 0, 0, 0), (200, 1, 1, 1), (60, 0, 1, 0), (60, 1, 0, 1))
    found = significance.paired_tests(y, first, {f"{i}": better for i in range(8)}, n_resamples=100)
    assert set(found["verdict"]) == {"better"}


def paired(verdict="better", disagreement=0.05):
    return significance.PairedTest(
        accuracy_gain=significance.Interval(0.01, 0.004, 0.016, n=3_000),
        macro_f1_gain=significance.Interval(0.02, 0.013, 0.027, n=3_000),
        p_value=0.0123,
        p_macro_f1=0.0005,
        disagreement=disagreement,
        detectable=0.0114,
        verdict=verdict,
    )


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("better", "is better than"),
        ("worse", "is worse than"),
        ("inconclusive", "is not significantly different from"),
    ],
)
def test_a_paired_test_is_a_sentence(verdict, words):
    sentence = paired(verdict).describe("The ensemble", "the baseline")
    figures = (
        "macro F1 +0.0200 [+0.0130, +0.0270] (randomisation p = 0.0005), "
        "accuracy +0.0100 [+0.0040, +0.0160] (exact p = 0.012), n = 3,000"
    )
    would_show = "; a gain in accuracy of 0.0114 would show" if verdict == "inconclusive" else ""
    assert sentence == f"The ensemble {words} the baseline: {figures}{would_show}."


def test_models_that_never_disagree_have_no_gain_that_would_show():
    assert paired("inconclusive", disagreement=0.0).describe("a", "b").endswith("n = 3,000.")


def test_the_figures_of_a_paired_test_are_a_table():
    assert paired().table().to_dict() == {
        "gain in accuracy": "+0.0100 [+0.0040, +0.0160]",
        "gain in macro F1": "+0.0200 [+0.0130, +0.0270]",
        "exact p (accuracy)": "0.0123",
        "randomisation p (macro F1)": "0.0005",
        "rows where one alone is right": "5.0%",
        "minimum detectable effect (80 % power)": "0.0114",
    }


GAINS = pd.DataFrame(
    {
        "macro_f1": [0.8331, 0.8],
        "gain": [0.02, -0.001],
        "low": [0.013, -0.01],
        "high": [0.027, 0.009],
        "verdict": ["better", "inconclusive"],
    },
    index=["stacking", "soft"],
)


def test_a_row_of_a_family_of_tests_is_a_sentence():
    assert significance.describe_gain(GAINS.loc["stacking"], "TF-IDF", n=1_000) == (
        "stacking is better than TF-IDF: macro F1 0.833, +0.020 [+0.013, +0.027], n = 1,000."
    )


def test_all_rows_of_a_family_of_tests_are_one_sentence():
    assert significance.describe_gains(GAINS) == (
        "stacking +0.020 [+0.013, +0.027], better; soft -0.001 [-0.010, +0.009], inconclusive."
    )


def test_a_family_of_no_tests_is_an_empty_table():
    y, first, _ = WORSE_BETTER
    table = significance.paired_tests(y, first, {}, **FEW)
    assert table.empty
    assert list(table) == ["macro_f1", "gain", "low", "high", "p", "p_holm", "verdict"]


def test_an_interval_is_given_as_three_numbers():
    assert significance.Interval(0.2, 0.1, 0.4, n=9).with_ends == (0.2, 0.1, 0.4)


def grouped_draw(rng, sizes, *, accuracy=0.85, agreement=0.6):
    """Return (y_true, first, second, groups) of two equal models; rows of a group are copies."""
    n = len(sizes)
    groups = np.repeat(np.arange(n), sizes)
    y = rng.integers(0, 5, n)
    first, other = (
        np.where(rng.random(n) < accuracy, y, (y + rng.integers(1, 5, n)) % 5) for _ in range(2)
    )
    second = np.where(rng.random(n) < agreement, first, other)
    return y[groups], first[groups], second[groups], groups


def test_copies_do_not_make_two_equal_models_differ():
    """A test that takes rows for independent is below 0.05 in most draws."""
    rng = np.random.default_rng(11)
    tests = []
    for _ in range(60):
        *models, groups = grouped_draw(rng, np.full(100, 10))
        tests.append(significance.paired_test(*models, groups=groups, **FEW))
    assert np.mean([test.p_value < 0.05 for test in tests]) < 0.12
    assert np.mean([test.p_macro_f1 < 0.05 for test in tests]) < 0.12
    assert np.mean([test.verdict != "inconclusive" for test in tests]) < 0.12


def test_the_p_of_groups_is_that_of_all_their_swaps():
    gains = np.array([3, -1, 2, 0, 1])
    signs = np.array(list(itertools.product([-1, 1], repeat=len(gains))))
    as_large = np.abs(signs @ gains) >= abs(gains.sum())
    assert significance.paired.sign_flip_p(gains) == pytest.approx(as_large.mean())


def test_each_row_copied_tells_no_more_than_the_row():
    y_true, first, second = WORSE_BETTER
    single = significance.paired_test(y_true, first, second, **FEW)
    copies = [np.repeat(values, 4) for values in (y_true, first, second)]
    groups = np.repeat(np.arange(len(y_true)), 4)
    copied = significance.paired_test(*copies, groups=groups, **FEW)
    assert copied.p_value == pytest.approx(single.p_value)
    assert copied.p_macro_f1 == pytest.approx(single.p_macro_f1, abs=0.04)
    assert copied.detectable == pytest.approx(single.detectable)


def test_a_share_of_copies_has_the_interval_of_as_many_rows():
    found = np.arange(50) % 5 == 0
    copied = significance.grouped_share(np.repeat(found, 8), groups=np.repeat(np.arange(50), 8))
    exact = stats.binomtest(10, 50).proportion_ci(0.95, method="exact")
    assert copied.value == 0.2
    # Student's quantile in place of the normal one
    assert copied.low == pytest.approx(exact.low, abs=0.004)
    assert copied.high == pytest.approx(exact.high, abs=0.006)
    assert significance.grouped_share(found) == significance.share_interval(10, 50)
    all_found = significance.grouped_share(np.ones(40, bool), groups=np.arange(40) // 4)
    assert all_found.low < 0.75 and all_found.high == 1
