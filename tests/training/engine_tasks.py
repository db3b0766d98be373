"""Tasks for the tests of the engine: other processes import them by name."""

import os
import time

from lib.errors import WorkbookError


def add_up(tables, *, config, run, row, seconds=0.0):
    """Return a row's number, the seed, and the process that did it."""
    time.sleep(seconds)
    return int(tables["rows"]["number"].iloc[row]) + config.seed, run.run, os.getpid()


def threads(tables, *, config, run):
    import torch

    return torch.get_num_threads()


def fail(tables, *, config, run, row):
    if row == 1:
        raise WorkbookError("row 1 cannot be used")
    return row


def die(tables, *, config, run):
    os._exit(9)


def leave_a_mark(tables, *, config, run, row, folder, seconds):
    """Write down that the task began, work a while, write down that it ended."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    with open(f"{folder}/began-{row}-{time.time_ns()}", "w") as file:  # noqa: PTH123
        file.write(node)
    time.sleep(seconds)
    return int(tables["rows"]["number"].iloc[row]), node
