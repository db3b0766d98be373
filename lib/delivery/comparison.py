"""Two finished runs side by side, on the same sealed test set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lib import provenance, workspace
from lib.config import closest
from lib.errors import WorkbookError
from lib.evaluation import sealed, significance
from lib.workspace import FILES, Workspace

WHY = "comparison"  # how readings of the labels made here begin in the ledger
EVALUATED = ("metrics.json", "test_probs.parquet")


@dataclass(frozen=True)
class Evaluated:
    """What a finished run left of its evaluation.

    Attributes
    ----------
    record : run.json
    metrics : metrics.json
    probs : DataFrame of `row_id` and a column "<model>: <class>" for each model and class
    test_set : SHA-256 of the sealed test set
    model_id : fingerprint of what was evaluated, as it stands in the ledger of the test set
    """

    ws: Workspace
    record: dict[str, Any]
    metrics: dict[str, Any]
    probs: pd.DataFrame
    test_set: str
    model_id: str

    @property
    def trained_with(self) -> dict[str, Any]:
        """Return the settings that the run's transformer was trained with: the run may have been called with others since."""
        return {
            **self.record["settings"],
            **self.record["steps"].get(FILES["transformer"][1], {}).get("settings", {}),
        }

    @property
    def best(self) -> str:
        """Return the model with the highest macro F1."""
        return max(
            self.metrics["models"], key=lambda name: self.metrics["models"][name]["macro_f1"]
        )


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same rows.

    Attributes
    ----------
    scores : DataFrame of `run`, `model`, `macro F1`, `accuracy`: values with intervals, as text
    paired : the second run's best model against the first's
    words : the verdict
    warning : "" while few models have been measured on this test set
    """

    scores: pd.DataFrame
    paired: significance.PairedTest
    words: str
    warning: str


def evaluated_run(run: str) -> Evaluated:
    """Read what a finished run left.

    Raises
    ------
    WorkbookError : no such run (the closest is named), or its evaluation has not been done or does not fit what is there now.
    """
    reports = workspace.home() / "reports"
    known = sorted(path.parent.name for path in reports.glob("*/run.json"))
    if run not in known:
        raise WorkbookError(
            f"no run {run!r} in {reports}{closest(run, known)}; there are {', '.join(known) or 'none'}"
        )
    path, notebook = reports / run / "run.json", FILES["metrics.json"][1]
    try:
        record = workspace.read_json(path)
        ws, done = (
            Workspace(dataset=record["data"]["dataset"], run=run),
            record["steps"].get(notebook, {}),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WorkbookError(
            f"{path} is damaged ({type(error).__name__}: {error}): `workbook run --run {run}` writes it anew"
        ) from error
    if not record["finished"] or done.get("state") != "done":
        raise WorkbookError(
            f"run {run!r} is not finished: {notebook} is {done.get('state', 'not run')}; `workbook run --run {run}` goes on with it"
        )
    for name in EVALUATED:
        if done["writes"][name] != provenance.path_fingerprint(ws.existing(name)):
            raise WorkbookError(
                f"{ws.path(name)} is not what {notebook} wrote: `workbook run --run {run} --from {notebook[:2]}` evaluates again"
            )
    test_set, looks = workspace.read_json(ws.existing("seal.json"))["sha256"], sealed.ledger(ws)
    own = looks[(looks["run"] == run) & ~looks["why"].str.startswith(WHY)]
    if own.empty:
        raise WorkbookError(
            f"the test set of run {run!r} has changed since its evaluation: `workbook run --run {run}` evaluates again"
        )
    return Evaluated(
        ws,
        record,
        workspace.read_json(ws.path("metrics.json")),
        workspace.read_table(ws.path("test_probs.parquet")),
        test_set,
        own["model"].iloc[-1],
    )


def compare(first: str, second: str) -> Comparison:
    """Compare the best models of two runs; the reading of the labels goes into the ledger as one of a model that has been measured.

    Parameters
    ----------
    first, second : names of runs; gains are second minus first

    Raises
    ------
    WorkbookError : a run is not there or not finished; they have other classes or another test set.
    """
    a, b = evaluated_run(first), evaluated_run(second)
    check_comparable(
        f"run {first!r}",
        a.metrics["class_names"],
        a.test_set,
        f"run {second!r}",
        b.metrics["class_names"],
        b.test_set,
    )
    test = sealed.open_test(b.ws, model=b.model_id, why=f"{WHY} with run {first!r}")
    y_true = pd.Categorical(test["label"], categories=b.metrics["class_names"]).codes.astype(int)
    y_pred = [
        predicted(run.probs, run.best, run.metrics["class_names"], test, what=f"run {run.ws.run!r}")
        for run in (a, b)
    ]
    paired = significance.paired_test(
        y_true, *y_pred, groups=test["group"].to_numpy(), **_options(b.record)
    )
    warning, _ = sealed.caution(sealed.ledger(b.ws), confidence=paired.macro_f1_gain.confidence)
    return Comparison(
        _scores(a, b),
        paired,
        paired.describe(f"The {b.best} of {second}", f"the {a.best} of {first}"),
        warning,
    )


def check_comparable(
    first: str,
    first_classes: list[str],
    first_test: str,
    second: str,
    second_classes: list[str],
    second_test: str,
) -> None:  # noqa: PLR0917
    """Raise WorkbookError where two models have other classes, or were measured on another test set."""
    if first_classes != second_classes:
        alone = [
            f"{label!r} is a class of {who} alone"
            for who, label in _alone(first, first_classes, second, second_classes)
        ]
        raise WorkbookError(
            f"{first} and {second} have other classes and cannot be compared: {'; '.join(alone[:5])}"
        )
    if first_test != second_test:
        seals = f"seals {first_test[:12]} and {second_test[:12]}"
        raise WorkbookError(
            f"{first} and {second} were measured on other test sets ({seals}): the same data, seed, cleaning, split and decisions give the same"
        )


def predicted(
    probs: pd.DataFrame, model: str, class_names: list[str], test: pd.DataFrame, *, what: str
) -> np.ndarray:
    """Return the classes that a model predicts for the test rows: ndarray of int of shape (n,)."""
    if probs["row_id"].tolist() != test["row_id"].tolist():
        raise WorkbookError(
            f"the probabilities of {what} are of other rows than the sealed test set's: evaluate it again with notebook 07"
        )
    return probs[[f"{model}: {label}" for label in class_names]].to_numpy().argmax(axis=1)


def _options(record: dict[str, Any]) -> dict[str, Any]:
    settings = record["settings"]
    return {
        "n_resamples": settings["evaluation.n_resamples"],
        "confidence": settings["evaluation.confidence"],
        "seed": settings["seed"],
    }


def _scores(*runs: Evaluated) -> pd.DataFrame:
    rows = []
    for run in runs:
        for model, found in run.metrics["models"].items():
            macro_f1, accuracy = (
                str(significance.Interval(**found["intervals"][metric]))
                for metric in ("macro_f1", "accuracy")
            )
            rows.append((run.ws.run, model, macro_f1, accuracy))
    return pd.DataFrame(rows, columns=["run", "model", "macro F1", "accuracy"])


def _alone(
    first: str, first_classes: list[str], second: str, second_classes: list[str]
) -> list[tuple[str, str]]:
    alone = [(first, label) for label in first_classes if label not in second_classes]
    return alone + [(second, label) for label in second_classes if label not in first_classes]
