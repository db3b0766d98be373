import numpy as np
import pytest
from scipy import special

from lib.evaluation import calibration
from lib.evaluation.calibration import debiased_calibration_error
from lib.evaluation.metrics import expected_calibration_error
from lib.evaluation.significance import Interval


def drawn(n=20_000, *, sharpen=1.0, shift=(0.0, 0.0, 0.0), seed=0):
    """Probabilities whose logarithms are `sharpen` times those of the truth, shifted, and classes
    drawn from the truth."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (n, 3))
    y = (special.softmax(logits, axis=1).cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return special.softmax(logits * sharpen + np.array(shift), axis=1), y


@pytest.mark.parametrize("sharpen", [0.5, 1.0, 3.0])
def test_a_temperature_undoes_what_made_a_model_too_sure_or_not_sure_enough(sharpen):
    probs, y = drawn(sharpen=sharpen)
    found = calibration.fit_calibrator(probs, y, method="temperature")
    assert found.temperature == pytest.approx(sharpen, rel=0.05)
    assert expected_calibration_error(found(probs), y) < 0.015
    assert (found(probs).argmax(axis=1) == probs.argmax(axis=1)).all()
    np.testing.assert_allclose(found(probs).sum(axis=1), 1)


def test_a_vector_undoes_shifts_of_classes_that_a_temperature_cannot():
    probs, y = drawn(shift=(1.5, 0.0, -1.5))
    by = {
        method: calibration.fit_calibrator(probs, y, method=method)(probs)
        for method in ("none", "temperature", "vector")
    }
    np.testing.assert_allclose(by["none"], probs, atol=1e-12)
    losses = {method: -np.log(found[np.arange(len(y)), y]).mean() for method, found in by.items()}
    truth, _ = drawn()
    best = -np.log(truth[np.arange(len(y)), y]).mean()
    assert losses["vector"] == pytest.approx(best, abs=0.005)
    assert losses["temperature"] > best + 0.1
    assert losses["none"] >= losses["temperature"]


def test_probabilities_of_zero_are_survived():
    probs, y = (
        np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]] * 10),
        np.array([0, 1, 1, 1] * 10),
    )
    for method, expected in (
        ("temperature", [0.75, 0.25]),
        ("vector", [0.5, 0.0]),
    ):  # of the first class, in the first two rows
        found = calibration.fit_calibrator(probs, y, method=method)(probs)
        np.testing.assert_allclose(found[:2, 0], expected, atol=0.05)


def test_a_row_is_calibrated_by_the_other_folds_alone():
    probs, y = drawn(600)
    fold = np.arange(600) % 3
    found = calibration.out_of_fold(probs, y, fold, method="temperature")
    other = y.copy()
    other[fold == 1] = 0
    changed = calibration.out_of_fold(probs, other, fold, method="temperature")
    same = np.isclose(found, changed).all(axis=1)
    assert same[fold == 1].all()
    assert not same[fold != 1].any()


def test_bad_input_is_named():
    with pytest.raises(
        ValueError, match="method must be 'none', 'temperature' or 'vector', got 'isotonic'"
    ):
        calibration.fit_calibrator(np.eye(2), np.array([0, 1]), method="isotonic")
    with pytest.raises(ValueError, match=r"row 1 sums to 0.9"):
        calibration.fit_calibrator(
            np.array([[1.0, 0.0], [0.5, 0.4]]), np.array([0, 1]), method="temperature"
        )


def test_the_debiased_error_of_a_calibrated_model_is_near_0_where_the_plain_one_is_not():
    plain, debiased = [], []
    for seed in range(40):
        probs, y = drawn(300, seed=seed)
        plain.append(expected_calibration_error(probs, y))
        debiased.append(debiased_calibration_error(probs, y).value ** 2)
    assert np.mean(plain) > 0.04
    assert np.mean(debiased) < 0.0015


def test_the_debiased_error_finds_a_gap_that_is_there():
    rng = np.random.default_rng(0)
    probs = np.tile([0.9, 0.1], (5_000, 1))
    assert debiased_calibration_error(
        probs, (rng.random(5_000) < 0.3).astype(int)
    ).value == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("sharpen", [1.0, 1.3])
def test_the_interval_of_the_debiased_error_holds_the_true_one(sharpen):
    true = debiased_calibration_error(*drawn(400_000, sharpen=sharpen, seed=999)).value
    assert (true < 0.003) == (sharpen == 1.0)
    found = [
        debiased_calibration_error(*drawn(1_000, sharpen=sharpen, seed=seed)) for seed in range(300)
    ]
    held = np.mean(
        [each.low <= true + 0.003 * (sharpen == 1.0) and true <= each.high for each in found]
    )
    assert 0.92 <= held <= 0.98
    assert all(each.low <= each.value <= each.high and each.n == 1_000 for each in found)
    wider = debiased_calibration_error(*drawn(1_000, sharpen=sharpen), confidence=0.99)
    assert wider.high > found[0].high


def test_one_row_has_no_debiased_error():
    with pytest.raises(ValueError, match="needs 2 rows or more, got 1"):
        debiased_calibration_error(np.eye(2)[:1], np.array([0]))


def test_few_rows_that_are_all_right_do_not_settle_the_error():
    found = debiased_calibration_error(np.tile([0.9, 0.1], (20, 1)), np.zeros(20, dtype=int))
    assert found.low == 0
    assert 0 < found.value < 0.1 < found.high < 0.4


def test_rows_that_are_all_right_do_not_make_it_surer_than_a_bound():
    probs = np.tile([0.6, 0.4], (50, 1))
    calibrator = calibration.fit_calibrator(probs, np.zeros(50, dtype=int), method="temperature")
    assert np.exp(-3) <= calibrator.temperature < 0.07


def test_what_calibration_does_to_the_log_loss_is_a_sentence():
    calibrator = calibration.Calibrator(scale=np.full(2, 0.8), shift=np.zeros(2))
    before, after = Interval(0.5, 0.4, 0.6, n=1_500), Interval(0.45, 0.4, 0.5, n=1_500)
    assert calibration.describe_calibrator(
        calibrator, method="temperature", rows="validation", before=before, after=after
    ) == (
        "On 1,500 validation rows, the log loss with calibration by temperature (mean temperature "
        "1.25) is 0.450 [0.400, 0.500], without it 0.500 [0.400, 0.600]."
    )


def test_the_calibration_of_several_models_is_a_sentence():
    errors = {
        "calibration_error": Interval(0.02, 0, 0.04, n=9),
        "brier_loss": Interval(0.3, 0.2, 0.4, n=9),
    }
    assert calibration.describe_errors({"first": errors, "second": errors}) == (
        "first: calibration error 0.020 [0.000, 0.040], Brier 0.300 [0.200, 0.400]; "
        "second: calibration error 0.020 [0.000, 0.040], Brier 0.300 [0.200, 0.400]."
    )


def test_a_vector_that_gains_nothing_gives_way_to_a_temperature():
    losses = {"temperature": Interval(0.5, 0.4, 0.6, n=9), "vector": Interval(0.5, 0.4, 0.6, n=9)}
    assert calibration.supported_method("vector", losses) == "temperature"
    assert calibration.supported_method("none", losses) == "none"
    losses["vector"] = Interval(0.49, 0.4, 0.6, n=9)
    assert calibration.supported_method("vector", losses) == "vector"


@pytest.mark.parametrize("n", [300, 3_000])
def test_where_predictions_concentrate_the_interval_holds_the_error_of_its_bins(n):
    rng = np.random.default_rng(12)
    held = []
    for _ in range(200):
        confidence = np.clip(rng.beta(40, 1, n), 0.5, 1 - 1e-9)
        accuracy = confidence - 0.03 - 0.1 * (confidence > 0.99)
        y = (rng.random(n) >= accuracy).astype(int)
        found = debiased_calibration_error(np.c_[confidence, 1 - confidence], y)
        bins = np.array_split(np.argsort(confidence, kind="stable"), 15)
        gaps = [np.mean(confidence[rows] - accuracy[rows]) for rows in bins]
        true = np.sqrt(np.average(np.square(gaps), weights=[len(rows) for rows in bins]))
        held.append(found.low <= true <= found.high)
    assert np.mean(held) >= 0.93
