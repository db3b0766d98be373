"""Two finished runs side by side, on the same sealed test set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import provenance, workspace
from lib.config import closest
from lib.delivery import pages
from lib.errors import WorkbookError
from lib.evaluation import sealed, significance
from lib.evaluation.evaluation import Evaluation, model_probs
from lib.workspace import FILES, Workspace

WHY = "comparison"  # how a reading of the labels that is made here begins in the ledger
EVALUATED = ("metrics.json", "test_probs.parquet")
NOTEBOOK = FILES["metrics.json"][1]


@dataclass(frozen=True)
class Predictions:
    """What one model predicts for its sealed test set.

    Attributes
    ----------
    name : shown in errors, for instance "run 'base'"
    model : as the columns of `probs` name it
    class_names : its classes, in order
    probs : as `evaluation.probs_table` makes it; without labels where an earlier version wrote it
    test_set : SHA-256 of the sealed test set
    """

    name: str
    model: str
    class_names: list[str]
    probs: pd.DataFrame
    test_set: str

    def classes(self, test: pd.DataFrame) -> np.ndarray:
        """Return the predicted classes of the test rows: ndarray of int of shape (n,).

        Raises
        ------
        WorkbookError : the probabilities are of other rows.
        """
        if self.probs["row_id"].tolist() != test["row_id"].tolist():
            raise WorkbookError(
                f"the probabilities of {self.name} are of other rows than the sealed test set's: "
                "evaluate it again with notebook 07"
            )
        if self.model in self.probs:
            return _codes(self.probs[self.model], self.class_names)
        return model_probs(self.probs, self.model, self.class_names).argmax(axis=1)


@dataclass(frozen=True)
class EvaluatedRun:
    """What a finished run left of its evaluation.

    Attributes
    ----------
    record : run.json
    evaluation : metrics.json
    probs : test_probs.parquet
    test_set : SHA-256 of the sealed test set
    model_id : fingerprint of what was evaluated, as the ledger of the test set has it
    """

    ws: Workspace
    record: dict[str, Any]
    evaluation: Evaluation
    probs: pd.DataFrame
    test_set: str
    model_id: str

    @property
    def trained_with(self) -> dict[str, Any]:
        """Return the settings of the run's training; a later call may have had others."""
        training = self.record["steps"].get(FILES["transformer"][1], {})
        return {**self.record["settings"], **training.get("settings", {})}

    @property
    def column(self) -> str:
        """Return the heading of what a table says of this run."""
        return f"run {self.ws.run}"

    @property
    def predictions(self) -> Predictions:
        """Return the predictions of the best model."""
        classes = self.evaluation.class_names
        name = f"run {self.ws.run!r}"
        return Predictions(name, self.evaluation.best, classes, self.probs, self.test_set)


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same rows.

    Attributes
    ----------
    scores : DataFrame of `run`, `model`, `macro F1`, `accuracy`: values with intervals, as text
    classes : DataFrame of `class` and its F1 in each run, as text; the largest loss first
    answers : DataFrame of which run is `right`, and the number of `texts`
    settings : DataFrame of `setting`, and the value in each run; only what differs
    paired : the second run's best model against the first's
    verdict : `paired` as a sentence
    warning : "" while few models have been measured on this test set
    """

    scores: pd.DataFrame
    classes: pd.DataFrame
    answers: pd.DataFrame
    settings: pd.DataFrame
    paired: significance.PairedTest
    verdict: str
    warning: str


def evaluated_run(run_name: str) -> EvaluatedRun:
    """Read what a finished run left.

    Raises
    ------
    WorkbookError : no such run (the closest is named), its evaluation has not been done, or it does
        not fit the files that are there now.
    """
    ws, record, step = run_record(run_name)
    again = f"`workbook run --run {run_name}"
    if not record.get("finished") or step.get("state") != "done":
        raise WorkbookError(
            f"run {run_name!r} is not finished: {NOTEBOOK} is {step.get('state', 'not run')}; "
            f"{again}` goes on with it"
        )
    for name in EVALUATED:
        if step["writes"][name] != provenance.path_fingerprint(ws.existing(name)):
            raise WorkbookError(
                f"{ws.path(name)} is not what {NOTEBOOK} wrote: "
                f"{again} --from {NOTEBOOK[:2]}` evaluates again"
            )
    ledger = sealed.ledger(ws)
    evaluations = ledger[(ledger["run"] == run_name) & ~ledger["why"].str.startswith(WHY)]
    if evaluations.empty:
        raise WorkbookError(
            f"the test set of run {run_name!r} has changed since its evaluation: "
            f"{again}` evaluates again"
        )
    return EvaluatedRun(
        ws,
        record,
        Evaluation.load(ws.path("metrics.json")),
        workspace.read_table(ws.path("test_probs.parquet")),
        test_set=workspace.read_json(ws.existing("seal.json"))["sha256"],
        model_id=evaluations["model"].iloc[-1],
    )


def compare(first_run: str, second_run: str) -> Comparison:
    """Compare the best models of two runs; gains are second minus first.

    The labels are read for a model that has been measured before, and the ledger says so.

    Raises
    ------
    WorkbookError : a run is not there or not finished; their classes or test sets differ.
    """
    first = evaluated_run(first_run)
    second = evaluated_run(second_run)
    check_comparable(first.predictions, second.predictions)
    why = f"{WHY} with run {first_run!r}"
    test = sealed.open_test(second.ws, model=second.model_id, why=why)
    settings = second.record["settings"]
    ledger = sealed.ledger(second.ws)
    warning, corrected = sealed.caution(ledger, confidence=settings["evaluation.confidence"])
    options = {
        "n_resamples": settings["evaluation.n_resamples"],
        "confidence": corrected,
        "seed": settings["seed"],
    }
    paired = paired_test(first.predictions, second.predictions, test, **options)
    verdict = paired.describe(
        f"The {second.evaluation.best} of {second_run}",
        f"the {first.evaluation.best} of {first_run}",
    )
    return Comparison(
        _scores(first, second),
        _class_gains(first, second, test, groups=test["group"].to_numpy(), **options),
        _answers(first, second, test),
        _settings_apart(first, second),
        paired,
        verdict,
        warning,
    )


def write_comparison(first_run: str, second_run: str) -> Path:
    """Write a page with the comparison of two runs into the second one's report; return its path.

    Raises
    ------
    WorkbookError : as `compare`.
    """
    comparison = compare(first_run, second_run)
    ws, _, _ = run_record(second_run)
    return pages.write_page(
        "compare.html.j2",
        ws.folder(workspace.REPORTS) / f"against_{first_run}.html",
        first=first_run,
        second=second_run,
        n=comparison.paired.accuracy_gain.n,
        comparison=comparison,
    )


def check_comparable(first: Predictions, second: Predictions) -> None:
    """Raise WorkbookError where the classes or the test sets of two models differ."""
    if first.class_names != second.class_names:
        differences = [
            *_classes_alone(first, second),
            *_classes_alone(second, first),
        ]
        raise WorkbookError(
            f"{first.name} and {second.name} have other classes and cannot be compared: "
            f"{'; '.join(differences[:5])}; "
            "compare runs of the same classes"
        )
    if first.test_set != second.test_set:
        seals = f"seals {first.test_set[:12]} and {second.test_set[:12]}"
        raise WorkbookError(
            f"{first.name} and {second.name} were measured on other test sets ({seals}): "
            "the same data, seed, cleaning, split and decisions give the same"
        )


def paired_test(
    first: Predictions, second: Predictions, test: pd.DataFrame, **options: Any
) -> significance.PairedTest:
    """Compare two models on the rows of a test set; `options` are of significance.paired_test."""
    return significance.paired_test(
        true_classes(test, second.class_names),
        first.classes(test),
        second.classes(test),
        groups=test["group"].to_numpy(),
        **options,
    )


def true_classes(test: pd.DataFrame, class_names: list[str]) -> np.ndarray:
    """Return the labels as ndarray of int of shape (n,), in the order of `class_names`."""
    return _codes(test["label"], class_names)


def _codes(labels: pd.Series, class_names: list[str]) -> np.ndarray:
    return pd.Categorical(labels, categories=class_names).codes.astype(int)


def run_record(run_name: str) -> tuple[Workspace, dict[str, Any], dict[str, Any]]:
    """Return the folders of a run, its run.json, and what that says of the evaluation."""
    reports = workspace.home() / "reports"
    run_names = sorted(path.parent.name for path in reports.glob("*/run.json"))
    if run_name not in run_names:
        there = f"there are {', '.join(run_names)}" if run_names else "`workbook run` makes one"
        raise WorkbookError(
            f"no run {run_name!r} in {reports}{closest(run_name, run_names)}; {there}"
        )
    path = reports / run_name / "run.json"
    try:
        record = workspace.read_json(path)
        ws = Workspace(dataset=record["data"]["dataset"], run=run_name)
        step = record["steps"].get(NOTEBOOK, {})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WorkbookError(
            f"{path} is damaged ({type(error).__name__}: {error}): "
            f"`workbook run --run {run_name}` writes it again"
        ) from error
    return ws, record, step


def _scores(*runs: EvaluatedRun) -> pd.DataFrame:
    rows = [
        (run.ws.run, model, scores.intervals["macro_f1"], scores.intervals["accuracy"])
        for run in runs
        for model, scores in run.evaluation.models.items()
    ]
    return pd.DataFrame(rows, columns=["run", "model", "macro F1", "accuracy"]).astype(str)


def _class_gains(
    first: EvaluatedRun, second: EvaluatedRun, test: pd.DataFrame, **options: Any
) -> pd.DataFrame:
    names = second.evaluation.class_names
    y_true = true_classes(test, names)
    before, after = (
        significance.class_f1_intervals(
            y_true, run.predictions.classes(test), n_classes=len(names), **options
        )
        for run in (first, second)
    )
    gains = [new.value - old.value for old, new in zip(before, after)]
    table = pd.DataFrame({"class": names, first.column: before, second.column: after})
    return table.iloc[np.argsort(gains, kind="stable")].astype(str)


def _answers(first: EvaluatedRun, second: EvaluatedRun, test: pd.DataFrame) -> pd.DataFrame:
    y_true = true_classes(test, second.evaluation.class_names)
    right = [run.predictions.classes(test) == y_true for run in (first, second)]
    counts = {
        "both": right[0] & right[1],
        f"{first.ws.run} alone": right[0] & ~right[1],
        f"{second.ws.run} alone": ~right[0] & right[1],
        "none": ~right[0] & ~right[1],
    }
    rows = [(name, f"{int(rows.sum()):,}") for name, rows in counts.items()]
    return pd.DataFrame(rows, columns=["right", "texts"])


def _settings_apart(first: EvaluatedRun, second: EvaluatedRun) -> pd.DataFrame:
    before, after = first.trained_with, second.trained_with
    rows = [
        (key, str(before.get(key, "not there")), str(after.get(key, "not there")))
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    ]
    return pd.DataFrame(rows, columns=["setting", first.column, second.column])


def _classes_alone(one: Predictions, other: Predictions) -> list[str]:
    return [
        f"{label!r} is a class of {one.name} alone"
        for label in one.class_names
        if label not in other.class_names
    ]
