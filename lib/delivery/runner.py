"""The notebooks of a run, executed in order; what is finished and up to date is skipped."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from tqdm import tqdm

from lib import provenance, workspace
from lib.config import Config
from lib.data import sources
from lib.delivery import execution, pages, preloading, recording, site
from lib.errors import WorkbookError, listed
from lib.steps import STEPS, Step, check_inputs
from lib.training import backbones, engine, tracking
from lib.workspace import Workspace

NEEDED_DISK_BYTES = 1e9  # a run on 20,000 texts writes some 300 MB, most of it the model
WITH_MODELS = "04"  # notebooks from here on import torch
WORTH_PRELOADING = 3  # such notebooks left in a run; the first is often there before the server is


@dataclass(frozen=True)
class RunResult:
    """What a run left.

    Attributes
    ----------
    folder : reports/<run>
    index : the page to open
    executed, skipped : names of notebooks
    seconds : of the whole call
    """

    folder: Path
    index: Path
    executed: list[str]
    skipped: list[str]
    seconds: float


def run_workbook(
    profile: str = "quick",
    *,
    run: str = "",
    data: str = "",
    overrides: Mapping[str, Any] | None = None,
    first: str | None = None,
    last: str | None = None,
    force: bool = False,
    progress: bool = True,
) -> RunResult:
    """Execute the notebooks of a run and build its report.

    Parameters
    ----------
    profile : name of a profile
    run : name of the run; "" takes the profile's name, or the data set's where `data` is given
    data : a source; "" takes the profile's
    overrides : dotted settings
    first, last : numbers of notebooks ("03"); None takes all from the start, to the end
    force : execute also what is finished and up to date

    Raises
    ------
    WorkbookError : a parameter is wrong or the data cannot be used (nothing has been started then);
        another process uses this run; a notebook failed (what earlier ones wrote is kept).
    """
    started = time.perf_counter()
    steps = chosen_steps(first, last)
    config, ws, parameters = prepare(steps, profile, run=run, data=data, overrides=overrides)
    table = sources.raw_table(config, progress=progress)
    with _lock(ws):
        check_inputs(steps[0].notebook, ws)
        record = _open_record(config, ws, parameters["settings"], table)
        session = Session(config, ws, parameters, record, progress)
        with tracking.workbook_run(config, ws) as tracked:
            executed = session.run(steps, tracked, force=force)
            index = site.write_index(ws, record)
            if tracked and executed:
                evaluated = any("metrics.json" in step.writes for step in steps)
                recording.record_results(tracked, ws, evaluated=evaluated)
    skipped = [step.notebook for step in steps if step.notebook not in executed]
    seconds = time.perf_counter() - started
    return RunResult(ws.folder(workspace.REPORTS), index, executed, skipped, seconds)


def prepare(
    steps: Sequence[Step],
    profile: str,
    *,
    run: str = "",
    data: str = "",
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Config, Workspace, dict[str, Any]]:
    """Return the settings, folders and parameters of a run, checked."""
    workspace.anchor_home()
    config, ws = workspace.open_run(profile=profile, run=run, data=data, settings=overrides or {})
    # as notebooks find them, whose working folder is another
    settings = {**(overrides or {}), **config.local_paths()}
    if data:
        data = config.data.source
        settings.pop("data.source", None)
    parameters = {"profile": config.profile, "run": ws.run, "data": data, "settings": settings}
    check(steps, config, parameters)
    return config, ws, parameters


def chosen_steps(first: str | None, last: str | None) -> list[Step]:
    """Return the steps from number `first` to number `last`, both included.

    Raises
    ------
    WorkbookError : no notebook has that number, or they are in the wrong order.
    """
    numbers = [step.number for step in STEPS]
    for option, number in (("--from", first), ("--to", last)):
        if number is not None and number not in numbers:
            raise WorkbookError(
                f"{option} {number}: no notebook has this number; there are {', '.join(numbers)}"
            )
    start = numbers.index(first or numbers[0])
    end = numbers.index(last or numbers[-1])
    if start > end:
        raise WorkbookError(f"--from {first} comes after --to {last}: exchange them")
    return list(STEPS[start : end + 1])


def check(steps: Sequence[Step], config: Config, parameters: Mapping[str, Any]) -> None:
    """Raise WorkbookError where something that the steps need is not there; nothing is written."""
    for step in steps:
        execution.check_parameters(step.notebook, parameters)
    free = workspace.free_disk()
    if free < NEEDED_DISK_BYTES:
        raise WorkbookError(
            f"{free / 1e9:.2f} GB free in {workspace.home()}, {NEEDED_DISK_BYTES / 1e9:.0f} GB "
            "needed; make room, or set WORKBOOK_HOME to a larger disk"
        )
    tracking.check(config)
    engine.check(config)
    for setting, name in needed_models(steps, config).items():
        backbones.check_available(name, setting=setting)


def needed_models(steps: Sequence[Step], config: Config) -> dict[str, str]:
    """Return the models that the steps load: the setting that names each -> hub name or folder."""
    models: dict[str, str] = {}
    if any(map(_uses_backbone, steps)):
        models |= _backbones(config)
    if config.labels.encoder and any("labels" in step.settings for step in steps):
        models["labels.encoder"] = config.labels.encoder
    if any("augmentation" in step.settings for step in steps):
        models |= config.augmentation.models
    return models


def step_key(step: Step, config: Config, ws: Workspace) -> str:
    """Return a hash over all that a notebook's result depends on.

    That is its source, the code that it imports, its settings, and the files it reads. Files that
    it also writes (people's decisions) are left out: they are compared with what it left.
    """
    document = nbformat.read(workspace.NOTEBOOKS / f"{step.notebook}.ipynb", as_version=4)
    cells = [(cell.cell_type, cell.source) for cell in document.cells]
    code = "\n".join(source for kind, source in cells if kind == "code")
    backbone = Path(config.training.backbone)  # a local one may change under the same name
    is_local = _uses_backbone(step) and backbone.is_dir()
    watched = (config.monitoring.log, config.monitoring.labels)
    logs = [Path(path) for path in watched if path and "monitoring" in step.settings]
    return provenance.fingerprint(
        cells,
        provenance.code_fingerprint(*provenance.imports_of(code)),
        step_settings(step, config),
        files_read(step, config, ws),
        provenance.path_fingerprint(backbone) if is_local else None,
        *logs,
    )


def files_read(step: Step, config: Config, ws: Workspace) -> dict[str, str | None]:
    """Return the fingerprints of the files that a notebook reads and does not write itself."""
    reads = {}
    for name in step.reads:
        if name not in step.writes:
            path = sources.raw_path(config) if name == "source" else ws.path(name)
            reads[name] = provenance.path_fingerprint(path)
    return reads


def step_settings(step: Step, config: Config) -> dict[str, Any]:
    """Return the settings that a notebook's result depends on, by dotted key."""
    used = {"seed", *step.settings}
    return {
        key: value
        for key, value in config.flat().items()
        if key in used or key.split(".")[0] in used
    }


@dataclass(frozen=True)
class Session:
    """One call of the runner.

    Attributes
    ----------
    parameters : injected into each notebook
    record : the content of run.json
    """

    config: Config
    ws: Workspace
    parameters: dict[str, Any]
    record: dict[str, Any]
    progress: bool

    def run(
        self, steps: Sequence[Step], tracked: tracking.Record | None, *, force: bool
    ) -> list[str]:
        """Execute the steps that are not up to date; return their notebooks."""
        executed = []
        bar = tqdm(steps, desc="notebooks", unit="notebook", disable=not self.progress)
        with bar, execution.live_output(bar), preloading.preloaded() as kernels:
            for place, step in enumerate(steps):
                bar.set_description_str(step.notebook)
                if force or self.why_stale(step):
                    executed.append(step.notebook)
                    if tracked:
                        tracked.start()
                    left = [later for later in steps[place:] if later.number >= WITH_MODELS]
                    if len(left) >= WORTH_PRELOADING:
                        kernels.start()
                    self.execute(step)
                bar.update()
            bar.set_description_str("notebooks")
            bar.set_postfix_str("")
        self.record["finished"] = provenance.now()
        self._save_record()
        return executed

    def why_stale(self, step: Step) -> str:
        """Return why a notebook is to run; "" where it is done and nothing has changed since."""
        state = self.record["steps"].get(step.notebook, {})
        if state.get("state") != "done":
            return f"{state['state']} before" if state else "new"
        written = self._written(step).items()
        changed = [name for name, content in written if state["writes"].get(name) != content]
        if changed:
            return f"what it wrote has changed: {listed(changed)}"
        if not all(self._page(step, ending).exists() for ending in (".ipynb", ".html")):
            return "its page is gone"
        if state["key"] == step_key(step, self.config, self.ws):
            return ""
        settings = json.loads(json.dumps(step_settings(step, self.config)))
        changed = [key for key in settings if settings[key] != state["settings"].get(key)]
        if changed:
            return f"settings changed: {listed(changed)}"
        reads = state.get("reads", {})
        files = files_read(step, self.config, self.ws)
        changed = [name for name in files if name in reads and files[name] != reads[name]]
        return f"files changed: {listed(changed)}" if changed else "its cells or the code changed"

    def execute(self, step: Step) -> None:
        """Execute a notebook and write its page.

        Raises
        ------
        WorkbookError : a cell failed; the heading above it and its error are named.
        """
        started = time.perf_counter()
        for ending in (".html", ".failed.ipynb", ".failed.html"):
            self._page(step, ending).unlink(missing_ok=True)
        # as it is before: what changes meanwhile makes it stale
        key = step_key(step, self.config, self.ws)
        reads = files_read(step, self.config, self.ws)
        state = {"state": "started", "started": provenance.now()}
        self.record["finished"] = None
        self._set_state(step, state)
        notebook = self._page(step, ".ipynb")
        with workspace.atomic_path(notebook) as scratch:
            failure = execution.execute(
                step.notebook, scratch, self.parameters, progress=self.progress
            )
            if failure:
                failed = self._page(step, ".failed.ipynb")
                shutil.copy(scratch, failed)
                pages.export_notebook(failed, failed.with_suffix(".html"), run=self.ws.run)
                self._set_state(step, {"state": "failed", "error": failure, "seconds": None})
                site.write_index(self.ws, self.record)
                remedy = "the same command goes on"
                raise WorkbookError(f"{failure}\n(the whole notebook: {failed}; {remedy})")
        pages.export_notebook(notebook, self._page(step, ".html"), run=self.ws.run)
        done = {
            "state": "done",
            "key": key,
            "settings": step_settings(step, self.config),
            "reads": reads,
            "started": state["started"],
            "machine": site.machine_line(self.record["machine"]),
            "seconds": round(time.perf_counter() - started, 1),
            "writes": self._written(step),
        }
        self._set_state(step, done)
        site.write_index(self.ws, self.record)

    def _page(self, step: Step, ending: str) -> Path:
        return self.ws.folder(workspace.REPORTS) / f"{step.notebook}{ending}"

    def _written(self, step: Step) -> dict[str, str | None]:
        return {name: provenance.path_fingerprint(self.ws.path(name)) for name in step.writes}

    def _set_state(self, step: Step, state: dict[str, Any]) -> None:
        self.record["steps"][step.notebook] = state
        self._save_record()

    def _save_record(self) -> None:
        workspace.write_json(self.record, self.ws.folder(workspace.REPORTS) / "run.json")


def _uses_backbone(step: Step) -> bool:
    return bool({"training", "training.backbone"} & set(step.settings))


def _backbones(config: Config) -> dict[str, str]:
    """Return the backbones that a run trains, each once: setting -> hub name or folder."""
    settings = {"training.backbone": config.training.backbone}
    for member in config.cross_validation.members:
        setting = f"cross_validation.members: {member!r}: backbone"
        settings[setting] = config.member(member).backbone
    choices = config.search_space().get("backbone", ()) if config.search.trials else ()
    if isinstance(choices, tuple):
        for i, name in enumerate(choices):
            settings[f"search.space.backbone[{i}]"] = name
    first_setting: dict[str, str] = {}
    for setting, name in settings.items():
        first_setting.setdefault(name, setting)
    return {setting: name for name, setting in first_setting.items()}


@contextmanager
def _lock(ws: Workspace) -> Iterator[None]:
    """Hold the run's lock, and clear what a killed process left.

    The system lets go of the lock, however the process ends.
    """
    from filelock import FileLock, Timeout

    folder = ws.folder(workspace.REPORTS)
    probe = folder / ".lock-probe"  # says in one line where the folder cannot be written
    with workspace.atomic_path(probe) as scratch:
        scratch.touch()
    probe.unlink()
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise WorkbookError(
            f"run {ws.run!r} is in use by another process; wait for it, or name another with --run"
        ) from None
    try:
        for place in (workspace.PROCESSED, workspace.MODELS, workspace.REPORTS):
            for scratch in ws.folder(place).glob(".*.*"):
                if scratch.is_dir():
                    shutil.rmtree(scratch, ignore_errors=True)
        yield
    finally:
        lock.release()


def _open_record(
    config: Config, ws: Workspace, overrides: dict[str, Any], table: Any
) -> dict[str, Any]:
    """Return run.json: the steps done before, with this call's settings, data and machine."""
    facts = workspace.read_facts(sources.raw_path(config))
    return {
        "run": ws.run,
        "profile": config.profile,
        "overrides": overrides,
        "settings": config.flat(),
        "data": {
            "source": config.data.source,
            "dataset": ws.dataset,
            "fingerprint": facts.get("fingerprint"),
            "rows": len(table),
            "classes": int(table["label"].nunique()),
            "packages": facts.get("packages"),
        },
        "machine": provenance.machine_facts(),
        "steps": steps_done(ws),
        "finished": None,
    }


def steps_done(ws: Workspace) -> dict[str, Any]:
    """Return the states of a run's notebooks in run.json."""
    path = ws.folder(workspace.REPORTS) / "run.json"
    try:
        return workspace.read_json(path)["steps"] if path.exists() else {}
    except (ValueError, KeyError):
        return {}  # not ours, or damaged by hand: all is executed again
