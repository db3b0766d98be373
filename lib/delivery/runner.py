"""The notebooks of a run, executed in order with papermill; finished ones are skipped when nothing they depend on changed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
from tqdm import tqdm

from lib import provenance, workspace
from lib.config import Config, closest
from lib.data import sources
from lib.delivery import recording, site
from lib.errors import WorkbookError
from lib.steps import STEPS, Step
from lib.training import backbones, engine, tracking
from lib.workspace import FILES, Workspace

NEEDED_DISK_BYTES = 1e9  # a run on 20,000 texts writes some 300 MB, most of it the model
LAST_ANSWER = 0.5  # seconds that a kernel has to finish its last answer before it is ended


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
    WorkbookError : a parameter is wrong or the data cannot be used (nothing has been started then); another process
        is at this run; a notebook failed (what earlier ones wrote is kept).
    """
    started = time.perf_counter()
    data = (
        str(Path(data).resolve())
        if data and data != "docstrings" and not data.startswith("hub:")
        else data
    )
    config, ws = workspace.open_run(profile=profile, run=run, data=data, settings=overrides or {})
    parameters = {
        "profile": config.profile,
        "run": ws.run,
        "data": data,
        "settings": dict(overrides or {}),
    }
    steps = chosen_steps(first, last)
    for step in steps:
        check_parameters(step.notebook, parameters)
    _check_disk()
    tracking.check(config)
    engine.check(config)
    for setting, name in _backbones(config).items() if any(map(_uses_backbone, steps)) else ():
        backbones.check_available(name, setting=setting)
    if config.labels.encoder and any("labels" in step.settings for step in steps):
        backbones.check_available(config.labels.encoder, setting="labels.encoder")
    for setting, name in (
        config.augmentation.models.items()
        if any("augmentation" in step.settings for step in steps)
        else ()
    ):
        backbones.check_available(name, setting=setting)
    table = sources.raw_table(config, progress=progress)
    with _only_run(ws):
        for name in steps[0].reads if steps[0] != STEPS[0] else ():
            if name != "source" and FILES[name][1] != steps[0].notebook:
                ws.existing(name)
        record = _opened_record(config, ws, parameters, table)
        with tracking.workbook_run(config, ws) as tracked:
            executed = _run_steps(
                steps,
                config,
                ws,
                parameters,
                record,
                tracked=tracked,
                force=force,
                progress=progress,
            )
            index = site.write_index(ws, record)
            if tracked and executed:
                recording.record_results(
                    tracked, ws, evaluated=any("metrics.json" in step.writes for step in steps)
                )
    skipped = [step.notebook for step in steps if step.notebook not in executed]
    return RunResult(
        ws.folder(workspace.REPORTS), index, executed, skipped, time.perf_counter() - started
    )


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
    start, end = numbers.index(first or numbers[0]), numbers.index(last or numbers[-1])
    if start > end:
        raise WorkbookError(f"--from {first} comes after --to {last}")
    return list(STEPS[start : end + 1])


def check_parameters(notebook: str, parameters: Mapping[str, Any]) -> None:
    """Raise WorkbookError where the notebook's parameters cell has no such name; the closest one is named."""
    known = notebook_parameters(workspace.NOTEBOOKS / f"{notebook}.ipynb")
    for name in parameters:
        if name not in known:
            raise WorkbookError(
                f"{notebook} has no parameter {name!r}{closest(name, known)}; it takes {', '.join(known)}"
            )


def notebook_parameters(path: Path) -> list[str]:
    """Return the names in the parameters cell of a notebook."""
    import papermill

    return list(papermill.inspect_notebook(str(path)))


def step_key(step: Step, config: Config, ws: Workspace) -> str:
    """Return a hash over all that a notebook's result depends on: its source, lib, settings, and the files it reads.

    Files that it also writes (people's decisions) are left out: they are compared with what it left.
    """
    document = nbformat.read(workspace.NOTEBOOKS / f"{step.notebook}.ipynb", as_version=4)
    backbone = Path(config.training.backbone)  # a local one may change under the same name
    parts = {
        "source": [(cell.cell_type, cell.source) for cell in document.cells],
        "code": provenance.code_fingerprint(*_imports(document)),
        "settings": step_settings(step, config),
        "reads": {
            name: provenance.path_fingerprint(_read_path(name, config, ws))
            for name in step.reads
            if name not in step.writes
        },
        "backbone": provenance.path_fingerprint(backbone)
        if _uses_backbone(step) and backbone.is_dir()
        else None,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _backbones(config: Config) -> dict[str, str]:
    """Return the backbones that a run trains: the setting that names each -> hub name or folder."""
    members = {
        f"cross_validation.members: {name!r}: backbone": config.member(name).backbone
        for name in config.cross_validation.members
    }
    space = config.search_space().get("backbone", ()) if config.search.trials else ()
    searched = (
        {f"search.space.backbone[{i}]": name for i, name in enumerate(space)}
        if isinstance(space, tuple)
        else {}
    )
    distinct: dict[str, str] = {}
    for setting, name in {
        "training.backbone": config.training.backbone,
        **members,
        **searched,
    }.items():
        distinct.setdefault(name, setting)
    return {setting: name for name, setting in distinct.items()}


def step_settings(step: Step, config: Config) -> dict[str, Any]:
    """Return the settings that a notebook's result depends on, by dotted key."""
    used = {"seed", *step.settings}
    return {
        key: value
        for key, value in config.flat().items()
        if key in used or key.split(".")[0] in used
    }


def _imports(document: nbformat.NotebookNode) -> list[str]:
    """Return the modules that a notebook's code imports, as dotted names."""
    code = [cell.source for cell in document.cells if cell.cell_type == "code"]
    return provenance.imports_of("\n".join(code))


def _uses_backbone(step: Step) -> bool:
    return bool({"training", "training.backbone"} & set(step.settings))


def _run_steps(
    steps: Sequence[Step],
    config: Config,
    ws: Workspace,
    parameters: dict[str, Any],
    record: dict[str, Any],
    *,
    tracked: tracking.Record | None,
    force: bool,
    progress: bool,
) -> list[str]:
    executed = []
    with (
        tqdm(steps, desc="notebooks", unit="notebook", disable=not progress) as bar,
        _live_output(bar),
    ):
        for step in steps:
            bar.set_description_str(step.notebook)
            if force or not _is_done(step, config, ws, record):
                executed.append(step.notebook)
                if tracked:
                    tracked.start()
                _execute(step, config, ws, parameters, record, progress=progress)
            bar.update()
        bar.set_description_str("notebooks")
        bar.set_postfix_str("")
    record["finished"] = _now()
    _save_record(ws, record)
    return executed


def _is_done(step: Step, config: Config, ws: Workspace, record: dict[str, Any]) -> bool:
    done = record["steps"].get(step.notebook, {})
    pages = [
        ws.folder(workspace.REPORTS) / f"{step.notebook}{ending}" for ending in (".ipynb", ".html")
    ]
    if (
        done.get("state") != "done"
        or not all(page.exists() for page in pages)
        or done["key"] != step_key(step, config, ws)
    ):
        return False
    return done["writes"] == {
        name: provenance.path_fingerprint(ws.path(name)) for name in step.writes
    }


def _execute(
    step: Step,
    config: Config,
    ws: Workspace,
    parameters: dict[str, Any],
    record: dict[str, Any],
    *,
    progress: bool,
) -> None:
    folder, started = ws.folder(workspace.REPORTS), time.perf_counter()
    for ending in (".html", ".failed.ipynb"):
        (folder / f"{step.notebook}{ending}").unlink(missing_ok=True)
    key = step_key(step, config, ws)  # as it is before: what changes meanwhile makes it stale
    record["steps"][step.notebook] = {"state": "started", "started": _now()}
    record["finished"] = None
    _save_record(ws, record)
    with workspace.atomic_path(folder / f"{step.notebook}.ipynb") as scratch:
        failure = _papermill(step, scratch, parameters, progress=progress)
        if failure:
            shutil.copy(scratch, folder / f"{step.notebook}.failed.ipynb")
            record["steps"][step.notebook] = {"state": "failed", "error": failure, "seconds": None}
            _save_record(ws, record)
            site.write_index(ws, record)
            raise WorkbookError(
                f"{failure}\n(the whole notebook: {folder / step.notebook}.failed.ipynb)"
            )
    site.export_notebook(
        folder / f"{step.notebook}.ipynb", folder / f"{step.notebook}.html", run=ws.run
    )
    record["steps"][step.notebook] = {
        "state": "done",
        "key": key,
        "settings": step_settings(step, config),
        "started": record["steps"][step.notebook]["started"],
        "seconds": round(time.perf_counter() - started, 1),
        "writes": {name: provenance.path_fingerprint(ws.path(name)) for name in step.writes},
    }
    _save_record(ws, record)
    site.write_index(ws, record)


def _papermill(
    step: Step, output: Path, parameters: dict[str, Any], *, progress: bool
) -> str | None:
    """Execute one notebook; return None, or the failing cell's error with the heading it stands under."""
    import papermill
    from jupyter_client.manager import AsyncKernelManager
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config as Traits

    class KernelManager(AsyncKernelManager):
        """Ends a kernel with an interrupt first, as jupyter_client does, but not within its last answer: the kernel's own code would print a traceback."""

        async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:  # type: ignore[override]  # theirs is a coroutine too
            await asyncio.sleep(LAST_ANSWER)
            await super().shutdown_kernel(now=now, restart=restart)

    try:
        with tempfile.TemporaryDirectory(
            prefix="kernel-"
        ) as sockets:  # of this kernel alone: a shared name mixes up runs side by side
            papermill.execute_notebook(
                str(workspace.NOTEBOOKS / f"{step.notebook}.ipynb"),
                str(output),
                parameters=parameters,
                kernel_name="python3",
                cwd=str(workspace.NOTEBOOKS),
                log_output=True,
                progress_bar={"desc": "  cells", "leave": False} if progress else False,
                kernel_manager_class=KernelManager,
                config=Traits(
                    {
                        "KernelManager": {
                            "transport": "ipc",
                            "connection_file": f"{sockets}/kernel.json",
                        }
                    }
                ),  # no open port
            )
    except papermill.PapermillExecutionError as error:
        return f"{step.notebook} stopped under {_heading(output)!r}: {error.ename}: {error.evalue}"
    except DeadKernelError:
        return f"{step.notebook} stopped under {_heading(output)!r}: its kernel died; was it out of memory? Fewer rows: --set data.rows=5000"
    return None


def _heading(executed: Path) -> str:
    """Return the last heading above the cell that failed, or that was running when the kernel died."""
    heading = ""
    for cell in nbformat.read(executed, as_version=4).cells:
        if cell.cell_type == "markdown" and "papermill-error-cell-tag" not in cell.metadata.get(
            "tags", []
        ):
            heads = [line for line in cell.source.splitlines() if line.startswith("#")]
            heading = heads[-1].lstrip("# ") if heads else heading
        if cell.metadata.get("papermill", {}).get("status") in ("failed", "running"):
            break
    return heading


@contextmanager
def _only_run(ws: Workspace) -> Iterator[None]:
    """Hold the run's lock, which the system lets go of however the process ends; then clear what a killed one left."""
    from filelock import FileLock, Timeout

    folder = ws.folder(workspace.REPORTS)
    with workspace.atomic_path(
        folder / ".lock-probe"
    ) as probe:  # says in one line where the folder cannot be written
        probe.touch()
    (folder / ".lock-probe").unlink()
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise WorkbookError(
            f"another process is at run {ws.run!r}; wait for it, or name another with --run"
        ) from None
    try:
        for place in (workspace.PROCESSED, workspace.MODELS, workspace.REPORTS):
            for left_over in ws.folder(place).glob(".*.*"):
                if left_over.is_dir():
                    shutil.rmtree(left_over, ignore_errors=True)
        yield
    finally:
        lock.release()


def _check_disk() -> None:
    free = workspace.free_disk()
    if free < NEEDED_DISK_BYTES:
        needed = NEEDED_DISK_BYTES / 1e9
        raise WorkbookError(
            f"{free / 1e9:.2f} GB free in {workspace.home()}, {needed:.0f} GB needed; make room, or set WORKBOOK_HOME to a larger disk"
        )


def _opened_record(
    config: Config, ws: Workspace, parameters: dict[str, Any], table: Any
) -> dict[str, Any]:
    """Return run.json's content: the earlier one's steps with this call's settings, data and machine."""
    path = ws.folder(workspace.REPORTS) / "run.json"
    try:
        steps = workspace.read_json(path)["steps"] if path.exists() else {}
    except (ValueError, KeyError):
        steps = {}  # not ours, or damaged by hand: all is executed again
    facts = workspace.read_facts(sources.raw_path(config))
    return {
        "run": ws.run,
        "profile": config.profile,
        "overrides": parameters["settings"],
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
        "steps": steps,
        "finished": None,
    }


def _save_record(ws: Workspace, record: dict[str, Any]) -> None:
    workspace.write_json(record, ws.folder(workspace.REPORTS) / "run.json")


def _read_path(name: str, config: Config, ws: Workspace) -> Path:
    return sources.raw_path(config) if name == "source" else ws.path(name)


@contextmanager
def _live_output(bar: tqdm) -> Iterator[None]:
    """Show the last line that the running cell wrote to standard error (a training bar, say) behind the bar of notebooks.

    Where the output is a file, a line every 15 seconds is enough.
    """
    pause = 0 if sys.stderr.isatty() else 15

    class LastLine(logging.Handler):
        shown = 0.0

        def emit(self, record: logging.LogRecord) -> None:
            lines = [
                line
                for line in record.getMessage().replace("\r", "\n").splitlines()
                if line.strip()
            ]
            if lines and time.monotonic() - self.shown >= pause:
                bar.set_postfix_str(lines[-1].strip()[:70])
                self.shown = time.monotonic()

    logger, handler = (
        logging.getLogger("papermill"),
        LastLine(logging.WARNING),
    )  # papermill logs standard error as warnings
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
