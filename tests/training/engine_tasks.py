"""Tasks for the tests of the engine: other processes import them by name."""

import os
import time
from pathlib import Path

from lib.errors import WorkbookError


def add_up(tables, *, config, ws, row, folder, workers=1):
    """Wait, a minute at most, until so many processes are at work; row 0 a little longer.

    Returns
    -------
    the row's number and the seed, the run, and the process that did it
    """
    Path(folder, str(os.getpid())).touch()
    end = time.monotonic() + 60
    while len([*Path(folder).iterdir()]) < workers and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.3 * (row == 0))
    return int(tables["rows"]["number"].iloc[row]) + config.seed, ws.run, os.getpid()


def variable(tables, *, config, ws, name):
    return os.environ.get(name)


def sleep(tables, *, config, ws, folder):
    """Write down which process sleeps."""
    Path(folder, str(os.getpid())).touch()
    time.sleep(60)


def mark_trial(task, settings, watch):
    """Do as `leave_a_mark` for a trial of a search; its value is its learning rate."""
    import pandas as pd

    number = leave_a_mark(
        {"rows": pd.DataFrame({"number": [0]})},
        config=task.config,
        ws=task.ws,
        row=0,
        folder=str(task.folder),
        seconds=2.0,
    )[0]
    watch(pd.DataFrame({"eval_macro_f1": [settings["learning_rate"]]}))
    return settings["learning_rate"] + number


def threads(tables, *, config, ws):
    """Return the threads of torch, and the most of any library."""
    import threadpoolctl
    import torch

    return torch.get_num_threads(), max(
        each["num_threads"] for each in threadpoolctl.threadpool_info()
    )


def fail(tables, *, config, ws, row):
    if row == 1:
        raise WorkbookError("row 1 cannot be used")
    return row


def fail_or_sleep(tables, *, config, ws, seconds):
    if not seconds:
        raise WorkbookError("there is nothing to wait for")
    time.sleep(seconds)


def die(tables, *, config, ws):
    os._exit(9)


def leave_a_mark(tables, *, config, ws, row, folder, seconds):
    """Write down that the task began, work a while, write down that it ended."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    Path(folder, f"began-{row}-{time.time_ns()}").write_text(node)
    time.sleep(seconds)
    return int(tables["rows"]["number"].iloc[row]), node
