"""The sealed test set: its labels are read through one door, and every reading is written down."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from lib import provenance, workspace
from lib.errors import WorkbookError
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
    model : fingerprint of what is evaluated; the same model on the same rows is the same look
    why : the purpose, in a few words

    Raises
    ------
    WorkbookError : the test set is not the one that was sealed.
    """
    test, sealed = (
        workspace.read_table(ws.existing("test.parquet")),
        workspace.read_json(ws.existing("seal.json"))["sha256"],
    )
    if provenance.table_fingerprint(test) != sealed:
        raise WorkbookError(
            f"{ws.path('test.parquet')} is not the test set that was sealed: run 03_review_labels again"
        )
    line = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": ws.run,
        "model": model,
        "why": why,
        "sha256": sealed,
    }
    _ledger_path(ws).parent.mkdir(parents=True, exist_ok=True)
    with _ledger_path(ws).open(
        "a", encoding="utf-8"
    ) as ledger:  # one short append: whole, also beside another run's
        ledger.write(json.dumps(line) + "\n")
    return test


def ledger(ws: Workspace) -> pd.DataFrame:
    """Return every reading of the labels of this very test set: `when`, `run`, `model`, `why`; oldest first."""
    path, sealed = _ledger_path(ws), workspace.read_json(ws.existing("seal.json"))["sha256"]
    lines: list[dict[str, Any]] = (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if path.exists()
        else []
    )
    return pd.DataFrame(
        [line for line in lines if line["sha256"] == sealed],
        columns=["when", "run", "model", "why"],
    )


def n_looks(ledger: pd.DataFrame) -> int:
    """Return how many different models have been measured on the test set."""
    return int(ledger["model"].nunique())


def caution(ledger: pd.DataFrame, *, confidence: float) -> tuple[str, float]:
    """Return a warning where several models have been measured ("" otherwise), and the confidence at which their intervals hold together.

    Parameters
    ----------
    confidence : of one interval at the first look, 0..1

    Source
    ------
    Bonferroni: each of n looks may be wrong with 1/n of the probability that one may.
    """
    looks = max(1, n_looks(ledger))
    if looks == 1:
        return "", confidence
    words = f"{looks} different models have been measured on this test set: where one is chosen by these scores, they are too high and too sure"
    return words, 1 - (1 - confidence) / looks


def _ledger_path(ws: Workspace) -> Path:
    return ws.folder(workspace.PROCESSED).parent / "sealed_ledger.jsonl"
