"""Independent tasks (folds, members): one after the other in this process, in several processes, or on a Ray cluster."""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tqdm import tqdm

from lib import workspace
from lib.config import Config
from lib.errors import WorkbookError
from lib.workspace import Workspace

CONNECT_SECONDS = 10
MAX_RETRIES = 5  # of a task whose node or process was lost
PYTHONPATH = str(workspace.REPOSITORY)  # of tasks on Ray

Task = Callable[..., Any]  # takes (tables, *, config, run, **job); named at the top of its module


def check(config: Config) -> None:
    """Raise WorkbookError where Ray is asked for and not installed."""
    if config.compute.engine == "ray" and importlib.util.find_spec("ray") is None:
        raise WorkbookError("compute.engine=ray needs the package ray: pip install -c constraints.txt ray, or set compute.engine=local")


def run_tasks(
    task: Task,
    jobs: Sequence[Mapping[str, Any]],
    *,
    tables: Mapping[str, pd.DataFrame],
    config: Config,
    run: Workspace,
    desc: str = "",
    progress: bool = True,
) -> list[Any]:
    """Call `task(tables, config=config, run=run, **job)` for each job; return the results in the order of the jobs.

    In other processes a task reads the tables from the run's folder `tables`, by fingerprint: no data is pickled. With Ray, all nodes must see
    WORKBOOK_HOME (a shared disk) and have the workbook installed; a task whose node is lost is run again on another.

    Parameters
    ----------
    jobs : plain values

    Raises
    ------
    WorkbookError : the Ray cluster cannot be reached, does not see the tables, or a process was killed. An error of a task is raised as it is.
    """
    check(config)
    if config.compute.engine == "local" and config.compute.workers == 1:
        done: Iterator[tuple[int, Any]] = ((place, task(tables, config=config, run=run, **job)) for place, job in enumerate(jobs))
    else:
        kept = {name: str(_keep(table, run)) for name, table in tables.items()}
        calls = [(place, task, kept, config.model_dump(mode="json"), {"run": run, **job}) for place, job in enumerate(jobs)]
        done = _on_ray(calls, config) if config.compute.engine == "ray" else _in_processes(calls, config)
    results = dict(tqdm(done, desc, len(jobs), unit="training", disable=not progress))
    return [results[place] for place in range(len(jobs))]


def _in_processes(calls: Sequence[tuple[Any, ...]], config: Config) -> Iterator[tuple[int, Any]]:
    workers = min(config.compute.workers, max(1, len(calls)))
    threads = max(1, joblib.cpu_count() // workers)
    try:
        with joblib.parallel_config(backend="loky", inner_max_num_threads=threads):
            yield from joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(joblib.delayed(_call)(*call) for call in calls)
    except TerminatedWorkerError as error:
        raise WorkbookError("a worker was killed, most often for want of memory: set compute.workers lower; the next run goes on") from error


def _on_ray(calls: Sequence[tuple[Any, ...]], config: Config) -> Iterator[tuple[int, Any]]:
    import ray

    settings, ours = config.compute, not ray.is_initialized()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    passed = {name: value for name, value in os.environ.items() if name.startswith(("WORKBOOK_", "HF_", "MLFLOW_", "WANDB_"))}
    environment = {"env_vars": {**passed, "PYTHONPATH": PYTHONPATH}}
    if ours:
        _check_address(settings.address)
        ray.init(address=settings.address or None, log_to_driver=False, logging_level=logging.WARNING, runtime_env=environment)
    remote = ray.remote(num_cpus=settings.cpus, num_gpus=settings.gpus, max_retries=MAX_RETRIES, runtime_env=environment)(_call)
    try:
        waiting = [remote.remote(*call) for call in calls]
        while waiting:
            finished, waiting = ray.wait(waiting)
            yield ray.get(finished[0])
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    finally:
        for left in waiting:
            ray.cancel(left, force=True)
        if ours:
            ray.shutdown()


def _check_address(address: str) -> None:
    """Raise WorkbookError where nothing listens: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:  # "" or "auto"
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise WorkbookError(f"compute.address: no Ray cluster answers at {address!r}: {error}") from None


def _call(place: int, task: Task, kept: Mapping[str, str], config: Mapping[str, Any], job: Mapping[str, Any]) -> tuple[int, Any]:
    tables = {name: _table(path) for name, path in kept.items()}
    return place, task(tables, config=Config.model_validate(config), **job)


def _keep(table: pd.DataFrame, run: Workspace) -> Path:
    path = run.folder(workspace.MODELS) / "tables" / f"{workspace.table_fingerprint(table)}.parquet"
    if not path.exists():
        workspace.write_table(table, path)
    return path


@lru_cache(maxsize=4)
def _table(path: str) -> pd.DataFrame:
    if not Path(path).exists():
        raise WorkbookError(f"{path} is not seen from {os.uname().nodename}: WORKBOOK_HOME must be on a disk that all nodes of the cluster share")
    table = workspace.read_table(Path(path))
    if workspace.table_fingerprint(table) != Path(path).stem:
        raise WorkbookError(f"{path} does not hold the rows of its name: delete it and run again")
    return table
