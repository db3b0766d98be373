"""Where runs can be recorded: an MLflow server or local store, and W&B; each takes the same few sentences."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib import workspace

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
SERIES = (
    "loss",
    "learning_rate",
    "grad_norm",
    "eval_loss",
    "eval_macro_f1",
    "eval_accuracy",
)  # of a training, by step


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


def without_password(uri: str) -> str:
    """Return an address as it may be shown.

    Examples
    --------
    >>> without_password("https://me:secret@mlflow.example:5000")
    'https://mlflow.example:5000'
    """
    return re.sub(r"//[^/]*@", "//", uri)


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


class MLflow:
    """An MLflow server, or the local store where `uri` is "". Any method may raise what MLflow raises."""

    def __init__(self, uri: str, *, system_metrics: bool):
        self.uri, self.system_metrics, self.known = uri, system_metrics, set[tuple[str, int]]()
        self.named = f"the MLflow server {without_password(uri)}" if uri else local_uri()
        self.monitor: Any = None
        self.orphaned = ""  # a parent that nobody else ends

    def connect(self, dataset: str) -> None:
        """Find or make the experiment of a data set."""
        self.client = mlflow_client(self.uri)
        self.experiment = self._experiment(dataset)

    def open(self, opening: Opening) -> None:
        """Begin the run, or go on with it."""
        self.connect(opening.dataset)
        tags = {"workbook.key": opening.key}
        if opening.parent:
            tags["mlflow.parentRunId"] = self.parent(opening.parent)
        self.run_id = self._unfinished(opening) or self._begin(opening, tags)
        if self.system_metrics:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            self.monitor = SystemMetricsMonitor(
                self.run_id, resume_logging=True, tracking_uri=self.uri or local_uri()
            )
            self.monitor.start()

    def metrics(self, values: dict[str, float], step: int | None) -> None:
        """Log numbers."""
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        now, entries = get_current_time_millis(), list(values.items())
        for start in range(0, len(entries), BATCH):
            self.client.log_batch(
                self.run_id,
                metrics=[
                    Metric(name, value, now, step or 0)
                    for name, value in entries[start : start + BATCH]
                ],
            )

    def tags(self, values: Mapping[str, str], run_id: str = "") -> None:
        """Log words."""
        from mlflow.entities import RunTag

        entries = list(values.items())
        for start in range(0, len(entries), BATCH):
            self.client.log_batch(
                run_id or self.run_id,
                tags=[RunTag(*entry) for entry in entries[start : start + BATCH]],
            )

    def artifacts(self, folder: Path, place: str) -> None:
        """Log the files of a folder."""
        self.client.log_artifacts(self.run_id, str(folder), place or None)

    def close(self, status: str) -> None:
        """End the run."""
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
            return self.client.create_experiment(name, artifact_location=self._artifacts_folder())
        return self.client.get_experiment_by_name(name).experiment_id

    def _artifacts_folder(self) -> str | None:
        """Return where files go: beside a SQLite file, of another database beside the local store; None: where a server says.

        Left alone, MLflow takes the working folder for a database.
        """
        from mlflow.store.db.db_types import DATABASE_ENGINES

        uri = self.uri or local_uri()
        engine = uri.partition(":")[0].partition("+")[0]
        if engine not in DATABASE_ENGINES:
            return None
        folder = (
            Path(uri.partition("///")[2]).absolute().parent
            if engine == "sqlite"
            else local_folder()
        )
        return (folder / "artifacts").as_uri()

    def _begin(self, opening: Opening, tags: dict[str, str]) -> str:
        from mlflow.entities import Param

        tags = {
            "workbook.run": opening.run,
            "workbook.series": opening.series,
            "workbook.kind": "training" if opening.parent else "run",
            **tags,
        }
        run_id = self.client.create_run(
            self.experiment, run_name=opening.name, tags=tags
        ).info.run_id
        params = [Param(name, text_of(value)) for name, value in opening.params.items()]
        for start in range(0, len(params), BATCH):
            self.client.log_batch(run_id, params=params[start : start + BATCH])
        self.tags(
            {name: text_of(value) for name, value in opening.tags.items() if value is not None},
            run_id,
        )
        return run_id

    def _unfinished(self, opening: Opening) -> str:
        """Return the run to go on with: a workbook run of this key, or a training of this key that was stopped; "" where there is none."""
        for run in self._runs(f"tags.`workbook.key` = '{opening.key}'"):
            if not opening.parent or run.info.status in ("RUNNING", "KILLED"):
                self._take_up(run)
                return run.info.run_id
        dead = f"attributes.status = 'RUNNING' and tags.`workbook.kind` = 'training' and tags.`workbook.run` = '{opening.run}'"
        for run in self._runs(dead) if opening.parent else ():
            if (
                run.info.run_name == opening.name
            ):  # of other data or settings: its process is no more
                self.client.set_terminated(run.info.run_id, "KILLED")
        return ""

    def _take_up(self, run: Any) -> None:
        self.client.update_run(run.info.run_id, status="RUNNING")
        for name in SERIES:
            self.known |= {
                (name, each.step)
                for each in (
                    self.client.get_metric_history(run.info.run_id, name)
                    if name in run.data.metrics
                    else []
                )
            }

    def parent(self, parent: Opening) -> str:
        """Return the id of the workbook run that trainings belong to; it is made where there is none."""
        known = f" and tags.`workbook.key` = '{parent.key}'" if parent.key else ""
        runs = self._runs(
            f"tags.`workbook.kind` = 'run' and tags.`workbook.run` = '{parent.run}'{known}"
        )
        if runs:
            return runs[0].info.run_id
        self.orphaned = self._begin(parent, {"workbook.key": parent.key})
        return self.orphaned

    def _runs(self, wanted: str) -> list[Any]:
        return list(
            self.client.search_runs(
                [self.experiment],
                wanted,
                max_results=1_000,
                order_by=["attributes.start_time DESC"],
            )
        )


class WandB:
    """Weights & Biases, online or as WANDB_MODE says. Any method may raise what its client raises."""

    named = "W&B"

    def __init__(self, *, system_metrics: bool):
        self.system_metrics, self.known = system_metrics, set[tuple[str, int]]()

    def open(self, opening: Opening) -> None:
        """Begin the run, or go on with it."""
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        folder = workspace.home() / "models" / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        again: dict[str, Any] = (
            {} if opening.parent else {"id": opening.key[:16], "resume": "allow"}
        )
        self.run = wandb.init(
            project=opening.dataset,
            group=opening.run,
            job_type=(opening.series or "training") if opening.parent else "run",
            name=opening.name,
            config={**opening.params, **opening.tags},
            dir=str(folder),
            reinit="create_new",
            settings=wandb.Settings(
                silent=True, console="off", init_timeout=20, x_disable_stats=not self.system_metrics
            ),
            **again,
        )

    def metrics(self, values: dict[str, float], step: int | None) -> None:
        """Log numbers."""
        self.run.summary.update(values) if step is None else self.run.log(values, step=step)

    def tags(self, values: Mapping[str, str]) -> None:
        """Log words."""
        self.run.config.update(dict(values), allow_val_change=True)

    def artifacts(self, folder: Path, place: str) -> None:
        """Log the files of a folder."""
        import wandb

        files = wandb.Artifact(f"{place or 'report'}-{self.run.id}", type=place or "report")
        files.add_dir(str(folder))
        self.run.log_artifact(files)

    def close(self, status: str) -> None:
        """End the run."""
        self.run.summary["status"] = status
        self.run.finish(exit_code=int(status != "FINISHED"))


def text_of(value: Any) -> str:
    """Return a setting or a fact as text that MLflow takes."""
    return (
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    )[:4_000]  # MLflow takes 6,000 of a param, 8,000 of a tag
