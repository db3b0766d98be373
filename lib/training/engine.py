"""Independent tasks (folds, members, trials): in this process, in several, or on a Ray cluster."""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future, as_completed
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import psutil
from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.backend.context import get_context
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from lib import provenance, workspace
from lib.config import ComputeConfig, Config
from lib.errors import WorkbookError
from lib.workspace import Workspace

CONNECT_SECONDS = 10
MAX_RETRIES = 5  # of a task whose node or process was lost
PYTHONPATH = str(workspace.REPOSITORY)  # of tasks on Ray
PASSED_VARIABLES = ("WORKBOOK_", "HF_", "MLFLOW_", "WANDB_")  # to tasks on Ray, by their beginning

Task = Callable[..., Any]  # takes (tables, *, config, ws, **job); named at the top of its module


def check(config: Config) -> None:
    """Raise WorkbookError where Ray is not installed, or nothing listens at its address."""
    if config.compute.engine != "ray":
        return
    if importlib.util.find_spec("ray") is None:
        raise WorkbookError(
            "compute.engine=ray needs the package ray: pip install -c constraints.txt ray, "
            "or set compute.engine=local"
        )
    _check_address(config.compute.address)


def run_tasks(
    task: Task,
    jobs: Sequence[Mapping[str, Any]],
    *,
    tables: Mapping[str, pd.DataFrame],
    config: Config,
    ws: Workspace,
    desc: str = "",
    progress: bool = True,
) -> list[Any]:
    """Call `task(tables, config=config, ws=ws, **job)` for each job; return results in order.

    Parameters
    ----------
    jobs : plain values

    Raises
    ------
    WorkbookError : of `submitter`. An error of a task is raised as it is.
    """
    futures: list[Future] = []
    with (
        submitter(tables, config=config, ws=ws) as submit,
        tqdm(total=len(jobs), desc=desc, unit="training", disable=not progress) as bar,
    ):
        for job in jobs:
            future = submit(task, **job)
            future.add_done_callback(lambda _: bar.update())
            futures.append(future)
            if future.done():  # in this process: an error ends it here
                future.result()
        for future in as_completed(futures):
            future.result()
        return [future.result() for future in futures]


@contextmanager
def submitter(
    tables: Mapping[str, pd.DataFrame], *, config: Config, ws: Workspace
) -> Iterator[Callable[..., Future]]:
    """Give a function `submit(task, **job)` that starts a task where `config.compute` says.

    It starts `task(tables, config=config, ws=ws, **job)`. In other processes a task reads the
    tables from the run's folder `tables`, by fingerprint: no data is pickled. With Ray, all nodes
    must see WORKBOOK_HOME (a shared disk) and have the workbook installed; a task whose node is
    lost is run again on another. What is still at work at the end is stopped.

    Raises
    ------
    WorkbookError : the Ray cluster cannot be reached, or a worker was killed. What a task raises
        is in its Future.
    """
    check(config)
    settings = config.compute
    if settings.engine == "local" and settings.workers == 1:
        yield lambda task, **job: _run_here(task, tables, config=config, ws=ws, **job)
        return
    paths = {name: str(_save_table(table, ws)) for name, table in tables.items()}
    plain_config = config.model_dump(mode="json")
    pool = _on_ray if settings.engine == "ray" else _in_processes
    with pool(settings) as call:
        yield lambda task, **job: call(task, paths, plain_config, {"ws": ws, **job})


def _run_here(task: Task, tables: Mapping[str, pd.DataFrame], **arguments: Any) -> Future:
    """Run a task at once: one worker needs no second process."""
    future: Future = Future()
    try:
        future.set_result(task(tables, **arguments))
    except Exception as error:
        future.set_exception(error)
    return future


@contextmanager
def _in_processes(settings: ComputeConfig) -> Iterator[Callable[..., Future]]:
    # Forks are safe on Linux alone: elsewhere the systems' own libraries do not bear them.
    context = get_context("forkserver" if sys.platform == "linux" else "loky")
    threads = max(1, joblib.cpu_count() // settings.workers)
    pool = ProcessPoolExecutor(
        settings.workers,
        context=context,
        initializer=_begin_worker,
        initargs=(os.getpid(), dict(os.environ), threads),
    )

    def call(task: Task, *arguments: Any) -> Future:
        if sys.platform == "linux":
            # Imported once, before the first fork, and not by each worker.
            context.set_forkserver_preload([__name__, task.__module__])
        return pool.submit(_call, task, *arguments)

    try:
        yield call
    except BrokenExecutor as error:
        raise WorkbookError(
            "a worker was killed, most often for want of memory: set compute.workers lower; "
            "the next run goes on"
        ) from error
    finally:
        pool.shutdown(kill_workers=True)


def _begin_worker(parent: int, environment: Mapping[str, str], threads: int) -> None:
    """Take a share of the cores, and end with the process that began this one."""
    import torch

    os.environ.update(environment)  # which may have changed since the first worker
    threadpool_limits(threads)
    torch.set_num_threads(threads)
    exit_with_parent(parent)


def exit_with_parent(parent: int) -> None:
    """End this process when the process `parent` is gone: it would train what nobody reads."""

    def watch() -> None:
        with suppress(psutil.NoSuchProcess):
            psutil.Process(parent).wait()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _on_ray(settings: ComputeConfig) -> Iterator[Callable[..., Future]]:
    import ray

    starts_ray = not ray.is_initialized()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    variables = {
        name: value for name, value in os.environ.items() if name.startswith(PASSED_VARIABLES)
    }
    environment = {"env_vars": {**variables, "PYTHONPATH": PYTHONPATH}}
    if starts_ray:
        _connect(settings.address, environment)
    remote = ray.remote(
        num_cpus=settings.cpus,
        num_gpus=settings.gpus,
        max_retries=MAX_RETRIES,
        runtime_env=environment,
    )(_call)
    references: list[Any] = []

    def call(*arguments: Any) -> Future:
        reference = remote.remote(*arguments)
        references.append(reference)
        return _plain_future(reference.future())

    try:
        yield call
    finally:
        for reference in references:
            ray.cancel(reference, force=True)
        if starts_ray:
            ray.shutdown()


def _plain_future(ray_future: Future) -> Future:
    """Return a Future that raises a task's own error, not Ray's wrapping of it."""
    future: Future = Future()

    def settle(done: Future) -> None:
        error = done.exception()
        if error is None:
            future.set_result(done.result())
        else:
            future.set_exception(getattr(error, "cause", None) or error)

    ray_future.add_done_callback(settle)
    return future


def _connect(address: str, environment: Mapping[str, Any]) -> None:
    import ray

    try:
        ray.init(
            address=address or "local",  # a cluster of its own, whatever else runs here
            log_to_driver=False,
            logging_level=logging.WARNING,
            runtime_env=environment,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WorkbookError(
            f"compute.address: no Ray cluster at {address or 'this machine'!r}: {reason}. "
            "Start one there (ray start --head)"
        ) from error


def _check_address(address: str) -> None:
    """Raise WorkbookError where nothing listens: Ray itself would try for minutes."""
    if address in {"", "auto"}:
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise WorkbookError(
            f"compute.address: no Ray cluster answers at {address!r}: {error}. "
            "Start one there (ray start --head), or correct the address"
        ) from None


def _call(
    task: Task, paths: Mapping[str, str], config: Mapping[str, Any], job: Mapping[str, Any]
) -> Any:
    tables = {name: _load_table(path) for name, path in paths.items()}
    return task(tables, config=Config.model_validate(config), **job)


def _save_table(table: pd.DataFrame, ws: Workspace) -> Path:
    path = ws.folder(workspace.MODELS) / "tables" / f"{provenance.table_fingerprint(table)}.parquet"
    if not path.exists():
        workspace.write_table(table, path)
    return path


@lru_cache(maxsize=4)
def _load_table(path: str) -> pd.DataFrame:
    if not Path(path).exists():
        raise WorkbookError(
            f"{path} is not seen from {os.uname().nodename}: "
            "WORKBOOK_HOME must be on a disk that all nodes of the cluster share"
        )
    table = workspace.read_table(Path(path))
    if provenance.table_fingerprint(table) != Path(path).stem:
        raise WorkbookError(f"{path} does not hold the rows of its name: delete it and run again")
    return table
