import numpy as np
import pytest
from sklearn import metrics as sk

from lib.evaluation import metrics

NAMES = ["a", "b", "c", "d"]


@pytest.fixture(params=[0, 1, 2])
def scored(request):
    """Return classes and probabilities with many ties, the classes unbalanced."""
    rng = np.random.default_rng(request.param)
    y_true = np.r_[np.arange(4), rng.choice(4, 196, p=[0.6, 0.25, 0.1, 0.05])]
    return y_true, (1 + rng.multinomial(12, [0.4, 0.3, 0.2, 0.1], 200)) / 16


def test_every_metric_equals_scikit_learn(scored):
    y_true, probs = scored
    y_pred, found = (
        probs.argmax(axis=1),
        metrics.classification_metrics(y_true, probs, class_names=NAMES),
    )
    assert found["n"] == 200
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(y_true, y_pred), abs=1e-12)
    assert found["macro_f1"] == pytest.approx(
        sk.f1_score(y_true, y_pred, average="macro"), abs=1e-12
    )
    assert found["weighted_f1"] == pytest.approx(
        sk.f1_score(y_true, y_pred, average="weighted"), abs=1e-12
    )
    assert found["roc_auc"] == pytest.approx(
        sk.roc_auc_score(y_true, probs, multi_class="ovr"), abs=1e-12
    )
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y_true, y_pred))
    assert found["matthews_correlation"] == pytest.approx(sk.matthews_corrcoef(y_true, y_pred))
    assert found["average_precision"] == pytest.approx(
        sk.average_precision_score(np.eye(4)[y_true], probs, average="macro")
    )
    assert found["nll_loss"] == pytest.approx(sk.log_loss(y_true, probs), abs=1e-12)
    for average, column in (
        ("precision", sk.precision_score),
        ("recall", sk.recall_score),
        ("f1", sk.f1_score),
    ):
        np.testing.assert_allclose(
            [found["classes"][name][average] for name in NAMES],
            column(y_true, y_pred, average=None, zero_division=0),
            atol=1e-12,
        )
    assert [found["classes"][name]["n"] for name in NAMES] == np.bincount(y_true).tolist()


def test_two_classes_have_scikit_learns_binary_auc():
    y_true, p = np.array([0, 1, 0, 1, 1]), np.array([0.1, 0.8, 0.4, 0.4, 0.9])
    assert metrics.roc_auc(np.c_[1 - p, p], y_true) == pytest.approx(sk.roc_auc_score(y_true, p))


def test_auc_by_hand():
    probs = np.array([[0.9, 0.1], [0.4, 0.6], [0.6, 0.4], [0.2, 0.8]])
    assert metrics.roc_auc(probs, np.array([0, 0, 1, 1])) == 0.75


def test_macro_f1_leaves_out_a_class_with_neither_row_nor_prediction():
    y_true, y_pred = np.array([0, 0, 2, 2]), np.array([0, 2, 2, 2])
    assert metrics.macro_f1(y_true, y_pred, n_classes=5) == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert metrics.class_f1(y_true, y_pred, n_classes=4) == pytest.approx([2 / 3, 0, 4 / 5, 0])


def test_macro_f1_counts_a_class_that_is_predicted_but_never_there():
    assert metrics.macro_f1(np.array([0, 0]), np.array([0, 1])) == pytest.approx((2 / 3 + 0) / 2)


def test_brier_loss_by_hand():
    assert metrics.brier_score_loss(
        np.array([[0.7, 0.2, 0.1], [0.0, 0.0, 1.0]]), np.array([0, 1])
    ) == pytest.approx((0.09 + 0.04 + 0.01 + 1 + 1) / 2)


def test_brier_loss_runs_from_0_to_2():
    certain = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert (
        metrics.brier_score_loss(certain, np.array([0, 1])),
        metrics.brier_score_loss(certain, np.array([1, 0])),
    ) == (0, 2)


def test_calibration_error_by_hand():
    probs = np.array([[0.95, 0.05], [0.05, 0.95], [0.7, 0.3]])
    assert metrics.expected_calibration_error(
        probs, np.array([0, 0, 0]), n_bins=10
    ) == pytest.approx((2 * abs(0.95 - 0.5) + 1 * abs(0.7 - 1)) / 3)


def test_gaps_cancel_within_a_bin_but_not_between_bins():
    probs, y_true = np.array([[0.95, 0.05], [0.65, 0.35]]), np.array([1, 0])
    assert metrics.expected_calibration_error(probs, y_true, n_bins=1) == pytest.approx(
        abs(0.95 + 0.65 - 1) / 2
    )
    assert metrics.expected_calibration_error(probs, y_true, n_bins=2) == pytest.approx(0.3)
    assert metrics.expected_calibration_error(probs, y_true, n_bins=10) == pytest.approx(
        (0.95 + 0.35) / 2
    )


def test_a_certainty_falls_into_the_last_bin():
    bins = metrics.reliability_bins(
        np.array([[1.0, 0.0], [0.97, 0.03], [0.3, 0.7]]), np.array([0, 1, 1]), n_bins=10
    )
    assert bins["n"].to_dict() == {7: 1, 9: 2}
    np.testing.assert_allclose(bins[["confidence", "accuracy"]], [[0.7, 1.0], [0.985, 0.5]])


def test_auc_is_none_where_a_class_has_no_row():
    found = metrics.classification_metrics(
        np.array([0, 1, 0]), np.full((3, 3), 1 / 3), class_names=["a", "b", "c"]
    )
    assert found["roc_auc"] is None
    assert found["classes"]["c"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "n": 0}


def test_what_a_class_without_a_row_leaves_undefined_is_none_and_never_0():
    probs = np.array([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7]])
    found = metrics.classification_metrics(np.array([0, 1, 0]), probs, class_names=["a", "b", "c"])
    assert found["balanced_accuracy"] == 0.75  # of a and b: one of two, and one of one
    assert found["average_precision"] is None
    assert metrics.class_average_precisions(probs, np.array([0, 1, 0])) == pytest.approx(
        [(1 + 2 / 3) / 2, 1, np.nan], nan_ok=True
    )
    one = metrics.classification_metrics(np.zeros(3, int), probs, class_names=["a", "b", "c"])
    assert one["matthews_correlation"] is None
    assert one["balanced_accuracy"] == 1 / 3


def test_matthews_correlation_by_hand():
    # of the four cells 2, 1, 1, 2: (2 * 2 - 1 * 1) / 9
    y_true, y_pred = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 0, 1, 1])
    assert metrics.matthews_correlation(y_true, y_pred) == pytest.approx(1 / 3)
    assert metrics.matthews_correlation(y_true, np.zeros(6, int)) == 0
    assert metrics.matthews_correlation(np.zeros(6, int), y_pred) is None


def test_rows_nearly_summing_to_1_are_made_to_sum_to_1():
    checked = metrics.checked_probs(np.array([[0.5, 0.5 + 5e-7]], dtype=np.float32), np.array([0]))
    assert checked.dtype == np.float64
    assert checked.sum() == 1


@pytest.mark.parametrize(
    ("probs", "y_true", "message"),
    [
        ([[0.5, 0.5], [0.5, 0.33]], [0, 1], r"probs rows must sum to 1; row 1 sums to 0\.83"),
        ([[0.5, 0.5], [0.5, 0.50001]], [0, 1], r"row 1 sums to 1\.00001"),
        ([[0.5, 0.5], [np.nan, 0.5]], [0, 1], "row 1 sums to nan"),
        ([[0.5, 0.5]], [0, 1], r"probs must have shape \(2, n_classes\), got \(1, 2\)"),
        ([0.5, 0.5], [0, 1], r"got \(2,\)"),
        ([[0.5, 0.5]], [2], r"y_true must be in 0\.\.1, found 2\.\.2"),
        ([[0.5, 0.5]], [-1], r"y_true must be in 0\.\.1, found -1\.\.-1"),
    ],
)
def test_an_error_names_the_argument_and_the_row(probs, y_true, message):
    probs, y_true = np.array(probs), np.array(y_true)
    for metric in (
        metrics.brier_score_loss,
        metrics.expected_calibration_error,
        metrics.reliability_bins,
    ):
        with pytest.raises(ValueError, match=message):
            metric(probs, y_true)
    with pytest.raises(ValueError, match=message):
        metrics.classification_metrics(y_true, probs, class_names=["a", "b"])


def test_bins_and_names_are_checked():
    probs, y_true = np.array([[0.5, 0.5]]), np.array([0])
    with pytest.raises(ValueError, match="n_bins must be at least 1, got 0"):
        metrics.expected_calibration_error(probs, y_true, n_bins=0)
    with pytest.raises(ValueError, match="probs has 2 columns, class_names 3"):
        metrics.classification_metrics(y_true, probs, class_names=["a", "b", "c"])


def test_a_negative_probability_is_named_though_its_row_sums_to_one():
    with pytest.raises(ValueError, match=r"probs must be 0\.\.1; row 1 has -0\.2"):
        metrics.checked_probs(np.array([[0.5, 0.5], [1.2, -0.2]]), np.array([0, 0]))


def test_a_rows_log_loss_is_that_of_its_class_and_finite():
    probs = np.array([[0.25, 0.75], [0.0, 1.0]])
    losses = metrics.row_log_losses(probs, np.array([1, 0]))
    assert losses == pytest.approx(-np.log([0.75, np.finfo(float).eps]))
    assert metrics.row_log_losses(probs, np.array([1, 0]), floor=1e-3)[1] == -np.log(1e-3)


def test_each_row_has_a_brier_loss():
    probs = np.array([[1.0, 0.0], [0.75, 0.25], [1.0, 0.0]])
    assert metrics.row_brier_losses(probs, np.array([0, 0, 1])).tolist() == [0.0, 0.125, 2.0]


def test_the_row_that_is_named_has_the_probability_that_is_named():
    probs = np.array([[0.5, 0.5], [1.1, -0.1], [1.4, -0.4]])
    with pytest.raises(ValueError, match=r"row 1 has -0.1$"):
        metrics.checked_probs(probs, np.array([0, 0, 0]))
