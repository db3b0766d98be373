"""The sealed test set: its labels are read through one door, and every reading is written down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from lib import provenance, workspace
from lib.errors import WorkbookError
from lib.evaluation.significance import Interval
from lib.workspace import Workspace


def seal(ws: Workspace) -> str:
    """Record the hash of the test set as it stands; return it."""
    digest = provenance.table_fingerprint(workspace.read_table(ws.existing("test.parquet")))
    workspace.write_json({"sha256": digest}, ws.path("seal.json"))
    return digest


def open_test(ws: Workspace, *, model: str, why: str) -> pd.DataFrame:
    """Return the test set with its labels, and add a line to the ledger.

    Parameters
    ----------
    model : fingerprint of what is evaluated; the same model on the same rows is the same evaluation
    why : the purpose, in a few words

    Raises
    ------
    WorkbookError : the test set is not the one that was sealed.
    """
    test, sealed = workspace.read_table(ws.existing("test.parquet")), _seal(ws)
    if provenance.table_fingerprint(test) != sealed:
        raise WorkbookError(
            f"{ws.path('test.parquet')} is not the test set that was sealed: "
            "run 03_review_labels again"
        )
    line = {"when": provenance.now(), "run": ws.run, "model": model, "why": why, "sha256": sealed}
    path = _ledger_path(ws)
    path.parent.mkdir(parents=True, exist_ok=True)
    # one short append: whole, also where another run appends at the same time
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return test


def ledger(ws: Workspace) -> pd.DataFrame:
    """Return every reading of the labels of this very test set, oldest first.

    Returns
    -------
    DataFrame with `read at`, `run`, `model`, `why`
    """
    path, sealed = _ledger_path(ws), _seal(ws)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = [json.loads(line) for line in text.splitlines()]
    columns = ["when", "run", "model", "why"]
    readings = pd.DataFrame([line for line in lines if line["sha256"] == sealed], columns=columns)
    return readings.rename(columns={"when": "read at"})


def n_evaluations(ledger: pd.DataFrame) -> int:
    """Return how many different models have been evaluated on the test set."""
    return int(ledger["model"].nunique())


def caution(ledger: pd.DataFrame, *, confidence: float) -> tuple[str, float]:
    """Return a warning, and the confidence at which the intervals of all evaluations hold together.

    Parameters
    ----------
    confidence : of one interval at the first evaluation, 0..1

    Returns
    -------
    warning : "" while only one model has been evaluated
    confidence : 0..1

    Source
    ------
    Bonferroni: each of n evaluations may be wrong with 1/n of the probability that one may.
    """
    n = n_evaluations(ledger)
    if n <= 1:
        return "", confidence
    warning = (
        f"{n} different models have been evaluated on this test set: "
        "where one is chosen by these scores, they are too high and their intervals too narrow"
    )
    return warning, 1 - (1 - confidence) / n


def describe_ledger(ledger: pd.DataFrame) -> str:
    """Return as a sentence whether scores on the test set can be taken at face value."""
    warning, _ = caution(ledger, confidence=0)
    if warning:
        return f"{warning}."
    return "The labels have been read for one model only: the scores below are unbiased."


def describe_corrected(ledger: pd.DataFrame, macro_f1: Mapping[str, Interval]) -> str:
    """Return the warning and the intervals that hold for all evaluations, "" for a single model.

    Parameters
    ----------
    macro_f1 : model -> Interval, at the confidence that `caution` returns
    """
    warning, _ = caution(ledger, confidence=0)
    if not warning:
        return ""
    confidence = next(iter(macro_f1.values())).confidence
    scores = ", ".join(f"{name} {interval}" for name, interval in macro_f1.items())
    return (
        f"{warning}. Intervals that hold for all evaluations together ({confidence:.1%}): "
        f"macro F1 {scores}."
    )


def _seal(ws: Workspace) -> str:
    return workspace.read_json(ws.existing("seal.json"))["sha256"]


def _ledger_path(ws: Workspace) -> Path:
    return ws.folder(workspace.PROCESSED).parent / "sealed_ledger.jsonl"
