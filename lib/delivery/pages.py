"""Pages of a report: nothing is fetched to read one, and no script runs in it but our own."""

from __future__ import annotations

import base64
import hashlib
import re
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from nbformat import NotebookNode

from lib import workspace

TEMPLATES = Path(__file__).parent / "templates"
_UNNAMED = re.compile(r"<th([^>]*)>(?:&nbsp;|\s)*</th>")  # above a table's index: of nothing


def write_page(template: str, page: Path, **content: Any) -> Path:
    """Write a page from a template, with the style and the script that all pages share."""
    html = _templates().get_template(template).render(**_shared(), **content)
    workspace.write_text(html, page)
    return page


def export_notebook(notebook: Path, page: Path, *, run: str) -> None:
    """Write an executed notebook as a page.

    Left out are the code of cells tagged `hide-input`, the injected parameters' banner, progress
    bars (on standard error, or as widgets), and tables without rows: a sentence says that.
    """
    document = _readable(nbformat.read(notebook, as_version=4))
    headings = list(_headings(document))
    cells = _UNNAMED.sub(r"<td\1></td>", _cells_html(document))
    write_page("notebook.html.j2", page, run=run, headings=headings, cells=Markup(cells))


@cache
def _templates() -> Environment:
    return Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True)


@cache
def _shared() -> dict[str, Markup]:
    style, script = (
        (TEMPLATES / f"report.{ending}").read_text(encoding="utf-8") for ending in ("css", "js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"style": Markup(style), "script": Markup(script), "script_sha256": Markup(digest)}


def _cells_html(document: NotebookNode) -> str:
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    hide = {"enabled": True, "remove_input_tags": {"hide-input"}}
    exporter = HTMLExporter(
        config=Config({"TagRemovePreprocessor": hide}),
        template_name="report",
        extra_template_basedirs=[str(TEMPLATES)],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    with warnings.catch_warnings():
        # nbconvert warns of images without its own kind of alt text
        warnings.simplefilter("ignore")
        html, _ = exporter.from_notebook_node(document)
    return html


def _readable(document: NotebookNode) -> NotebookNode:
    document.metadata.pop("widgets", None)  # a page cannot run one, and would fetch a script for it
    for cell in document.cells:
        if cell.cell_type == "code":
            cell.source = cell.source.removeprefix("# NBVAL_CHECK_OUTPUT\n")
            cell.outputs = [output for output in cell.outputs if _is_readable(output)]
    return document


def _is_readable(output: NotebookNode) -> bool:
    """Return whether an output is neither a progress bar, nor a live widget, nor an empty table."""
    data = output.get("data", {})
    is_widget = "application/vnd.jupyter.widget-view+json" in data and "text/html" not in data
    is_empty = "".join(data.get("text/plain", "")).startswith("Empty DataFrame\n")
    return not (is_widget or is_empty or output.get("name") == "stderr")


def _headings(document: NotebookNode) -> Iterator[dict[str, Any]]:
    """Yield the headings of levels 1 and 2, with the ids that nbconvert gives them."""
    for cell in document.cells:
        if cell.cell_type != "markdown":
            continue
        for marks, text in re.findall(r"^(#{1,2})\s+(.+)$", cell.source, re.MULTILINE):
            title = text.strip()
            anchor = quote(title.replace(" ", "-"), safe="?!,;:'()")
            yield {"level": len(marks), "text": title, "id": anchor}
