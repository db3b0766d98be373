"""What a finished run hands to its record: test scores with intervals, pages and figures."""

from __future__ import annotations

import base64
import shutil
import tempfile
from pathlib import Path

import nbformat

from lib import workspace
from lib.evaluation.evaluation import Evaluation
from lib.training.tracking import Record
from lib.workspace import Workspace

FILES = ("*.html", "*.csv", "*.md", "metrics.json", "robustness.json", "run.json")


def record_results(record: Record, ws: Workspace, *, evaluated: bool) -> None:
    """Record a run's report, and its test scores where they are of the models as they are now.

    Parameters
    ----------
    evaluated : whether the evaluation was among the notebooks of this run
    """
    if evaluated:
        _record_evaluation(record, Evaluation.load(ws.path("metrics.json")))
    with tempfile.TemporaryDirectory() as scratch:
        collect(ws.folder(workspace.REPORTS), Path(scratch))
        record.artifacts(Path(scratch), "report")


def collect(reports: Path, folder: Path) -> None:
    """Copy the pages of a report to `folder`, and its figures as pictures to `folder`/figures."""
    for pattern in FILES:
        for path in reports.glob(pattern):
            shutil.copy(path, folder)
    figures = folder / "figures"
    figures.mkdir()
    for notebook in sorted(reports.glob("[0-9]*.ipynb")):
        for number, picture in enumerate(_pictures(notebook), 1):
            (figures / f"{notebook.stem}-{number}.png").write_bytes(picture)


def _record_evaluation(record: Record, evaluation: Evaluation) -> None:
    numbers = {}
    for model, scores in evaluation.models.items():
        for metric, interval in scores.intervals.items():
            name = f"test/{model}/{metric}"
            numbers[name] = interval.value
            numbers[f"{name}_low"] = interval.low
            numbers[f"{name}_high"] = interval.high
    record.metrics(numbers)
    record.tags(
        {
            "verdict": evaluation.verdict,
            "test.rows": evaluation.n_test,
            "test.classes": evaluation.class_names,
        }
    )


def _pictures(notebook: Path) -> list[bytes]:
    cells = nbformat.read(notebook, 4).cells
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    return [base64.b64decode(data["image/png"]) for data in outputs if "image/png" in data]
