"""Independent tasks (folds, members, trials): one after the other in this process, in several processes, or on a Ray cluster."""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, as_completed
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
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

Task = Callable[..., Any]  # takes (tables, *, config, run, **job); named at the top of its module


def check(config: Config) -> None:
    """Raise WorkbookError where Ray is asked for and not installed, or nothing listens at its address."""
    if config.compute.engine == "ray":
        if importlib.util.find_spec("ray") is None:
            raise WorkbookError(
                "compute.engine=ray needs the package ray: pip install -c constraints.txt ray, or set compute.engine=local"
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
    """Call `task(tables, config=config, run=run, **job)` for each job; return the results in the order of the jobs.

    Parameters
    ----------
    jobs : plain values

    Raises
    ------
    WorkbookError : of `submitter`. An error of a task is raised as it is.
    """
    with (
        submitter(tables, config=config, ws=ws) as start,
        tqdm(total=len(jobs), desc=desc, unit="training", disable=not progress) as bar,
    ):
        begun = []
        for job in jobs:
            begun.append(start(task, **job))
            begun[-1].add_done_callback(lambda _: bar.update())
            if begun[-1].done():  # in this process: an error ends it here
                begun[-1].result()
        for future in as_completed(begun):
            future.result()
        return [future.result() for future in begun]


@contextmanager
def submitter(
    tables: Mapping[str, pd.DataFrame], *, config: Config, ws: Workspace
) -> Iterator[Callable[..., Future]]:
    """Give a function `start(task, **job)` that begins `task(tables, config=config, run=run, **job)` where `config.compute` says.

    In other processes a task reads the tables from the run's folder `tables`, by fingerprint: no data is pickled. With Ray, all nodes must see
    WORKBOOK_HOME (a shared disk) and have the workbook installed; a task whose node is lost is run again on another. What is still at work at the
    end is stopped.

    Raises
    ------
    WorkbookError : the Ray cluster cannot be reached, or a worker was killed. What a task raises is in its Future.
    """
    check(config)
    if config.compute.engine == "local" and config.compute.workers == 1:
        executor = _ThisProcess()
        yield lambda task, **job: executor.submit(task, tables, config=config, ws=ws, **job)
        return
    kept = {name: str(_keep(table, ws)) for name, table in tables.items()}
    facts = config.model_dump(mode="json")
    with (_on_ray if config.compute.engine == "ray" else _in_processes)(config.compute) as call:
        yield lambda task, **job: call(task, kept, facts, {"ws": ws, **job})


class _ThisProcess(Executor):
    """Runs what is submitted at once: one worker needs no second process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def _in_processes(settings: ComputeConfig) -> Iterator[Callable[..., Future]]:
    context = get_context("loky")
    if sys.platform == "linux":  # elsewhere forks are not safe with the systems' own libraries
        context = get_context("forkserver")
        context.set_forkserver_preload(
            [__name__, "lib.training.finetune"]
        )  # imported once, not by each worker
    threads = max(1, joblib.cpu_count() // settings.workers)
    pool = ProcessPoolExecutor(
        settings.workers,
        context=context,
        initializer=_begin_worker,
        initargs=(os.getpid(), dict(os.environ), threads),
    )
    try:
        yield partial(pool.submit, _call)
    except BrokenExecutor as error:
        raise WorkbookError(
            "a worker was killed, most often for want of memory: set compute.workers lower; the next run goes on"
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

    ours = not ray.is_initialized()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    passed = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("WORKBOOK_", "HF_", "MLFLOW_", "WANDB_"))
    }
    environment = {"env_vars": {**passed, "PYTHONPATH": PYTHONPATH}}
    if ours:
        _connect(
            settings.address,
            log_to_driver=False,
            logging_level=logging.WARNING,
            runtime_env=environment,
        )
    remote = ray.remote(
        num_cpus=settings.cpus,
        num_gpus=settings.gpus,
        max_retries=MAX_RETRIES,
        runtime_env=environment,
    )(_call)
    begun: list[Any] = []

    def call(*args: Any) -> Future:
        begun.append(remote.remote(*args))
        future: Future = Future()

        def settle(found: Future) -> None:
            error = found.exception()
            if error is None:
                future.set_result(found.result())
            else:
                future.set_exception(
                    getattr(error, "cause", None) or error
                )  # a task's own error, as it is

        begun[-1].future().add_done_callback(settle)
        return future

    try:
        yield call
    finally:
        for task in begun:
            ray.cancel(task, force=True)
        if ours:
            ray.shutdown()


def _connect(address: str, **options: Any) -> None:
    import ray

    try:
        ray.init(
            address=address or "local", **options
        )  # "local": one of its own, whatever else runs on this machine
    except (ConnectionError, ValueError, RuntimeError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WorkbookError(
            f"compute.address: no Ray cluster at {address or 'this machine'!r}: {why}. Start one there (ray start --head)"
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
            f"compute.address: no Ray cluster answers at {address!r}: {error}. Start one there (ray start --head), or mend the address"
        ) from None


def _call(
    task: Task, kept: Mapping[str, str], config: Mapping[str, Any], job: Mapping[str, Any]
) -> Any:
    return task(
        {name: _table(path) for name, path in kept.items()},
        config=Config.model_validate(config),
        **job,
    )


def _keep(table: pd.DataFrame, ws: Workspace) -> Path:
    path = ws.folder(workspace.MODELS) / "tables" / f"{provenance.table_fingerprint(table)}.parquet"
    if not path.exists():
        workspace.write_table(table, path)
    return path


@lru_cache(maxsize=4)
def _table(path: str) -> pd.DataFrame:
    if not Path(path).exists():
        raise WorkbookError(
            f"{path} is not seen from {os.uname().nodename}: WORKBOOK_HOME must be on a disk that all nodes of the cluster share"
        )
    table = workspace.read_table(Path(path))
    if provenance.table_fingerprint(table) != Path(path).stem:
        raise WorkbookError(f"{path} does not hold the rows of its name: delete it and run again")
    return table
