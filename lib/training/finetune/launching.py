"""Training in several processes: each takes its share of every batch, gradients are averaged (data parallel)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from lib import workspace
from lib.config import Config
from lib.errors import WorkbookError
from lib.training.finetune import encoding
from lib.workspace import Workspace


def n_processes() -> int:
    """Return how many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Return whether this process is the one that writes."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def first_process_first() -> Iterator[None]:
    """Let the first process do the block alone, then the others, which find what it wrote."""
    if n_processes() == 1:
        yield
        return
    from accelerate import PartialState

    with PartialState(cpu=not torch.cuda.is_available()).main_process_first():
        yield


def launch(train: pd.DataFrame, val: pd.DataFrame, *, config: Config, run: Workspace) -> tuple[dict[str, Any], pd.DataFrame]:
    """Train in `config.training.processes` processes of a launcher; return facts and history.

    A launcher inside a kernel that has touched CUDA cannot fork, so it is a process of its own: `accelerate launch` on GPUs (its
    further words, for several machines, come from `training.launch_options`), torchrun on CPUs, where `accelerate launch` starts one
    process only.
    """
    folder = run.folder(workspace.MODELS) / "launch"
    workspace.write_table(encoding.learnable(train), folder / "train.parquet")
    workspace.write_table(val[["text", "label"]], folder / "val.parquet")
    workspace.write_json({"config": config.model_dump(mode="json"), "dataset": run.dataset, "run": run.run}, folder / "job.json")
    (folder / "result.json").unlink(missing_ok=True)
    finished = subprocess.run(launch_command(config, str(folder)), cwd=workspace.REPOSITORY, capture_output=True, text=True)
    if finished.returncode or not (folder / "result.json").exists():
        lines = [line for line in (finished.stderr or finished.stdout).strip().splitlines() if line.strip()]
        reasons = [line for line in lines if "WorkbookError: " in line]
        raise WorkbookError(f"training in {config.training.processes} processes failed: {(reasons or lines or ['no output'])[-1].split('WorkbookError: ')[-1]}")
    result = workspace.read_json(folder / "result.json")
    shutil.rmtree(folder, ignore_errors=True)
    return result["facts"], pd.DataFrame(result["history"])


def launch_command(config: Config, folder: str) -> list[str]:
    """Return the words of the launcher's command; on CPUs it finds a free port itself, unless more words are given."""
    n, more = str(config.training.processes), list(config.training.launch_options)
    if torch.cuda.is_available():
        return [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", n, *more, "-m", __name__, folder]
    return [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", n, *(more or ["--standalone"]), "-m", __name__, folder]


def main(folder: str) -> None:
    """Train as one of several processes; the first one writes `result.json`."""
    from lib.training.finetune import run

    job = workspace.read_json(Path(folder) / "job.json")
    train, val = (workspace.read_table(Path(folder) / f"{name}.parquet") for name in ("train", "val"))
    place = Workspace(dataset=job["dataset"], run=job["run"])
    facts, history = run.train_in_this_process(train, val, config=Config.model_validate(job["config"]), run=place, progress=False, watch=None)
    if is_first():
        rows = history.astype(object).where(history.notna(), None).to_dict("records")
        workspace.write_json({"facts": facts, "history": rows}, Path(folder) / "result.json")


if __name__ == "__main__":
    main(sys.argv[1])
