"""Every run and every training as a run of MLflow, on a server or in a local file."""

from __future__ import annotations

import importlib.util
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from lib import provenance, workspace
from lib.config import Config
from lib.data import sources
from lib.errors import WorkbookError
from lib.training import mlflow_store
from lib.workspace import Workspace

# what is recorded of a training, by step
SERIES = ("loss", "learning_rate", "grad_norm", "eval_loss", "eval_macro_f1", "eval_accuracy")

_dead_servers: set[str] = set()  # did not answer this process


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
    series: str = ""
    key: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, Any] = field(default_factory=dict)
    parent: Opening | None = None

    @property
    def all_tags(self) -> dict[str, str]:
        """Return the tags, and those that the run is found by."""
        ours: dict[str, Any] = {
            "workbook.key": self.key,
            "workbook.run": self.run,
            "workbook.series": self.series,
            "workbook.kind": "training" if self.parent else "run",
        }
        tags = {**ours, **self.tags}
        return {name: str(value) for name, value in tags.items() if value is not None}


class Record:
    """One run of MLflow's, the active one of this thread until it is closed.

    A failure never stops or changes a training. Where the server cannot be used at the start, the
    run is recorded in the local store; where it dies later, nothing more is recorded. Either is
    said in one line. On W&B a training is recorded by the Trainer's own callback, which this opens
    and closes a run for.

    Attributes
    ----------
    notes : what a reader should know, for instance that the server was down
    wandb : the run on W&B; None where there is none
    """

    def __init__(self, config: Config, opening: Opening):
        self.settings = config.tracking
        self.opening = opening
        self.notes: list[str] = []
        self.wandb: Any = None
        self._uri = ""
        self._n_active = 0  # of MLflow's runs: this one, and its parent where that was opened here
        self._is_started = False
        self._is_live = False
        self._logged: set[tuple[str, int]] = set()

    def start(self) -> None:
        """Open the run, or go on with the one that is not finished; nothing where that was done."""
        if self._is_started:
            return
        self._is_started = True
        if self.settings.backend == "mlflow":
            self._uri = "" if self.settings.uri in _dead_servers else self.settings.uri
            with _guarded(self._give_up):
                self._open()
        if self.settings.wandb and self.opening.parent:
            with _guarded(partial(self._note, "nothing goes to W&B")):
                self.wandb = _open_wandb(self.opening)

    def metrics(self, values: Mapping[str, float], *, step: int | None = None) -> None:
        """Record numbers; one that was recorded at this step before is left out."""
        new = {name: float(value) for name, value in values.items()}
        if step is not None:
            new = {name: value for name, value in new.items() if (name, step) not in self._logged}
            self._logged |= {(name, step) for name in new}
        if new:
            self._call("log_metrics", new, step=step)

    def log_step(self, values: Mapping[str, float], step: int) -> None:
        """Record an entry of the Trainer's log."""
        self.metrics({name: values[name] for name in SERIES if name in values}, step=step)

    def history(self, table: pd.DataFrame) -> None:
        """Record what of a training's history was not recorded live."""
        for entry in table.to_dict("records"):
            measured = {name: value for name, value in entry.items() if pd.notna(value)}
            self.log_step(measured, int(entry["step"]))

    def tags(self, values: Mapping[str, Any]) -> None:
        """Record words."""
        self._call("set_tags", dict(values))

    def artifacts(self, folder: Path, artifact_path: str) -> None:
        """Record the files of a folder."""
        self._call("log_artifacts", str(folder), artifact_path)

    def close(self, status: str, error: BaseException | None = None) -> None:
        """End the run as FINISHED, FAILED or KILLED, with the error."""
        if error is not None:
            self.tags({"error": f"{type(error).__name__}: {error}"})
        while self._n_active:
            self._n_active -= 1
            self._call("end_run", status)
        self._is_live = False
        if self.wandb:
            with _guarded(partial(self._note, "nothing more goes to W&B")):
                self.wandb.finish(exit_code=int(status != "FINISHED"))
            self.wandb = None

    def next_try(self, error: BaseException) -> None:
        """End the run as failed, and open another for a second try."""
        self.close("FAILED", error)
        self._is_started = False
        self._logged.clear()
        self.opening = replace(self.opening, name=f"{self.opening.name}, second try")
        self.start()

    def _call(self, function: str, *args: Any, **kwargs: Any) -> None:
        """Call a function of MLflow's for the active run."""
        if not self._is_live:
            return
        import mlflow

        with _guarded(self._give_up):
            mlflow.set_tracking_uri(self._uri or mlflow_store.local_uri())
            getattr(mlflow, function)(*args, **kwargs)

    def _open(self) -> None:
        mlflow_store.connect(self._uri)
        experiment = mlflow_store.experiment_id(self.opening.dataset, self._uri)
        parent = self.opening.parent
        tags = {}
        if parent:
            parent_id = newest_run(experiment, parent)
            if parent_id:
                tags["mlflow.parentRunId"] = parent_id
            else:
                self._begin(experiment, parent, {})
        self._begin(experiment, self.opening, tags, self._unfinished(experiment))
        self._is_live = True

    def _begin(
        self, experiment: str, opening: Opening, tags: dict[str, str], run_id: str | None = None
    ) -> None:
        import mlflow

        mlflow.start_run(
            run_id,
            experiment_id=experiment,
            run_name=opening.name,
            nested=True,
            tags={**opening.all_tags, **tags},
            log_system_metrics=self.settings.system_metrics and opening.parent is not None,
        )
        self._n_active += 1
        if not run_id:
            mlflow.log_params(dict(opening.params))

    def _unfinished(self, experiment: str) -> str | None:
        """Return the id of a workbook run of this key, or of a training of it that was stopped."""
        import mlflow

        for run in mlflow_store.runs(experiment, f"tags.`workbook.key` = '{self.opening.key}'"):
            if not self.opening.parent or run.info.status in ("RUNNING", "KILLED"):
                for name in run.data.metrics.keys() & set(SERIES):
                    points = mlflow.MlflowClient().get_metric_history(run.info.run_id, name)
                    self._logged |= {(name, point.step) for point in points}
                return run.info.run_id
        return None

    def _give_up(self, error: Exception) -> None:
        """Record no more or, where a server could not be opened, record in the local store."""
        import mlflow

        for _ in range(self._n_active):
            with suppress(Exception):
                mlflow.end_run("FAILED")
        store = local = mlflow_store.local_uri()
        if self._uri:
            store = f"the MLflow server {mlflow_store.without_password(self._uri)}"
        falls_back = self._uri and not self._is_live
        _dead_servers.add(self._uri)
        self._n_active = 0
        self._is_live = False
        if not falls_back:
            return self._note(f"nothing more goes to {store}", error)
        self._note(f"{store} cannot be used, recorded in {local} instead", error)
        self._uri = ""
        with _guarded(self._give_up):
            self._open()

    def _note(self, words: str, error: Exception) -> None:
        line = f"tracking: {words}: {mlflow_store.reason(error)}"
        self.notes.append(line)
        tqdm.write(f"workbook: {line}", file=sys.stderr)


def check(config: Config) -> None:
    """Raise WorkbookError where W&B is asked for and not installed."""
    if config.tracking.wandb and importlib.util.find_spec("wandb") is None:
        raise WorkbookError(
            "tracking.wandb=true needs the package wandb: "
            "pip install -c constraints.txt wandb, or set tracking.wandb=false"
        )


@contextmanager
def workbook_run(config: Config, ws: Workspace) -> Iterator[Record | None]:
    """Give the record of a workbook run, and end it with the block; None without tracking.

    Its `start` opens it: a call that finds all notebooks up to date leaves none.
    """
    if config.tracking.backend == "none":
        yield None
        return
    with _closing(Record(config, _workbook_opening(config, ws))) as record:
        yield record


@contextmanager
def training(
    train: pd.DataFrame, val: pd.DataFrame, *, config: Config, ws: Workspace, name: str = ""
) -> Iterator[Record | None]:
    """Give the record of one training, and end it with the block; None without tracking.

    Parameters
    ----------
    train, val : with `text` and `label`
    ws : of a series such as "quick/folds" the first part is the workbook run
    name : of a trial of a series
    """
    if config.tracking.backend == "none" and not config.tracking.wandb:
        yield None
        return
    opening = _training_opening(train, val, config=config, ws=ws, name=name)
    with _closing(Record(config, opening)) as record:
        record.start()
        yield record


def workbook_run_id(ws: Workspace, uri: str = "") -> str:
    """Return MLflow's id of a workbook run, the newest of its name; it is made where none is."""
    import mlflow

    mlflow_store.connect(uri)
    experiment = mlflow_store.experiment_id(ws.dataset, uri)
    opening = Opening(ws.run, ws.dataset, ws.run)
    run_id = newest_run(experiment, opening)
    if run_id:
        return run_id
    with mlflow.start_run(
        experiment_id=experiment, run_name=ws.run, nested=True, tags=opening.all_tags
    ) as run:
        return run.info.run_id


def newest_run(experiment: str, opening: Opening) -> str:
    """Return the id of the newest workbook run of this name and, where it has one, key; or ""."""
    of_key = f" and tags.`workbook.key` = '{opening.key}'" if opening.key else ""
    of_name = f"tags.`workbook.kind` = 'run' and tags.`workbook.run` = '{opening.run}'"
    runs = mlflow_store.runs(experiment, of_name + of_key)
    return runs[0].info.run_id if runs else ""


@contextmanager
def _guarded(handle: Callable[[Exception], None]) -> Iterator[None]:
    """Hand on what is raised, and keep the random states: MLflow draws names and pauses."""
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    try:
        yield
    except Exception as error:
        handle(error)
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextmanager
def _closing(record: Record) -> Iterator[Record]:
    try:
        yield record
    except BaseException as error:
        by_person = not isinstance(error, Exception)
        by_search = type(error).__name__ == "TrialPruned"
        record.close("KILLED" if by_person or by_search else "FAILED", error)
        raise
    record.close("FINISHED")


def _open_wandb(opening: Opening) -> Any:
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    folder = workspace.home() / "models" / "wandb"
    folder.mkdir(parents=True, exist_ok=True)
    return wandb.init(
        project=opening.dataset,
        group=opening.run,
        job_type=opening.series or "training",
        name=opening.name,
        config={**opening.params, **opening.tags},
        dir=str(folder),
        reinit="finish_previous",
    )


def _workbook_opening(config: Config, ws: Workspace) -> Opening:
    settings = {
        key: value for key, value in config.flat().items() if not key.startswith("tracking.")
    }
    # the same run, wherever it is done
    of_result = {key: value for key, value in settings.items() if not key.startswith("compute.")}
    data: dict[str, Any] = {}
    with suppress(WorkbookError, OSError):
        data = workspace.read_facts(sources.raw_path(config))
    tags = {
        "data.source": config.data.source,
        "data.fingerprint": data.get("fingerprint"),
        "data.rows": data.get("rows"),
    }
    return Opening(
        name=ws.run,
        dataset=ws.dataset,
        run=ws.run,
        key=provenance.fingerprint(ws.dataset, ws.run, config.profile, of_result),
        params={"profile": config.profile, **settings},
        tags={**tags, **_machine_tags()},
    )


def _training_opening(
    train: pd.DataFrame, val: pd.DataFrame, *, config: Config, ws: Workspace, name: str
) -> Opening:
    run_name, series, trial = [*ws.run.split("/"), "", ""][:3]
    title = (name or trial) if series else "training"
    settings = {
        key: value
        for key, value in config.flat().items()
        if key == "seed" or key.startswith("training.")
    }
    tables = {
        "data.train": provenance.table_fingerprint(train[["text", "label"]]),
        "data.val": provenance.table_fingerprint(val[["text", "label"]]),
    }
    code = provenance.code_fingerprint("lib.training.finetune")
    if series:  # a trial's settings are its own: nothing is known of the workbook run's
        parent = Opening(run_name, ws.dataset, run_name, tags=_machine_tags())
    else:
        parent = _workbook_opening(config, replace(ws, run=run_name))
    n_rows = {"data.train_rows": len(train), "data.val_rows": len(val)}
    return Opening(
        name="/".join(part for part in (series, title, f"seed {config.seed}") if part),
        dataset=ws.dataset,
        run=run_name,
        series=series,
        key=provenance.fingerprint(ws.dataset, ws.run, name, tables, settings, code),
        params=settings,
        tags={**tables, **n_rows, **_machine_tags()},
        parent=parent,
    )


@lru_cache(maxsize=1)
def _machine_tags() -> dict[str, Any]:
    facts = provenance.machine_facts()
    commit = facts.pop("commit")
    versions = facts.pop("versions")
    return {
        "mlflow.source.git.commit": commit,
        "commit": commit,
        **{f"machine.{name}": fact for name, fact in facts.items()},
        **{f"version.{name}": version for name, version in versions.items()},
    }
