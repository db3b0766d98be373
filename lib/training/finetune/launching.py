"""Training in several processes: each takes its share of every batch, gradients are averaged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from lib import workspace
from lib.config import Config
from lib.errors import WorkbookError
from lib.training.finetune import tokenization
from lib.training.finetune.job import TrainingJob

WORKER = "lib.training.finetune.worker"  # the module that runs in each process
POLL_SECONDS = 0.5  # between two readings of what the processes write
PARENT = "WORKBOOK_PARENT"  # in the environment: the process that reads the result
# `accelerate launch` takes one of them; a configuration file may name it
KINDS = {"--multi_gpu", "--cpu", "--tpu", "--config_file"}
STOP_SECONDS = 40  # that a launcher has for ending its processes; torchrun gives them 30


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


def launch(job: TrainingJob) -> tuple[dict[str, Any], pd.DataFrame]:
    """Train in `training.processes` processes of a launcher; return facts and history.

    A launcher inside a kernel that has touched CUDA cannot fork, so it is a process of its own.

    Raises
    ------
    WorkbookError : a process failed; its reason, or the last line of its output, is named.
    """
    folder = job.folder / "launch"
    shutil.rmtree(folder, ignore_errors=True)  # of a launch that was killed
    _write_job(job, folder)
    returncode = _run_launcher(job, folder)
    if returncode or not (folder / "result.json").exists():
        reason = _failure(folder / "output.txt")
        raise WorkbookError(f"training in {job.settings.processes} processes failed: {reason}")
    result = workspace.read_json(folder / "result.json")
    shutil.rmtree(folder, ignore_errors=True)
    return result["facts"], pd.DataFrame(result["history"])


def _write_job(job: TrainingJob, folder: Path) -> None:
    workspace.write_table(tokenization.learnable(job.train), folder / "train.parquet")
    workspace.write_table(tokenization.learnable(job.val), folder / "val.parquet")
    facts = {"dataset": job.ws.dataset, "run": job.ws.run}
    config = job.config.model_dump(mode="json")
    workspace.write_json({"config": config, **facts}, folder / "job.json")


def _run_launcher(job: TrainingJob, folder: Path) -> int | None:
    """Run the launcher to its end, hand on what its processes write, and return its exit code."""
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(
            launch_command(job.config, str(folder)),
            cwd=workspace.REPOSITORY,
            env={**os.environ, PARENT: str(os.getpid())},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _follow(process, folder / "history.json", job)
        finally:
            _stop(process)
    return process.returncode


def _failure(output: Path) -> str:
    """Return why the processes failed: the last WorkbookError, else the last line."""
    text = output.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "WorkbookError: " in line]
    last = (errors or lines or ["no output"])[-1]
    return last.split("WorkbookError: ")[-1]


def _follow(process: subprocess.Popen, path: Path, job: TrainingJob) -> None:
    """Wait for the processes, and hand on each history that the first of them writes."""
    desc = f"training in {job.settings.processes} processes"
    last_written = None
    ended = False
    with tqdm(desc=desc, unit="step", disable=not job.progress) as bar:
        while not ended:
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
            ended = process.returncode is not None  # before the file is read for the last time
            written = path.stat().st_mtime_ns if path.exists() else None
            if written == last_written:
                continue
            last_written = written
            history = pd.DataFrame(workspace.read_json(path))
            score = history["eval_macro_f1"].dropna().iloc[-1]
            bar.set_postfix(macro_f1=f"{score:.3f}", refresh=False)
            bar.update(int(history["step"].max()) - bar.n)
            if job.watch:
                job.watch(history)


def _stop(process: subprocess.Popen) -> None:
    """End the launcher, if it still runs, by the signal on which it ends its processes."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def launch_command(config: Config, folder: str) -> list[str]:
    """Return the launcher's command: `accelerate launch` on GPUs, torchrun on CPUs.

    `--multi_gpu` is added where several processes are asked for and the options name no other kind
    of launch. On CPUs `accelerate launch` starts one process only. torchrun finds a free port
    itself, unless `training.launch_options` (more words for the launcher, for several machines)
    says otherwise.
    """
    n_processes = config.training.processes
    options = list(config.training.launch_options)
    if torch.cuda.is_available():
        if "--num_machines" in options:  # accelerate counts the processes of all machines
            n_processes *= int(options[options.index("--num_machines") + 1])
        kind = ["--multi_gpu"] if n_processes > 1 and KINDS.isdisjoint(options) else []
        launcher = ["accelerate.commands.launch", *kind, "--num_processes"]
    else:
        launcher = ["torch.distributed.run", "--nproc_per_node"]
        options = options or ["--standalone"]
    command = [sys.executable, "-m", *launcher, str(n_processes)]
    return [*command, *options, "-m", WORKER, folder]
