"""The report of a run: one HTML page a notebook, and an index with the headline figures. Nothing is fetched to read it."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
from jinja2 import Environment, FileSystemLoader

from lib import steps, workspace
from lib.evaluation import sealed
from lib.steps import STEPS
from lib.workspace import Workspace

TEMPLATES = Path(__file__).parent / "templates"
LINKED = {
    "data_profile.html": "every numeric feature of the data (ydata-profiling)",
    "review_queue.csv": "labels to look at; fill in the columns decision or new_label, save, run again",
    "metrics.json": "all metrics with intervals",
    "run.json": "settings, data fingerprint, commit, versions, hardware, times",
}


def export_notebook(notebook: Path, page: Path, *, run: str) -> None:
    """Write an executed notebook as one self-contained HTML page.

    Code cells tagged `hide-input`, the injected parameters' banner and progress bars (on standard error, or as widgets) are left out.
    """
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    document = nbformat.read(notebook, as_version=4)
    document.metadata.pop("widgets", None)  # a page cannot run one, and would fetch a script for it
    for cell in document.cells:
        if cell.cell_type == "code":
            cell.source = cell.source.removeprefix("# NBVAL_CHECK_OUTPUT\n")
            cell.outputs = [
                output
                for output in cell.outputs
                if output.get("name") != "stderr" and not _is_live(output)
            ]
    document.metadata["title"] = _title(document)
    settings = Config(
        {"TagRemovePreprocessor": {"enabled": True, "remove_input_tags": {"hide-input"}}}
    )
    exporter = HTMLExporter(
        config=settings, template_name="report", extra_template_basedirs=[str(TEMPLATES)]
    )
    resources = {
        "report_toc": _contents(document),
        "report_run": run,
        "report_css": (TEMPLATES / "report.css").read_text(encoding="utf-8"),
    }
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # nbconvert warns of images without its own kind of alt text
        html, _ = exporter.from_notebook_node(document, resources=resources)
    workspace.write_text(html, page)


def write_index(ws: Workspace, record: dict[str, Any]) -> Path:
    """Write index.html of a run from its record and metrics; return its path."""
    folder = ws.folder(workspace.REPORTS)
    metrics = (
        workspace.read_json(ws.path("metrics.json")) if ws.path("metrics.json").exists() else {}
    )
    page = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True).get_template(
        "index.html.j2"
    )
    html = page.render(
        run=ws.run,
        dataset=ws.dataset,
        profile=record["profile"],
        rows=record["data"].get("rows"),
        classes=record["data"].get("classes"),
        models=[
            {"name": name, **scores["intervals"]}
            for name, scores in metrics.get("models", {}).items()
        ],
        n_test=metrics.get("n_test"),
        verdicts=[metrics[key] for key in ("verdict", "ensemble_verdict") if key in metrics],
        warning=metrics.get("warning"),
        looks=sealed.ledger(ws).to_dict("records") if ws.path("seal.json").exists() else [],
        steps=[_index_row(step, record["steps"].get(step.notebook, {}), folder) for step in STEPS],
        files=[(name, words) for name, words in LINKED.items() if (folder / name).exists()],
        facts=_index_facts(record),
    )
    workspace.write_text(html, folder / "index.html")
    return folder / "index.html"


def _is_live(output: Any) -> bool:
    """Return whether an output is a widget without a still picture of it."""
    data = output.get("data", {})
    return "application/vnd.jupyter.widget-view+json" in data and "text/html" not in data


def _title(document: Any) -> str:
    heads = [
        re.match(r"#\s+(.+)", cell.source)
        for cell in document.cells
        if cell.cell_type == "markdown"
    ]
    return next((head[1].strip() for head in heads if head), "Notebook")


def _contents(document: Any) -> list[dict[str, Any]]:
    """Return the headings of levels 1 and 2, with the ids that nbconvert gives them."""
    lines = [
        line
        for cell in document.cells
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
    ]
    heads = [match for match in (re.match(r"(#{1,2})\s+(.+)", line) for line in lines) if match]
    return [
        {
            "level": len(head[1]),
            "text": head[2].strip(),
            "id": quote(head[2].strip().replace(" ", "-"), safe="?!,;:'()"),
        }
        for head in heads
    ]


def _index_row(step: steps.Step, done: dict[str, Any], folder: Path) -> dict[str, Any]:
    page = f"{step.notebook}.html"
    return {
        "notebook": step.notebook,
        "question": step.question,
        "page": page if (folder / page).exists() else None,
        "seconds": done.get("seconds"),
        "state": done.get("state", "not run"),
    }


def _index_facts(record: dict[str, Any]) -> dict[str, str]:
    machine = record["machine"]
    changed = ", ".join(f"{key}={value}" for key, value in record["overrides"].items())
    return {
        "Data": f"{record['data'].get('source')} (fingerprint {str(record['data'].get('fingerprint'))[:12]})",
        "Settings": f"profile {record['profile']}, seed {record['settings']['seed']}"
        + (f", {changed}" if changed else ""),
        "Backbone": record["settings"]["training.backbone"],
        "Machine": f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}",
        "Software": f"Python {machine['python']}, "
        + ", ".join(
            f"{name} {machine['versions'][name]}"
            for name in ("torch", "transformers", "scikit-learn")
        ),
        "Commit": str(machine["commit"]),
        "Finished": record["finished"] or "not yet",
    }
