"""A run as stages of DVC, which versions its files by their content."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from lib import workspace
from lib.delivery.comparison import run_record
from lib.errors import WorkbookError
from lib.steps import STEPS, Step
from lib.workspace import FILES, REVIEW, Workspace

DVC_FILE = "dvc.yaml"  # in the home folder, which is DVC's


def export_dvc(run_name: str) -> Path:
    """Write `dvc.yaml` for the notebooks that a run has finished, a stage for each.

    Stages of other runs stay. Files that people fill in are what stages depend on, never outputs.

    Raises
    ------
    WorkbookError : no run of that name, it has finished no notebook, or a file dvc.yaml is there
        that cannot be read.
    """
    ws, record, _ = run_record(run_name)
    states = record["steps"]
    done = [step for step in STEPS if states.get(step.notebook, {}).get("state") == "done"]
    if not done:
        raise WorkbookError(f"run {run_name!r} has finished no notebook: `workbook run` goes on")
    path = workspace.home() / DVC_FILE
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
        stages = dict((content or {}).get("stages", {}))
    except (yaml.YAMLError, ValueError, AttributeError, TypeError) as error:
        raise WorkbookError(f"{path} cannot be read as YAML with stages: move it away") from error
    stages |= {f"{run_name}-{step.number}": _stage(step, ws, record) for step in done}
    workspace.write_text(yaml.safe_dump({"stages": stages}, sort_keys=False), path)
    return path


def _stage(step: Step, ws: Workspace, record: dict[str, Any]) -> dict[str, Any]:
    words = ["workbook", "run", "--quiet", "--run", ws.run, "--profile", record["profile"]]
    for key, value in record["overrides"].items():
        words += ["--set", f"{key}={json.dumps(value)}"]  # JSON is YAML
    words += ["--from", step.number, "--to", step.number]
    reads = [ws.path(name) for name in step.reads if name != "source"]
    if "source" in step.reads:
        reads.append(Path(record["data"]["source"]))  # a hub's name is no file
    written = [ws.path(name) for name in step.writes if FILES[name][0] != REVIEW]
    return {
        "cmd": shlex.join(words),
        "deps": _names(reads),
        # they stay while a stage runs: a notebook that was stopped goes on from them
        "outs": [{name: {"persist": True}} for name in _names(written)],
    }


def _names(paths: Iterable[Path]) -> list[str]:
    """Return those that are there, relative to the home folder where they are in it."""
    home = workspace.home()
    found = [path for path in paths if path.exists()]
    return [
        (path.relative_to(home) if path.is_relative_to(home) else path).as_posix() for path in found
    ]
