"""Every run, fold and trial as a nested run of MLflow, on a server or in a local file, and of W&B by a switch."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import random
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from lib import workspace
from lib.config import Config
from lib.data import sources
from lib.errors import WorkbookError
from lib.workspace import Workspace

MLFLOW = {  # what its client reads; a value of yours stands
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",  # seconds: a server that is down must not hold a training up
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
BATCH = 90  # params or tags in one call; MLflow takes 100
SERIES = ("loss", "learning_rate", "grad_norm", "eval_loss", "eval_macro_f1", "eval_accuracy")  # of a training, by step
_down: set[str] = set()  # servers that did not answer this process


@dataclass(frozen=True)
class Opening:
    """What a run is opened with.

    Attributes
    ----------
    name : shown
    dataset, run : of the workspace; the data set is MLflow's experiment
    series : "folds", "ledger"; "" for what is no trial
    key : a run that has it and was not finished is gone on with
    parent : the workbook run; None where this is one
    """

    name: str
    dataset: str
    run: str
    series: str
    key: str
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, Any] = field(default_factory=dict)
    parent: Opening | None = None


def local_folder() -> Path:
    """Return where runs are recorded without a server: a SQLite file, and artifacts beside it."""
    return workspace.home() / "models" / "mlflow"


def local_uri() -> str:
    """Return MLflow's name for the local store."""
    return f"sqlite:///{local_folder() / 'mlflow.db'}"


def check(config: Config) -> None:
    """Raise WorkbookError where W&B is asked for and not installed."""
    if config.tracking.wandb and importlib.util.find_spec("wandb") is None:
        raise WorkbookError("tracking.wandb=true needs the package wandb: pip install -c constraints.txt wandb, or set tracking.wandb=false")


def mlflow_client(uri: str = "") -> Any:
    """Return a client of a tracking server, or of the local store where `uri` is ""; it phones nobody and says nothing."""
    from filelock import FileLock

    for name, value in MLFLOW.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    from mlflow.tracking import MlflowClient

    if uri:
        return MlflowClient(uri)
    local_folder().mkdir(parents=True, exist_ok=True)
    with FileLock(local_folder() / ".lock"):  # two processes would make the tables together
        return MlflowClient(local_uri())


class Record:
    """One run in every place where it is recorded. What fails here is said in one line, and never stops or changes a training.

    Attributes
    ----------
    notes : what a reader should know, for instance that the server was down
    """

    def __init__(self, config: Config, opening: Opening):
        self.config, self.opening = config, opening
        self.notes: list[str] = []
        self._places: list[_MLflow | _WandB] = []
        self._said: list[tuple[str, tuple[Any, ...]]] = []  # told again to the local file where a server dies
        self._logged: set[tuple[str, int]] = set()

    def start(self) -> None:
        """Open the run, or go on with the one that is not finished; nothing where that was done."""
        if self._said:
            return
        settings = self.config.tracking
        if settings.backend == "mlflow":
            uri = "" if settings.uri in _down else settings.uri
            self._places.append(_MLflow(uri, system_metrics=settings.system_metrics and self.opening.parent is not None))
        if settings.wandb:
            self._places.append(_WandB(system_metrics=settings.system_metrics))
        self._say("open", self.opening)
        for place in self._places:
            self._logged |= place.known

    def metrics(self, values: Mapping[str, float], *, step: int | None = None) -> None:
        """Record numbers; one that was recorded at this step before is left out."""
        fresh = {name: float(value) for name, value in values.items() if step is None or (name, step) not in self._logged}
        self._logged |= {(name, step) for name in fresh if step is not None}
        if fresh:
            self._say("metrics", fresh, step)

    def log_step(self, values: Mapping[str, float], step: int) -> None:
        """Record an entry of the Trainer's log."""
        self.metrics({name: values[name] for name in SERIES if name in values}, step=step)

    def history(self, table: pd.DataFrame) -> None:
        """Record what of a training's history was not recorded live."""
        for entry in table.to_dict("records"):
            self.log_step({name: value for name, value in entry.items() if pd.notna(value)}, int(entry["step"]))

    def tags(self, values: Mapping[str, Any]) -> None:
        """Record words."""
        self._say("tags", {name: _text(value) for name, value in values.items()})

    def artifacts(self, folder: Path, place: str = "") -> None:
        """Record the files of a folder."""
        self._say("artifacts", folder, place)

    def close(self, status: str, error: BaseException | None = None) -> None:
        """End the run as FINISHED, FAILED or KILLED, with the error."""
        if error is not None:
            self.tags({"error": f"{type(error).__name__}: {error}"})
        self._say("close", status)

    def next_try(self, error: BaseException) -> None:
        """End the run as failed, and open another for a second try."""
        self.close("FAILED", error)
        self._said, self._places, self._logged = [], [], set()
        self.opening = replace(self.opening, name=f"{self.opening.name}, second try")
        self.start()

    def _say(self, what: str, *words: Any) -> None:
        self._said.append((what, words))
        for place in list(self._places):
            self._tell(place, [(what, words)])

    def _tell(self, place: _MLflow | _WandB, sentences: list[tuple[str, tuple[Any, ...]]]) -> None:
        drawn = random.getstate(), np.random.get_state()  # names and pauses are drawn in there: a training's numbers stay as they are
        try:
            for what, words in sentences:
                getattr(place, what)(*words)
        except Exception as error:
            self._places.remove(place)
            self._without(place, error)
        finally:
            random.setstate(drawn[0])
            np.random.set_state(drawn[1])

    def _without(self, place: _MLflow | _WandB, error: Exception) -> None:
        why = reason(error)
        if not isinstance(place, _MLflow) or not place.uri:
            self._note(f"tracking: nothing more goes to {place.named}: {why}")
            return
        _down.add(place.uri)
        self._note(f"tracking: {place.named} cannot be used, recorded in {local_uri()} instead: {why}")
        local = _MLflow("", system_metrics=place.system_metrics)
        self._places.append(local)
        self._logged -= place.known
        self._tell(local, self._said)

    def _note(self, line: str) -> None:
        self.notes.append(line)
        tqdm.write(f"workbook: {line}", file=sys.stderr)


class _MLflow:
    def __init__(self, uri: str, *, system_metrics: bool):
        self.uri, self.system_metrics, self.known = uri, system_metrics, set[tuple[str, int]]()
        self.named = f"the MLflow server {uri}" if uri else local_uri()
        self.monitor: Any = None
        self.orphaned = ""  # a parent that nobody else ends

    def connect(self, dataset: str) -> None:
        self.client = mlflow_client(self.uri)
        self.experiment = self._experiment(dataset)

    def open(self, opening: Opening) -> None:
        self.connect(opening.dataset)
        tags = {"workbook.key": opening.key}
        if opening.parent:
            tags["mlflow.parentRunId"] = self.parent(opening.parent)
        self.run_id = self._unfinished(opening) or self._begin(opening, tags)
        if self.system_metrics:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            self.monitor = SystemMetricsMonitor(self.run_id, resume_logging=True, tracking_uri=self.uri or local_uri())
            self.monitor.start()

    def metrics(self, values: dict[str, float], step: int | None) -> None:
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        now, entries = get_current_time_millis(), list(values.items())
        for start in range(0, len(entries), BATCH):
            self.client.log_batch(self.run_id, metrics=[Metric(name, value, now, step or 0) for name, value in entries[start : start + BATCH]])

    def tags(self, values: Mapping[str, str], run_id: str = "") -> None:
        from mlflow.entities import RunTag

        entries = list(values.items())
        for start in range(0, len(entries), BATCH):
            self.client.log_batch(run_id or self.run_id, tags=[RunTag(*entry) for entry in entries[start : start + BATCH]])

    def artifacts(self, folder: Path, place: str) -> None:
        self.client.log_artifacts(self.run_id, str(folder), place or None)

    def close(self, status: str) -> None:
        if self.monitor:
            self.monitor.finish()
        self.client.set_terminated(self.run_id, status)
        if self.orphaned:
            self.client.set_terminated(self.orphaned, status)

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found:
            return found.experiment_id
        with suppress(Exception):  # another process may have been faster
            return self.client.create_experiment(name, artifact_location=None if self.uri else (local_folder() / "artifacts").as_uri())
        return self.client.get_experiment_by_name(name).experiment_id

    def _begin(self, opening: Opening, tags: dict[str, str]) -> str:
        from mlflow.entities import Param

        tags = {"workbook.run": opening.run, "workbook.series": opening.series, "workbook.kind": "training" if opening.parent else "run", **tags}
        run_id = self.client.create_run(self.experiment, run_name=opening.name, tags=tags).info.run_id
        params = [Param(name, _text(value)) for name, value in opening.params.items()]
        for start in range(0, len(params), BATCH):
            self.client.log_batch(run_id, params=params[start : start + BATCH])
        self.tags({name: _text(value) for name, value in opening.tags.items() if value is not None}, run_id)
        return run_id

    def _unfinished(self, opening: Opening) -> str:
        """Return the run to go on with: a workbook run of this key, or a training of this key that was stopped; "" where there is none."""
        for run in self._runs(f"tags.`workbook.key` = '{opening.key}'"):
            if not opening.parent or run.info.status in ("RUNNING", "KILLED"):
                self._take_up(run)
                return run.info.run_id
        dead = f"attributes.status = 'RUNNING' and tags.`workbook.kind` = 'training' and tags.`workbook.run` = '{opening.run}'"
        for run in self._runs(dead) if opening.parent else ():
            if run.info.run_name == opening.name:  # of other data or settings: its process is no more
                self.client.set_terminated(run.info.run_id, "KILLED")
        return ""

    def _take_up(self, run: Any) -> None:
        self.client.update_run(run.info.run_id, status="RUNNING")
        for name in SERIES:
            self.known |= {(name, each.step) for each in (self.client.get_metric_history(run.info.run_id, name) if name in run.data.metrics else [])}

    def parent(self, parent: Opening) -> str:
        known = f" and tags.`workbook.key` = '{parent.key}'" if parent.key else ""
        runs = self._runs(f"tags.`workbook.kind` = 'run' and tags.`workbook.run` = '{parent.run}'{known}")
        if runs:
            return runs[0].info.run_id
        self.orphaned = self._begin(parent, {"workbook.key": parent.key})
        return self.orphaned

    def _runs(self, wanted: str) -> list[Any]:
        return list(self.client.search_runs([self.experiment], wanted, max_results=1_000, order_by=["attributes.start_time DESC"]))


class _WandB:
    named = "W&B"

    def __init__(self, *, system_metrics: bool):
        self.system_metrics, self.known = system_metrics, set[tuple[str, int]]()

    def open(self, opening: Opening) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        folder = workspace.home() / "models" / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        again: dict[str, Any] = {} if opening.parent else {"id": opening.key[:16], "resume": "allow"}
        self.run = wandb.init(
            project=opening.dataset,
            group=opening.run,
            job_type=(opening.series or "training") if opening.parent else "run",
            name=opening.name,
            config={**opening.params, **opening.tags},
            dir=str(folder),
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", init_timeout=20, x_disable_stats=not self.system_metrics),
            **again,
        )

    def metrics(self, values: dict[str, float], step: int | None) -> None:
        self.run.summary.update(values) if step is None else self.run.log(values, step=step)

    def tags(self, values: Mapping[str, str]) -> None:
        self.run.config.update(dict(values), allow_val_change=True)

    def artifacts(self, folder: Path, place: str) -> None:
        import wandb

        files = wandb.Artifact(f"{place or 'report'}-{self.run.id}", type=place or "report")
        files.add_dir(str(folder))
        self.run.log_artifact(files)

    def close(self, status: str) -> None:
        self.run.summary["status"] = status
        self.run.finish(exit_code=int(status != "FINISHED"))


@contextmanager
def workbook_run(config: Config, ws: Workspace) -> Iterator[Record | None]:
    """Give the record of a workbook run, which is opened by its `start`, and end it with the block; None where nothing is recorded."""
    if not _is_on(config):
        yield None
        return
    with _closing(Record(config, _of_run(config, ws))) as record:
        yield record


@contextmanager
def training(train: pd.DataFrame, val: pd.DataFrame, *, config: Config, run: Workspace, name: str = "") -> Iterator[Record | None]:
    """Give the record of one training, within that of its workbook run, and end it with the block; None where nothing is recorded.

    Parameters
    ----------
    train, val : with `text` and `label`
    run : of a series such as "quick/folds" the first part is the workbook run
    name : of a trial of a series
    """
    if not _is_on(config):
        yield None
        return
    with _closing(Record(config, _of_training(train, val, config=config, run=run, name=name))) as record:
        record.start()
        yield record


def workbook_run_id(ws: Workspace, uri: str = "") -> str:
    """Return MLflow's id of a workbook run, the newest of its name; it is made where runs were not recorded."""
    place = _MLflow(uri, system_metrics=False)
    place.connect(ws.dataset)
    run_id = place.parent(Opening(ws.run, ws.dataset, ws.run, "", ""))
    if place.orphaned:
        place.client.set_terminated(run_id)
    return run_id


def _is_on(config: Config) -> bool:
    return config.tracking.backend != "none" or config.tracking.wandb


@contextmanager
def _closing(record: Record) -> Iterator[Record]:
    try:
        yield record
    except BaseException as error:
        stopped = not isinstance(error, Exception) or type(error).__name__ == "TrialPruned"  # by a person, or by a search
        if record._said:
            record.close("KILLED" if stopped else "FAILED", error)
        raise
    if record._said:
        record.close("FINISHED")


def _of_run(config: Config, ws: Workspace) -> Opening:
    settings = {key: value for key, value in config.flat().items() if not key.startswith("tracking.")}
    data: dict[str, Any] = {}
    with suppress(WorkbookError, OSError):
        data = workspace.read_facts(sources.raw_path(config))
    tags = {"data.source": config.data.source, "data.fingerprint": data.get("fingerprint"), "data.rows": data.get("rows"), **_machine()}
    key = _digest([ws.dataset, ws.run, config.profile, settings])
    return Opening(ws.run, ws.dataset, ws.run, "", key, {"profile": config.profile, **settings}, tags)


def _of_training(train: pd.DataFrame, val: pd.DataFrame, *, config: Config, run: Workspace, name: str) -> Opening:
    of_run, _, series = run.run.partition("/")
    tables = {f"data.{part}": workspace.table_fingerprint(table[["text", "label"]]) for part, table in (("train", train), ("val", val))}
    settings = {key: value for key, value in config.flat().items() if key == "seed" or key.startswith("training.")}
    shown = "/".join(part for part in (series, name or "training", f"seed {config.seed}") if part)
    key = _digest([run.dataset, run.run, name, *tables.values(), settings, workspace.code_fingerprint()])
    whole = Workspace(dataset=run.dataset, run=of_run)
    # a trial's settings are its own: where nobody has opened the workbook run yet, nothing is known of that one's
    parent = _of_run(config, whole) if not series else Opening(of_run, run.dataset, of_run, "", "", tags=_machine())
    rows = {"data.train_rows": len(train), "data.val_rows": len(val)}
    return Opening(shown, run.dataset, of_run, series, key, settings, {**tables, **rows, **_machine()}, parent)


def reason(error: Exception) -> str:
    """Return in one short line why a place cannot be used; of a chain of network errors the innermost."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    known = re.findall(r"\[Errno -?\d+\] [\w ]+|timed out|Remote end closed[\w ]*", line)
    return known[-1] if known else line[:150]


@lru_cache(maxsize=1)
def _machine() -> dict[str, Any]:
    facts = workspace.machine_facts()
    versions = {f"version.{name}": version for name, version in facts.pop("versions").items() if version}
    return {"mlflow.source.git.commit": facts["commit"], "commit": facts.pop("commit"), **{f"machine.{name}": fact for name, fact in facts.items()}, **versions}


def _text(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))[:4_000]  # MLflow takes 6,000 of a param, 8,000 of a tag


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
