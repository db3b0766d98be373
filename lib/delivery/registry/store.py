"""MLflow's registry of models: one process at a time, and what is in it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from lib.config import closest
from lib.delivery import pyfunc_model
from lib.delivery.registry.versions import CHAMPION, OUR_TAGS, Version
from lib.errors import WorkbookError, listed, quoted, shown_path
from lib.training import mlflow_store

LOCK_SECONDS = 60  # to wait for another process; an upload of a large model takes as long
COLUMNS = ["model", "alias", "macro F1", "accuracy", "data", "run", "date", "commit"]


def find(name: str, *, uri: str = "") -> Version:
    """Return a registered model; cheap enough to be asked every few seconds.

    Parameters
    ----------
    name : NAME (its champion), NAME@ALIAS or NAME-vX.Y.Z; "" is the only champion there is

    Raises
    ------
    WorkbookError : there is none, or several (the message lists what there is), or the registry
        cannot be used.
    """
    versions = _all(uri)
    wanted, _, alias = name.partition("@")
    alias = alias or CHAMPION
    found = [
        version
        for version in versions
        if name == version.label or (wanted in ("", version.name) and alias in version.aliases)
    ]
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} champions, name one" if found else f"no classifier {quoted(name, 80)}"
    there = [" ".join([version.label, *version.aliases]) for version in found or versions]
    raise WorkbookError(f"{what}; in the registry: {listed(there) or 'none'}")


def download(version: Version, folder: Path, *, uri: str = "") -> None:
    """Copy the classifier's folder of a registered model to `folder`, which is not there yet.

    Raises
    ------
    WorkbookError : the registry cannot be used, or has not its files any more.
    """
    with locked(uri) as client, tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        found = client.download_artifacts(version.run_id, f"{version.label}/model", scratch)
        shutil.move(pyfunc_model.classifier_in(Path(found)), folder)


def models(*, uri: str = "") -> pd.DataFrame:
    """Return every registered version, newest first within its name.

    Returns
    -------
    DataFrame of `model`, `alias`, `macro F1`, `accuracy`, `data`, `run`, `date`, `commit`
    """
    versions = sorted(_all(uri), key=lambda version: version.order, reverse=True)
    versions.sort(key=lambda version: version.name)
    return pd.DataFrame([_row(version) for version in versions], columns=COLUMNS)


def _row(version: Version) -> tuple[str, ...]:
    tags = version.tags
    scores = (tags["metric.macro_f1"], tags["metric.accuracy"])
    origin = (tags["dataset"], tags["run"], tags["date"][:10], tags["commit"][:10])
    return (version.label, ", ".join(version.aliases), *scores, *origin)


def find_label(label: str) -> Version:
    """Return the version of a label, for instance "deberta-v3-large-v1.0.0"; needs the lock.

    Raises
    ------
    WorkbookError : there is none; the message lists what there is.
    """
    versions = {version.label: version for version in registered()}
    if label not in versions:
        raise WorkbookError(
            f"no model {label!r} in the registry{closest(label, versions)}; "
            f"there are {', '.join(versions) or 'none: workbook register RUN'}"
        )
    return versions[label]


def _all(uri: str) -> list[Version]:
    if not uri and not (mlflow_store.local_folder() / "mlflow.db").exists():
        return []
    with locked(uri):
        return registered()


def registered() -> list[Version]:
    """Return all that was registered here, not by others: they lack our tags. Needs the lock."""
    import mlflow

    by_name = aliases()
    versions = []
    for found in mlflow.search_model_versions():
        if found.tags.keys() >= OUR_TAGS:
            number = str(found.version)
            names = tuple(alias for alias, of in by_name[found.name].items() if str(of) == number)
            tags = dict(found.tags)
            run_id = str(found.run_id)
            versions.append(Version(found.name, tags["version"], number, run_id, tags, names))
    return versions


def aliases() -> dict[str, dict[str, str]]:
    """Return the aliases of every registered name: alias -> MLflow's number. Needs the lock."""
    import mlflow

    return {model.name: model.aliases for model in mlflow.search_registered_models()}


@contextmanager
def locked(uri: str) -> Iterator[Any]:
    """Give a client of the registry that MLflow then uses, one process of this machine at a time.

    Raises
    ------
    WorkbookError : MLflow cannot do what is asked of it, or another process holds the registry.
    """
    from filelock import FileLock, Timeout
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    lock = mlflow_store.local_folder() / ".registry.lock"
    try:
        client = mlflow_store.connect(uri)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=LOCK_SECONDS):
            lock.write_text(f"process {os.getpid()}")  # for the message of one that waits
            yield client
    except Timeout as error:
        raise WorkbookError(
            f"the model registry is in use by {lock.read_text()}, which has held "
            f"{shown_path(lock)} for {LOCK_SECONDS:g} s; wait for it to end, or end it"
        ) from error
    except (MlflowException, SQLAlchemyError, OSError) as error:
        address = mlflow_store.without_password(uri) or mlflow_store.local_uri()
        why = mlflow_store.reason(error)
        raise WorkbookError(
            f"the model registry {address} cannot be used: {why}; check --uri"
        ) from error
