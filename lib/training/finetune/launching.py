"""Training in several processes: each takes its share of every batch, gradients are averaged (data parallel)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from lib import workspace
from lib.config import Config
from lib.errors import WorkbookError
from lib.training import engine
from lib.training.finetune import tokenization
from lib.workspace import Workspace

LOOK_SECONDS = 0.5  # between looks at what the processes write
PARENT = "WORKBOOK_PARENT"  # in the environment: the process that reads the result
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


def launch(
    train: pd.DataFrame,
    val: pd.DataFrame,
    *,
    config: Config,
    ws: Workspace,
    progress: bool = False,
    watch: Callable[[pd.DataFrame], None] | None = None,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Train in `config.training.processes` processes of a launcher; return facts and history.

    A launcher inside a kernel that has touched CUDA cannot fork, so it is a process of its own: `accelerate launch` on GPUs (its
    further words, for several machines, come from `training.launch_options`), torchrun on CPUs, where `accelerate launch` starts one
    process only.

    Parameters
    ----------
    watch : is given the history after every evaluation; what it raises ends the processes
    """
    folder = ws.folder(workspace.MODELS) / "launch"
    shutil.rmtree(folder, ignore_errors=True)  # of a launch that was killed
    workspace.write_table(tokenization.learnable(train), folder / "train.parquet")
    workspace.write_table(val[["text", "label"]], folder / "val.parquet")
    workspace.write_json(
        {"config": config.model_dump(mode="json"), "dataset": ws.dataset, "run": ws.run},
        folder / "job.json",
    )
    with (folder / "output.txt").open("w") as output:
        words, environment = (
            launch_command(config, str(folder)),
            {**os.environ, PARENT: str(os.getpid())},
        )
        process = subprocess.Popen(
            words,
            cwd=workspace.REPOSITORY,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _follow(
                process,
                folder / "history.json",
                desc=f"training in {config.training.processes} processes" if progress else "",
                watch=watch,
            )
        finally:
            _stop(process)
    if process.returncode or not (folder / "result.json").exists():
        lines = [
            line
            for line in (folder / "output.txt")
            .read_text(encoding="utf-8", errors="replace")
            .splitlines()
            if line.strip()
        ]
        reasons = [line for line in lines if "WorkbookError: " in line]
        raise WorkbookError(
            f"training in {config.training.processes} processes failed: {(reasons or lines or ['no output'])[-1].split('WorkbookError: ')[-1]}"
        )
    result = workspace.read_json(folder / "result.json")
    shutil.rmtree(folder, ignore_errors=True)
    return result["facts"], pd.DataFrame(result["history"])


def _follow(
    process: subprocess.Popen,
    path: Path,
    *,
    desc: str,
    watch: Callable[[pd.DataFrame], None] | None,
) -> None:
    """Wait for the processes, and hand on each history that the first of them writes."""
    seen = None
    with tqdm(desc=desc, unit="step", disable=not desc) as bar:
        ended = False
        while not ended:
            with suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_SECONDS)
            ended = process.returncode is not None  # before the last look
            if not path.exists() or (written := path.stat().st_mtime_ns) == seen:
                continue
            seen, history = written, pd.DataFrame(workspace.read_json(path))
            bar.set_postfix(
                macro_f1=f"{history['eval_macro_f1'].dropna().iloc[-1]:.3f}", refresh=False
            )
            bar.update(int(history["step"].max()) - bar.n)
            if watch:
                watch(history)


def _stop(process: subprocess.Popen) -> None:
    """End the launcher, where it is still there, as it wants to be ended: it then ends its processes."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def launch_command(config: Config, folder: str) -> list[str]:
    """Return the words of the launcher's command; on CPUs it finds a free port itself, unless more words are given."""
    n, more = config.training.processes, list(config.training.launch_options)
    if torch.cuda.is_available():
        in_all = (
            n * int(more[more.index("--num_machines") + 1]) if "--num_machines" in more else n
        )  # accelerate counts those of all machines
        return [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--multi_gpu",
            "--num_processes",
            str(in_all),
            *more,
            "-m",
            __name__,
            folder,
        ]
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        str(n),
        *(more or ["--standalone"]),
        "-m",
        __name__,
        folder,
    ]


def main(folder: str) -> None:
    """Train as one of several processes; the first one writes `result.json`."""
    from lib.training.finetune import run

    if PARENT in os.environ:
        engine.exit_with_parent(int(os.environ[PARENT]))
    job = workspace.read_json(Path(folder) / "job.json")
    train, val = (
        workspace.read_table(Path(folder) / f"{name}.parquet") for name in ("train", "val")
    )
    place = Workspace(dataset=job["dataset"], run=job["run"])

    def watch(history: pd.DataFrame) -> None:  # of the first process alone
        workspace.write_json(_rows(history), Path(folder) / "history.json")

    facts, history = run.train_in_this_process(
        train,
        val,
        config=Config.model_validate(job["config"]),
        ws=place,
        progress=False,
        watch=watch,
    )
    if is_first():
        workspace.write_json(
            {"facts": facts, "history": _rows(history)}, Path(folder) / "result.json"
        )


def _rows(history: pd.DataFrame) -> list[dict[str, Any]]:
    return history.astype(object).where(history.notna(), None).to_dict("records")


if __name__ == "__main__":
    main(sys.argv[1])
