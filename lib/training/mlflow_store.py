"""Where MLflow keeps runs and versions: a tracking server, or a local file."""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from lib import workspace

ENVIRONMENT = {  # what MLflow's client reads; a value of yours stands
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    # seconds: a server that is down must not hold a training up
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


def connect(uri: str = "") -> Any:
    """Let MLflow use a tracking server, or the local store where `uri` is ""; return a client."""
    from filelock import FileLock

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    import mlflow

    mlflow.set_tracking_uri(uri or local_uri())
    if uri:
        return mlflow.MlflowClient()
    local_folder().mkdir(parents=True, exist_ok=True)
    with FileLock(local_folder() / ".lock"):  # two processes would make the tables together
        return mlflow.MlflowClient()


def experiment_id(name: str, uri: str) -> str:
    """Return MLflow's id of an experiment, which is made where there is none."""
    import mlflow

    if not mlflow.get_experiment_by_name(name):
        with suppress(Exception):  # another process may have been faster
            return mlflow.create_experiment(name, artifact_location=_artifact_location(uri))
    experiment: Any = mlflow.get_experiment_by_name(name)
    return experiment.experiment_id


def runs(experiment: str, filter_string: str) -> list[Any]:
    """Return the runs of an experiment that a filter of MLflow's lets through, the newest first."""
    import mlflow

    return mlflow.search_runs([experiment], filter_string, output_format="list")


def local_folder() -> Path:
    """Return where runs are recorded without a server: a SQLite file, and artifacts next to it."""
    return workspace.home() / "models" / "mlflow"


def local_uri() -> str:
    """Return MLflow's name for the local store; characters such as % and ? are quoted."""
    from sqlalchemy import URL

    # with the driver, or MLflow makes a folder of the quoted name
    database = URL.create("sqlite+pysqlite", database=str(local_folder() / "mlflow.db"))
    return database.render_as_string()


def without_password(uri: str) -> str:
    """Return an address as it may be shown.

    Examples
    --------
    >>> without_password("https://me:secret@mlflow.example:5000")
    'https://mlflow.example:5000'
    """
    return re.sub(r"//[^/]*@", "//", uri)


def reason(error: Exception) -> str:
    """Return why MLflow cannot be used, in one short line; of network errors the innermost."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    causes = re.findall(r"\[Errno -?\d+\] [\w ]+|timed out|Remote end closed[\w ]*", line)
    return causes[-1] if causes else line[:150]


def _artifact_location(uri: str) -> str | None:
    """Return where files go: next to a SQLite file, else where the server says (None).

    Left alone, MLflow takes the working folder for a SQLite file.
    """
    from sqlalchemy import make_url

    store = uri or local_uri()
    if not store.startswith("sqlite"):
        return None
    database = make_url(store).database or ""
    return (Path(database).absolute().parent / "artifacts").as_uri()
