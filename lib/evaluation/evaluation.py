"""What was measured on the sealed test set: the content of metrics.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import workspace
from lib.evaluation import calibration, metrics, sealed, significance
from lib.evaluation.significance import Interval, PairedTest

SHOWN = {"accuracy": "accuracy", "macro_f1": "macro F1", "weighted_f1": "weighted F1"}
PAIRED = ("paired", "ensemble", "over_baseline")
MAX_CLASSES = 30  # whose F1 is drawn


@dataclass(frozen=True)
class ModelScores:
    """Scores of one model.

    Attributes
    ----------
    metrics : by name, as `classification_metrics` returns them
    intervals : by name of the metric, with the calibration error
    """

    metrics: dict[str, Any]
    intervals: dict[str, Interval]


@dataclass(frozen=True)
class Evaluation:
    """The models of a run on its sealed test set.

    Attributes
    ----------
    n_test : rows
    class_names : in the order of the columns of the probabilities
    models : scores by name of the model
    paired : the transformer against the TF-IDF baseline; None where it was not saved
    verdict : `paired` as a sentence
    ensemble : the ensemble against the best single model; None where it was not saved
    ensemble_verdict : `ensemble` as a sentence
    over_baseline : the ensemble against the TF-IDF baseline; None where it was not saved
    fingerprints : SHA-256 of what was measured, by name in workspace.FILES
    warning : "" while one model has been measured on this test set
    """

    n_test: int
    class_names: list[str]
    models: dict[str, ModelScores]
    paired: PairedTest | None = None
    verdict: str = ""
    ensemble: PairedTest | None = None
    ensemble_verdict: str = ""
    over_baseline: PairedTest | None = None
    fingerprints: dict[str, str | None] = field(default_factory=dict)
    warning: str = ""

    @property
    def best(self) -> str:
        """Return the name of the model with the highest macro F1."""
        return best_model(self.models)

    @property
    def verdicts(self) -> list[str]:
        """Return the sentences of the paired tests."""
        return [verdict for verdict in (self.verdict, self.ensemble_verdict) if verdict]

    def save(self, path: Path) -> None:
        """Write the evaluation as JSON, whole or not at all."""
        content = {name: value for name, value in asdict(self).items() if value is not None}
        for name, scores in content["models"].items():
            content["models"][name] = {**scores["metrics"], "intervals": scores["intervals"]}
        workspace.write_json(content, path)

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """Read what `save` wrote; what an earlier version did not measure is left empty."""
        content = workspace.read_json(path)
        names = {field.name for field in fields(cls)} & content.keys()
        values = {"class_names": [], **{name: content[name] for name in names}}
        models = content.get("models", {})
        values["models"] = {name: _scores(saved) for name, saved in models.items()}
        for name in PAIRED:
            values[name] = _paired_test(content.get(name, {}))
        return cls(**values)


def score_model(
    y_true: np.ndarray,
    probs: np.ndarray,
    *,
    class_names: list[str],
    y_pred: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    n_resamples: int = 2_000,
    confidence: float = 0.95,
    seed: int = 42,
) -> ModelScores:
    """Measure a model: every metric, and the intervals of those that have one.

    Parameters
    ----------
    y_true : ndarray of int of shape (n,), columns of `probs`
    probs : ndarray of shape (n, k), rows summing to 1, columns in `class_names` order
    y_pred : as `metrics.with_confidence` takes it
    groups : (n,) of anything; the bootstrap draws rows of a group together
    """
    intervals = significance.metric_intervals(
        y_true,
        probs,
        y_pred=y_pred,
        groups=groups,
        n_resamples=n_resamples,
        confidence=confidence,
        seed=seed,
    )
    intervals["calibration_error"] = calibration.debiased_calibration_error(
        probs, y_true, y_pred=y_pred, confidence=confidence
    )
    scores = metrics.classification_metrics(y_true, probs, class_names=class_names, y_pred=y_pred)
    return ModelScores(scores, intervals)


def best_model(models: Mapping[str, ModelScores]) -> str:
    """Return the name of the model with the highest macro F1."""
    return max(models, key=lambda name: models[name].metrics["macro_f1"])


def scores_table(models: Mapping[str, ModelScores]) -> pd.DataFrame:
    """Return the intervals as text: a row for each metric, a column for each model."""
    return pd.DataFrame({name: scores.intervals for name, scores in models.items()}).map(str)


def intervals_table(models: Mapping[str, ModelScores]) -> pd.DataFrame:
    """Return the main scores to draw: `value`, `low`, `high` by (metric, model)."""
    rows = {
        (title, name): vars(scores.intervals[metric])
        for metric, title in SHOWN.items()
        for name, scores in models.items()
    }
    return pd.DataFrame(rows).T.astype(float)


def describe_scores(models: Mapping[str, ModelScores], warning: str = "") -> str:
    """Return the highest macro F1 with its interval as a sentence, then the warning."""
    best = best_model(models)
    macro_f1 = models[best].intervals["macro_f1"]
    sentence = f"The highest macro F1 is that of the {best}: {macro_f1}, n = {macro_f1.n:,}."
    return f"{sentence} {warning}".strip()


def corrected_warning(
    ledger: pd.DataFrame,
    y_true: np.ndarray,
    probs: Mapping[str, np.ndarray],
    y_pred: Mapping[str, np.ndarray],
    *,
    confidence: float = 0.95,
    **options: Any,
) -> str:
    """Return the warning of several evaluations, with intervals that hold for all; "" of one.

    Parameters
    ----------
    ledger : of the sealed test set
    y_true : ndarray of int of shape (n,)
    probs : by model, ndarrays of shape (n, k)
    y_pred : by model, the labels given, ndarrays of int of shape (n,)
    confidence : of one interval at the first evaluation, 0..1
    options : of `metric_intervals`
    """
    warning, corrected = sealed.caution(ledger, confidence=confidence)
    if not warning:
        return ""
    macro_f1 = {}
    for name, of_model in probs.items():
        intervals = significance.metric_intervals(
            y_true, of_model, y_pred=y_pred[name], confidence=corrected, **options
        )
        macro_f1[name] = intervals["macro_f1"]
    return sealed.describe_corrected(ledger, macro_f1)


def class_f1_table(
    class_f1: Mapping[str, Sequence[Interval]], class_names: Sequence[str]
) -> pd.DataFrame:
    """Return the F1 of each class to draw: `value`, `low`, `high` by (class, model).

    Of more than `MAX_CLASSES` classes it is those with the lowest mean over the models.

    Parameters
    ----------
    class_f1 : intervals by model, in the order of `class_names`
    """
    values = [[interval.value for interval in of_model] for of_model in class_f1.values()]
    weakest = np.argsort(np.mean(values, axis=0), kind="stable")[:MAX_CLASSES]
    rows = {
        (class_names[code], name): vars(class_f1[name][code])
        for code in sorted(weakest)
        for name in class_f1
    }
    return pd.DataFrame(rows).T.astype(float)


def class_f1_title(class_names: Sequence[str], *, n: int) -> str:
    """Return the title of a figure of `class_f1_table`; `n` is the number of test texts."""
    if len(class_names) <= MAX_CLASSES:
        return f"F1 by class (n = {n:,})"
    return f"F1 of the {MAX_CLASSES} weakest of {len(class_names):,} classes (n = {n:,})"


def probs_table(
    row_ids: pd.Series,
    probs: Mapping[str, np.ndarray],
    y_pred: Mapping[str, np.ndarray],
    class_names: Sequence[str],
) -> pd.DataFrame:
    """Return what all models say: `row_id`, and for each a column "<model>", the label it gives.

    Its probabilities follow, a column "<model>: <class>" for each class.

    Parameters
    ----------
    probs : by model, ndarrays of shape (n, k), columns in `class_names` order
    y_pred : by model, ndarrays of int of shape (n,)
    """
    names = np.asarray(class_names, dtype=object)
    labels = {name: names[of_model] for name, of_model in y_pred.items()}
    columns = {
        f"{name}: {label}": of_model[:, code]
        for name, of_model in probs.items()
        for code, label in enumerate(class_names)
    }
    return pd.DataFrame({"row_id": row_ids, **labels, **columns})


def model_probs(table: pd.DataFrame, model: str, class_names: Sequence[str]) -> np.ndarray:
    """Return the probabilities of a model in a `probs_table`: ndarray of shape (n, k)."""
    return table[[f"{model}: {label}" for label in class_names]].to_numpy()


def _scores(saved: dict[str, Any]) -> ModelScores:
    intervals = {metric: Interval(**ends) for metric, ends in saved["intervals"].items()}
    numbers = {metric: value for metric, value in saved.items() if metric != "intervals"}
    return ModelScores(numbers, intervals)


def _paired_test(saved: Mapping[str, Any]) -> PairedTest | None:
    """Return a saved test; None where an earlier version saved none, or less of it."""
    names = [field.name for field in fields(PairedTest)]
    if not saved.keys() >= set(names):
        return None
    values = {name: saved[name] for name in names}
    for gain in ("accuracy_gain", "macro_f1_gain"):
        values[gain] = Interval(**values[gain])
    if values["verdict"] == "cannot tell":  # the word of earlier versions
        values["verdict"] = "inconclusive"
    return PairedTest(**values)
