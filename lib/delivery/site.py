"""The report of a run: an index with the headline figures, and one HTML page for each notebook.

Nothing is fetched to read it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
from jinja2 import Environment, FileSystemLoader
from nbformat import NotebookNode

from lib import workspace
from lib.evaluation import sealed
from lib.evaluation.evaluation import Evaluation
from lib.steps import STEPS
from lib.workspace import Workspace

TEMPLATES = Path(__file__).parent / "templates"
LINKED = {
    "data_profile.html": "every numeric feature of the data (ydata-profiling)",
    "review_queue.csv": "labels to review: fill in decision or new_label, save, run again",
    "model_card.md": "the classifier's card: use, data, metrics, limits, readings of the test set",
    "metrics.json": "all metrics with intervals",
    "robustness.json": "scores under perturbations, failed tests of behaviour, gaps between groups",
    "run.json": "settings, data fingerprint, commit, versions, hardware, times",
}


def write_index(ws: Workspace, record: dict[str, Any]) -> Path:
    """Write index.html of a run from its record and metrics; return its path."""
    folder = ws.folder(workspace.REPORTS)
    page = folder / "index.html"
    metrics = ws.path("metrics.json")
    evaluation = Evaluation.load(metrics) if metrics.exists() else None
    is_sealed = ws.path("seal.json").exists()
    readings = sealed.ledger(ws).to_dict("records") if is_sealed else []
    pages = {path.stem for path in folder.glob("*.html")}
    files = {name: words for name, words in LINKED.items() if (folder / name).exists()}
    templates = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True)
    html = templates.get_template("index.html.j2").render(
        ws=ws,
        record=record,
        data=record["data"],
        machine=record["machine"],
        evaluation=evaluation,
        readings=readings,
        steps=STEPS,
        pages=pages,
        files=files,
    )
    workspace.write_text(html, page)
    return page


def export_notebook(notebook: Path, page: Path, *, run: str) -> None:
    """Write an executed notebook as one self-contained HTML page.

    Left out are the code of cells tagged `hide-input`, the injected parameters' banner, and
    progress bars (on standard error, or as widgets).
    """
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    document = _without_live_output(nbformat.read(notebook, as_version=4))
    headings = list(_headings(document))
    titles = [heading["text"] for heading in headings if heading["level"] == 1]
    document.metadata["title"] = titles[0] if titles else "Notebook"
    hide = {"enabled": True, "remove_input_tags": {"hide-input"}}
    exporter = HTMLExporter(
        config=Config({"TagRemovePreprocessor": hide}),
        template_name="report",
        extra_template_basedirs=[str(TEMPLATES)],
    )
    resources = {
        "report_toc": headings,
        "report_run": run,
        "report_css": (TEMPLATES / "report.css").read_text(encoding="utf-8"),
    }
    with warnings.catch_warnings():
        # nbconvert warns of images without its own kind of alt text
        warnings.simplefilter("ignore")
        html, _ = exporter.from_notebook_node(document, resources=resources)
    workspace.write_text(html, page)


def _without_live_output(document: NotebookNode) -> NotebookNode:
    document.metadata.pop("widgets", None)  # a page cannot run one, and would fetch a script for it
    for cell in document.cells:
        if cell.cell_type == "code":
            cell.source = cell.source.removeprefix("# NBVAL_CHECK_OUTPUT\n")
            cell.outputs = [output for output in cell.outputs if not _is_live(output)]
    return document


def _is_live(output: NotebookNode) -> bool:
    """Return whether an output is a progress bar, or a widget without a still picture of it."""
    data = output.get("data", {})
    is_widget = "application/vnd.jupyter.widget-view+json" in data and "text/html" not in data
    return is_widget or output.get("name") == "stderr"


def _headings(document: NotebookNode) -> Iterator[dict[str, Any]]:
    """Yield the headings of levels 1 and 2, with the ids that nbconvert gives them."""
    for cell in document.cells:
        if cell.cell_type != "markdown":
            continue
        for marks, text in re.findall(r"^(#{1,2})\s+(.+)$", cell.source, re.MULTILINE):
            title = text.strip()
            anchor = quote(title.replace(" ", "-"), safe="?!,;:'()")
            yield {"level": len(marks), "text": title, "id": anchor}
