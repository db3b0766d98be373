import json

import numpy as np
import pandas as pd
import pytest

from lib import workspace
from lib.evaluation import calibration, evaluation, metrics, sealed, significance
from lib.evaluation.evaluation import Evaluation, ModelScores
from lib.evaluation.significance import Interval, PairedTest

CLASSES = ["bird", "fruit", "tool"]
HALF = Interval(0.5, 0.4, 0.6, 40)
GAIN = PairedTest(HALF, Interval(0.1, 0.05, 0.2, 40, 0.9), 0.01, 0.02, 0.25, 0.125, "better")
MODELS = {
    "baseline": ModelScores({"accuracy": 0.5, "macro_f1": 0.4}, {"accuracy": HALF}),
    "transformer": ModelScores({"accuracy": 0.5, "macro_f1": 0.6}, {"accuracy": HALF}),
}
WHOLE = Evaluation(
    40,
    CLASSES,
    MODELS,
    paired=GAIN,
    verdict="The transformer is better.",
    ensemble=GAIN,
    ensemble_verdict="The ensemble is better.",
    over_baseline=GAIN,
    fingerprints={"transformer": "abc"},
    warning="2 models have been measured",
)


def test_an_evaluation_is_the_same_after_saving_and_loading(tmp_path):
    WHOLE.save(tmp_path / "metrics.json")
    assert Evaluation.load(tmp_path / "metrics.json") == WHOLE


def test_the_file_has_the_keys_that_others_read(tmp_path):
    WHOLE.save(tmp_path / "metrics.json")
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content.keys() == {
        *("n_test", "class_names", "models", "paired", "verdict"),
        *("ensemble", "ensemble_verdict", "over_baseline", "fingerprints", "warning"),
    }
    interval = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 40, "confidence": 0.95}
    scores = {"accuracy": 0.5, "macro_f1": 0.6, "intervals": {"accuracy": interval}}
    assert content["models"]["transformer"] == scores
    assert content["paired"]["accuracy_gain"] == interval
    assert (content["paired"]["p_value"], content["paired"]["verdict"]) == (0.01, "better")


def test_what_an_earlier_version_did_not_measure_is_left_empty(tmp_path):
    interval = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 40, "confidence": 0.95}
    content = {
        "n_test": 40,
        "models": {"transformer": {"macro_f1": 0.9, "intervals": {"ece": interval}}},
        "paired": {"accuracy_gain": interval, "p_value": 0.5, "verdict": "cannot tell"},
        "verdict": "v",
        "something": "else",
    }
    workspace.write_json(content, tmp_path / "metrics.json")
    loaded = Evaluation.load(tmp_path / "metrics.json")
    scores = ModelScores({"macro_f1": 0.9}, {"ece": Interval(0.9, 0.8, 0.95, 40)})
    assert loaded == Evaluation(40, [], {"transformer": scores}, verdict="v")


def test_a_verdict_of_an_earlier_version_has_todays_word(tmp_path):
    WHOLE.save(tmp_path / "metrics.json")
    content = workspace.read_json(tmp_path / "metrics.json")
    content["paired"]["verdict"] = "cannot tell"
    workspace.write_json(content, tmp_path / "metrics.json")
    assert Evaluation.load(tmp_path / "metrics.json").paired.verdict == "inconclusive"


def test_numbers_of_numpy_are_saved(tmp_path):
    scores = ModelScores({"macro_f1": np.float64(0.5)}, {"macro_f1": HALF})
    Evaluation(np.int64(3), CLASSES, {"m": scores}).save(tmp_path / "metrics.json")
    loaded = Evaluation.load(tmp_path / "metrics.json")
    assert (loaded.n_test, loaded.models["m"].metrics, loaded.paired) == (
        3,
        {"macro_f1": 0.5},
        None,
    )


def test_an_evaluation_names_its_best_model_and_its_verdicts():
    assert WHOLE.best == "transformer"
    assert WHOLE.verdicts == ["The transformer is better.", "The ensemble is better."]
    assert Evaluation(40, CLASSES, MODELS, verdict="It is better.").verdicts == ["It is better."]


@pytest.fixture
def answers():
    rng = np.random.default_rng(0)
    y_true = np.arange(60) % 3
    probs = rng.dirichlet([1, 1, 1], 60) / 2 + np.eye(3)[y_true] / 2
    return y_true, probs


def test_a_model_is_scored_with_intervals_and_calibration_error(answers):
    y_true, probs = answers
    options = {"groups": np.arange(60) // 2, "n_resamples": 100, "confidence": 0.9, "seed": 3}
    scores = evaluation.score_model(y_true, probs, class_names=CLASSES, **options)
    expected = metrics.classification_metrics(y_true, probs, class_names=CLASSES)
    assert scores.metrics == expected
    error = scores.intervals.pop("calibration_error")
    assert error == calibration.debiased_calibration_error(probs, y_true, confidence=0.9)
    assert scores.intervals == significance.metric_intervals(y_true, probs, **options)


def test_a_model_is_scored_by_the_labels_it_gives(answers):
    y_true, probs = answers
    y_pred = np.r_[y_true[:45], (y_true[45:] + 1) % 3]
    assert metrics.accuracy(y_true, probs.argmax(axis=1)) != 0.75
    scores = evaluation.score_model(
        y_true, probs, y_pred=y_pred, class_names=CLASSES, n_resamples=100
    )
    plain = evaluation.score_model(y_true, probs, class_names=CLASSES, n_resamples=100)
    of_labels = {"accuracy": 0.75, "macro_f1": metrics.macro_f1(y_true, y_pred)}
    gap = np.abs(probs[np.arange(60), y_pred].mean() - 0.75)
    for name, expected in of_labels.items():
        assert scores.metrics[name] == pytest.approx(expected)
        assert scores.intervals[name].value == pytest.approx(expected)
    recall = {name: of_class["recall"] for name, of_class in scores.metrics["classes"].items()}
    assert recall == pytest.approx(dict(zip(CLASSES, [0.75] * 3)))
    assert scores.intervals["weighted_f1"].value == pytest.approx(scores.metrics["weighted_f1"])
    one_bin = metrics.expected_calibration_error(probs, y_true, y_pred=y_pred, n_bins=1)
    assert one_bin == pytest.approx(gap)
    for name in ("ece", "accuracy"):
        assert scores.metrics[name] != plain.metrics[name]
    assert scores.intervals["calibration_error"] != plain.intervals["calibration_error"]
    for name in ("brier_loss", "nll_loss", "roc_auc"):
        assert scores.intervals[name] == plain.intervals[name]


def test_scores_side_by_side():
    names = evaluation.SHOWN
    models = {
        "a": ModelScores({}, dict.fromkeys(names, HALF)),
        "b": ModelScores({}, dict.fromkeys(names, Interval(0.25, 0.2, 0.3, 40))),
    }
    text = evaluation.scores_table(models)
    assert text.loc["macro_f1"].to_dict() == {
        "a": "0.500 [0.400, 0.600]",
        "b": "0.250 [0.200, 0.300]",
    }
    table = evaluation.intervals_table(models)
    assert table.index.tolist() == [(title, name) for title in names.values() for name in "ab"]
    assert table.loc[("macro F1", "b"), ["value", "low", "high"]].tolist() == [0.25, 0.2, 0.3]


def test_classes_of_several_models_side_by_side():
    class_f1 = {
        name: [Interval(value + code / 8, 0.0, 1.0, 40) for code in range(3)]
        for name, value in (("a", 0.5), ("b", 0.25))
    }
    table = evaluation.class_f1_table(class_f1, CLASSES)
    assert table.index.tolist() == [(label, name) for label in CLASSES for name in "ab"]
    assert table["value"].tolist() == [0.5, 0.25, 0.625, 0.375, 0.75, 0.5]
    assert table.loc[("tool", "b"), ["low", "high"]].tolist() == [0, 1]


def test_of_many_classes_the_weakest_are_shown_in_the_order_of_the_names():
    names = [f"class {code:03}" for code in range(150)]
    class_f1 = {
        "a": [Interval((code * 7 % 150) / 150, 0.0, 1.0, 40) for code in range(150)],
        "b": [Interval((code * 7 % 150) / 150, 0.0, 1.0, 40) for code in range(150)],
    }
    table = evaluation.class_f1_table(class_f1, names)
    shown = [name for name in names if int(name[-3:]) * 7 % 150 < 30]
    assert table.index.tolist() == [(label, name) for label in shown for name in "ab"]
    assert evaluation.class_f1_title(names, n=3_000) == (
        "F1 of the 30 weakest of 150 classes (n = 3,000)"
    )
    assert evaluation.class_f1_title(CLASSES, n=3_000) == "F1 by class (n = 3,000)"


def test_any_string_is_a_class_of_the_tables_and_the_saved_evaluation(tmp_path, odd_names):
    k = len(odd_names)
    class_f1 = {"a": [Interval(code / k, 0.0, 1.0, 40) for code in range(k)]}
    table = evaluation.class_f1_table(class_f1, odd_names)
    assert table.index.tolist() == [(name, "a") for name in odd_names]
    assert table["value"].tolist() == [code / k for code in range(k)]
    probs = np.eye(k)
    scores = evaluation.score_model(np.arange(k), probs, class_names=odd_names, n_resamples=100)
    whole = Evaluation(k, odd_names, {"a": scores})
    whole.save(tmp_path / "metrics.json")
    assert Evaluation.load(tmp_path / "metrics.json") == whole
    y_pred = {"a": np.arange(k)[::-1]}
    saved = evaluation.probs_table(pd.Series(range(k)), {"a": probs}, y_pred, odd_names)
    workspace.write_table(saved, tmp_path / "probs.parquet")
    again = workspace.read_table(tmp_path / "probs.parquet")
    assert again.columns.tolist() == ["row_id", "a", *(f"a: {name}" for name in odd_names)]
    assert again["a"].tolist() == odd_names[::-1]
    assert again.iloc[:, 2:].to_numpy().tolist() == probs.tolist()


def test_the_best_score_in_words():
    scores = {
        "a": ModelScores({"macro_f1": 0.5}, {"macro_f1": HALF}),
        "b": ModelScores({"macro_f1": 0.25}, {"macro_f1": Interval(0.25, 0.2, 0.3, 40)}),
    }
    words = "The highest macro F1 is that of the a: 0.500 [0.400, 0.600], n = 40."
    assert evaluation.describe_scores(scores) == words
    assert evaluation.describe_scores(scores, "Beware.") == f"{words} Beware."


def test_several_evaluations_are_warned_of_with_wider_intervals(answers):
    y_true, probs = answers
    ledger = pd.DataFrame({"model": ["a", "b"]})
    options = {"n_resamples": 100, "seed": 3}
    y_pred = (y_true + (np.arange(60) < 15)) % 3
    models = {"m": probs}, {"m": y_pred}
    one = evaluation.corrected_warning(ledger[:1], y_true, *models, **options)
    assert one == ""
    two = evaluation.corrected_warning(ledger, y_true, *models, confidence=0.9, **options)
    options |= {"y_pred": y_pred, "confidence": 0.95}
    wider = significance.metric_intervals(y_true, probs, **options)["macro_f1"]
    assert wider.value == pytest.approx(metrics.macro_f1(y_true, y_pred))
    assert two == sealed.describe_corrected(ledger, {"m": wider}) != ""


def test_labels_and_probabilities_of_all_models_stand_side_by_side():
    probs = {"a": np.array([[0.75, 0.25], [0.5, 0.5]]), "b": np.array([[1.0, 0.0], [0.0, 1.0]])}
    y_pred = {"a": np.array([1, 0]), "b": np.array([0, 1])}
    table = evaluation.probs_table(pd.Series([7, 3]), probs, y_pred, ["x", "y"])
    assert table.columns.tolist() == ["row_id", "a", "b", "a: x", "a: y", "b: x", "b: y"]
    assert table.to_numpy().tolist() == [
        [7, "y", "x", 0.75, 0.25, 1, 0],
        [3, "x", "y", 0.5, 0.5, 0, 1],
    ]
