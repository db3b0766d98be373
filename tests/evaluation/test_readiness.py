import pytest

from lib.config import EvaluationConfig
from lib.evaluation import readiness
from lib.evaluation.evaluation import Evaluation, ModelScores
from lib.evaluation.significance import Interval, PairedTest

BARS = EvaluationConfig().success_bars


def scores(value, low):
    interval = Interval(value, low, min(1.0, 2 * value - low), n=3_000)
    return {"accuracy": interval, "macro_f1": interval}


@pytest.mark.parametrize(
    ("value", "low", "state"),
    [
        (0.86, 0.85, "Not ready, below the bar 'accept' (accuracy 0.88 and macro F1 0.87): "),
        (0.89, 0.87, "Perhaps ready, not surely above the bar 'accept' (accuracy 0.88 and"),
        (0.89, 0.88, "Ready, above the bar 'accept': on 3,000 sealed test texts the ensemble has "),
        (0.92, 0.90, "Ready, above the bar 'accept' and perhaps 'target': "),
        (0.95, 0.94, "Ready, above the bar 'stretch': "),
    ],
)
def test_a_classifier_is_ready_where_both_intervals_lie_above_the_lowest_bar(value, low, state):
    evaluation = Evaluation(3_000, ["a"], {"ensemble": ModelScores({}, scores(value, low))})
    assert readiness.describe(evaluation, BARS).startswith(state)


def test_bars_count_by_their_height_in_whatever_order_they_are_written():
    evaluation = Evaluation(3_000, ["a"], {"ensemble": ModelScores({}, scores(0.92, 0.90))})
    written = dict(reversed(BARS.items()))
    assert readiness.describe(evaluation, written) == readiness.describe(evaluation, BARS)


def test_both_scores_count():
    intervals = scores(0.95, 0.94) | {"macro_f1": Interval(0.5, 0.4, 0.6, n=3_000)}
    assert readiness.reached(intervals, BARS, surely=False) == []
    assert readiness.reached(scores(0.92, 0.90), BARS, surely=False) == ["accept", "target"]
    assert readiness.reached(scores(0.92, 0.90), BARS, surely=True) == ["accept"]


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("better", "It is better than the TF-IDF baseline (macro F1 +0.020 [+0.010, +0.030])."),
        ("inconclusive", "It is not significantly different from the TF-IDF baseline"),
        ("worse", "It is worse than the TF-IDF baseline"),
    ],
)
def test_it_is_compared_with_the_baseline(verdict, words):
    gain = Interval(0.02, 0.01, 0.03, n=3_000)
    test = PairedTest(gain, gain, 0.01, 0.01, 0.1, 0.016, verdict)
    evaluation = Evaluation(
        3_000, ["a"], {"ensemble": ModelScores({}, scores(0.9, 0.89))}, over_baseline=test
    )
    assert words in readiness.describe(evaluation, BARS)
