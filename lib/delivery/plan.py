"""What a run would do: which notebooks are to run, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lib.data import classes, sources
from lib.delivery import runner
from lib.errors import listed
from lib.steps import check_inputs
from lib.workspace import FILES


@dataclass(frozen=True)
class Planned:
    """A notebook as a run would find it.

    Attributes
    ----------
    why : it is to run; "" where it is up to date
    seconds : that it took the last time, None where that is not known
    """

    notebook: str
    why: str
    seconds: float | None

    def describe(self) -> str:
        """Return the plan in a line."""
        what = f"to run: {self.why}" if self.why else "up to date"
        time = f" (the last time {self.seconds:.0f} s)" if self.why and self.seconds else ""
        return f"{self.notebook}  {what}{time}"


def plan_workbook(
    profile: str = "quick",
    *,
    first: str | None = None,
    last: str | None = None,
    force: bool = False,
    **source: Any,
) -> list[Planned]:
    """Return what `runner.run_workbook` would do with the same arguments; nothing is written.

    Raises
    ------
    WorkbookError : as there, before anything is started.
    """
    steps = runner.chosen_steps(first, last)
    config, ws, parameters = runner.prepare(steps, profile, **source)
    if config.data.source != "docstrings" and not sources.raw_path(config).exists():
        classes.check_labels(sources.load_source(config.data).table, config)
    check_inputs(steps[0].notebook, ws)
    record: dict[str, Any] = {"steps": runner.steps_done(ws)}
    session = runner.Session(config, ws, parameters, record, progress=False)
    planned: list[Planned] = []
    for step in steps:
        why = "--force" if force else session.why_stale(step)
        writers = {FILES[name][1] for name in step.reads if name in FILES}
        earlier = [plan.notebook for plan in planned if plan.why and plan.notebook in writers]
        if earlier and not why:
            why = f"if a file of {listed(earlier)} changes"
        seconds = record["steps"].get(step.notebook, {}).get("seconds")
        planned.append(Planned(step.notebook, why, seconds))
    return planned
