"""What a finished run hands to its record: the test scores with their intervals, the pages and the figures."""

from __future__ import annotations

import base64
import shutil
import tempfile
from pathlib import Path
from typing import Any

import nbformat

from lib import workspace
from lib.training.tracking import Record
from lib.workspace import Workspace

FILES = ("*.html", "*.csv", "metrics.json", "run.json")


def record_results(record: Record, ws: Workspace, *, evaluated: bool) -> None:
    """Record a run's report, and its test scores where they are of this run's models as they are now.

    Parameters
    ----------
    evaluated : whether the evaluation was among the notebooks of this run
    """
    if evaluated:
        found = workspace.read_json(ws.path("metrics.json"))
        record.metrics(flat_scores(found))
        record.tags(
            {
                "verdict": found["verdict"],
                "test.rows": found["n_test"],
                "test.classes": found["class_names"],
            }
        )
    with tempfile.TemporaryDirectory() as scratch:
        collect(ws.folder(workspace.REPORTS), Path(scratch))
        record.artifacts(Path(scratch), "report")


def flat_scores(found: dict[str, Any]) -> dict[str, float]:
    """Return the scores of metrics.json under flat names: `test/<model>/macro_f1`, and `_low` and `_high` of its interval."""
    scores: dict[str, float] = {}
    for model, of_model in found["models"].items():
        for metric, interval in of_model["intervals"].items():
            name = f"test/{model}/{metric}"
            scores |= {
                name: interval["value"],
                f"{name}_low": interval["low"],
                f"{name}_high": interval["high"],
            }
    return scores


def collect(reports: Path, folder: Path) -> None:
    """Copy the pages of a report to `folder`, and the figures of its notebooks as pictures to `folder`/figures."""
    for pattern in FILES:
        for path in reports.glob(pattern):
            shutil.copy(path, folder)
    (folder / "figures").mkdir()
    for notebook in sorted(reports.glob("[0-9]*.ipynb")):
        pictures = [
            output["data"]["image/png"]
            for cell in nbformat.read(notebook, 4).cells
            for output in cell.get("outputs", [])
            if _is_picture(output)
        ]
        for number, picture in enumerate(pictures, 1):
            (folder / "figures" / f"{notebook.stem}-{number}.png").write_bytes(
                base64.b64decode(picture)
            )


def _is_picture(output: dict[str, Any]) -> bool:
    return "image/png" in output.get("data", {})
