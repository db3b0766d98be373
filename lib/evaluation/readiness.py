"""Whether a classifier is good enough: its scores on the sealed test set against success bars."""

from __future__ import annotations

from collections.abc import Mapping

from lib.evaluation.evaluation import Evaluation
from lib.evaluation.significance import Interval

Bars = Mapping[str, tuple[float, float]]  # least accuracy and macro F1, by name
_COMPARED = {
    "better": "It is better than",
    "worse": "It is worse than",
    "inconclusive": "It is not significantly different from",
}


def describe(evaluation: Evaluation, bars: Bars, *, model: str = "ensemble") -> str:
    """Return in a few sentences whether a model is ready, and compared with the baseline.

    It is ready where the intervals of accuracy and macro F1 lie above the lowest bar.
    """
    intervals = evaluation.models[model].intervals
    bars = dict(sorted(bars.items(), key=lambda bar: bar[1]))
    scores = (
        f"on {evaluation.n_test:,} sealed test texts the {model} has accuracy "
        f"{intervals['accuracy']} and macro F1 {intervals['macro_f1']}."
    )
    compared = ""
    if evaluation.over_baseline:
        test = evaluation.over_baseline
        gain = test.macro_f1_gain.signed()
        compared = f" {_COMPARED[test.verdict]} the TF-IDF baseline (macro F1 {gain})."
    return f"{_state(intervals, bars)}: {scores}{compared}"


def reached(intervals: Mapping[str, Interval], bars: Bars, *, surely: bool) -> list[str]:
    """Return the names of the bars that both scores reach; surely: with their lower ends."""
    accuracy, macro_f1 = (
        interval.low if surely else interval.value
        for interval in (intervals["accuracy"], intervals["macro_f1"])
    )
    return [name for name, least in bars.items() if accuracy >= least[0] and macro_f1 >= least[1]]


def _state(intervals: Mapping[str, Interval], bars: Bars) -> str:
    sure = reached(intervals, bars, surely=True)
    perhaps = reached(intervals, bars, surely=False)
    lowest = next(iter(bars))
    asked = f"accuracy {bars[lowest][0]:.2f} and macro F1 {bars[lowest][1]:.2f}"
    if not perhaps:
        return f"Not ready, below the bar '{lowest}' ({asked})"
    if not sure:
        return f"Perhaps ready, not surely above the bar '{lowest}' ({asked})"
    state = f"Ready, above the bar '{sure[-1]}'"
    return state if sure[-1] == perhaps[-1] else f"{state} and perhaps '{perhaps[-1]}'"
