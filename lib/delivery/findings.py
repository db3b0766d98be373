"""What a run found, in short, from its executed notebooks and the files that they wrote.

A cell tagged `headline` speaks for its notebook: its sentence, or its figure, stands in the index.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib import workspace
from lib.errors import WorkbookError
from lib.review import decisions
from lib.workspace import Workspace

HEADLINE = "headline"
SHOWN_STEPS = 3
_TAKEAWAY = re.compile(r'<p class="takeaway \w+">(.*?)</p>', re.DOTALL)
_STEP = re.compile(r'<li data-points="([^"]*)">(.*?)</li>', re.DOTALL)


@dataclass(frozen=True)
class Figure:
    """A figure of a notebook: `png` in base64, and its alternative text."""

    notebook: str
    png: str
    alt: str


@dataclass(frozen=True)
class NextStep:
    """What a notebook says is worth doing; it wins `points` of a score at least (NaN: unknown)."""

    notebook: str
    text: str
    points: float


@dataclass(frozen=True)
class Findings:
    """What the executed notebooks of a run say.

    Attributes
    ----------
    answers : the sentence of each notebook's headline, by notebook
    figures : of headlines, in order
    next_steps : those that win most first, unknown ones last
    """

    answers: dict[str, str] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    next_steps: list[NextStep] = field(default_factory=list)


@dataclass(frozen=True)
class Stage:
    """A number of rows on their way; `kind` is kept, lost, or share (of a split)."""

    name: str
    n: int
    kind: str = "kept"
    detail: str = ""


def read_findings(notebooks: list[Path]) -> Findings:
    """Return what executed notebooks say."""
    found = Findings()
    for path in notebooks:
        document = workspace.read_json(path)
        for cell in document["cells"]:
            _add_cell(found, cell, path.stem)
    found.next_steps.sort(key=lambda step: math.inf if math.isnan(step.points) else -step.points)
    return found


def row_flow(ws: Workspace, n_loaded: int | None) -> list[Stage]:
    """Return where the rows of a run went, as far as it has come."""
    stages = [Stage("loaded", n_loaded)] if n_loaded else []
    dropped = ws.path("dropped.parquet")
    if dropped.exists():
        rules = workspace.read_table(dropped)["rule"].value_counts()
        detail = ", ".join(f"{rule} {n:,}" for rule, n in rules.items())
        stages.append(Stage("dropped", int(rules.sum()), "lost", detail))
        stages.append(Stage("clean", _n_rows(ws.path("clean.parquet"))))
    if ws.path("train.parquet").exists():
        stages.append(Stage("labels decided by people", _n_decided(ws), "lost"))
        names = {"train": "training", "val": "validation", "test": "test, sealed"}
        for split, name in names.items():
            stages.append(Stage(name, _n_rows(ws.path(f"{split}.parquet")), "share"))
    return stages


def _n_decided(ws: Workspace) -> int:
    try:
        recorded = decisions.read_decisions(ws.path("decisions.csv"))
    except WorkbookError:  # notebook 03 says what is wrong with it
        return 0
    return len(decisions.last_decisions(recorded))


def _n_rows(path: Path) -> int:
    from pyarrow import parquet

    return parquet.read_metadata(path).num_rows


def _add_cell(found: Findings, cell: dict[str, Any], notebook: str) -> None:
    is_headline = HEADLINE in cell.get("metadata", {}).get("tags", [])
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        markup = "".join(data.get("text/html", ""))
        found.next_steps.extend(_steps(markup, notebook))
        sentence = _TAKEAWAY.search(markup)
        if is_headline and sentence:
            found.answers[notebook] = html.unescape(sentence[1])
        if is_headline and "image/png" in data:
            alt = output["metadata"].get("image/png", {}).get("alt", "Figure")
            found.figures.append(Figure(notebook, "".join(data["image/png"]).strip(), alt))


def _steps(markup: str, notebook: str) -> Iterator[NextStep]:
    for points, text in _STEP.findall(markup):
        yield NextStep(notebook, html.unescape(text), float(points))
