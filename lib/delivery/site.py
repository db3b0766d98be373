"""The index of a run's report: how good it is, what to do next, and what each notebook found."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from lib import workspace
from lib.delivery import findings, pages
from lib.evaluation import sealed
from lib.evaluation.evaluation import Evaluation
from lib.steps import STEPS
from lib.workspace import FILES, Workspace

LINKED = {
    "data_profile.html": "every numeric feature of the data (ydata-profiling)",
    "review_queue.csv": "labels to review: fill in decision or new_label, save, run again",
    "model_card.md": "the classifier's card: use, data, metrics, limits, readings of the test set",
    "metrics.json": "all metrics with intervals",
    "robustness.json": "scores under perturbations, failed tests of behaviour, gaps between groups",
    "run.json": "settings, data fingerprint, commit, versions, hardware, times",
}


def write_index(ws: Workspace, record: dict[str, Any]) -> Path:
    """Write index.html of a run from what it left: record, metrics, notebooks; return its path."""
    folder = ws.folder(workspace.REPORTS)
    metrics = ws.path("metrics.json")
    is_sealed = ws.path("seal.json").exists()
    written = {path.stem for path in folder.glob("*.html")}
    notebooks = [folder / f"{step.notebook}.ipynb" for step in STEPS]
    found = findings.read_findings([path for path in notebooks if path.exists()])
    return pages.write_page(
        "index.html.j2",
        folder / "index.html",
        ws=ws,
        record=record,
        data=record["data"],
        machine=record["machine"],
        machine_line=machine_line(record["machine"]),
        command=command_of(ws, record),
        evaluation=Evaluation.load(metrics) if metrics.exists() else None,
        verdict=found.answers.get(FILES["metrics.json"][1]),
        steps_to_take=found.next_steps[: findings.SHOWN_STEPS],
        answers=found.answers,
        figures=found.figures,
        flow=findings.row_flow(ws, record["data"].get("rows")),
        failures=_failures(record, written),
        readings=sealed.ledger(ws).to_dict("records") if is_sealed else [],
        steps=STEPS,
        pages=written,
        files={name: words for name, words in LINKED.items() if (folder / name).exists()},
    )


def write_report(ws: Workspace, record: dict[str, Any]) -> Path:
    """Write the pages of all executed notebooks of a run again, and its index; return its path."""
    folder = ws.folder(workspace.REPORTS)
    for step in STEPS:
        for notebook in folder.glob(f"{step.notebook}*.ipynb"):
            pages.export_notebook(notebook, notebook.with_suffix(".html"), run=ws.run)
    return write_index(ws, record)


def machine_line(machine: dict[str, Any]) -> str:
    """Return in a few words what computed a notebook."""
    return f"{machine['processor']}, {machine['cores']} cores"


def command_of(ws: Workspace, record: dict[str, Any]) -> str:
    """Return the command that makes a run again, or goes on with it."""
    source = record["data"].get("source")
    words = ["workbook", "run", "--profile", record["profile"], "--run", ws.run]
    words += ["--data", source] if source else []
    for key, value in record["overrides"].items():
        words += ["--set", f"{key}={json.dumps(value)}"]
    return shlex.join(words)


def _failures(record: dict[str, Any], written: set[str]) -> list[dict[str, str]]:
    return [
        {
            "notebook": notebook,
            "error": state["error"],
            "page": f"{notebook}.failed.html" if f"{notebook}.failed" in written else "",
        }
        for notebook, state in record["steps"].items()
        if state.get("state") == "failed"
    ]
