"""What each of several processes runs: `python -m lib.training.finetune.worker FOLDER`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from lib import workspace
from lib.config import Config
from lib.errors import WorkbookError
from lib.training import engine
from lib.training.finetune import fine_tuning, launching
from lib.training.finetune.job import TrainingJob
from lib.workspace import Workspace

# what `accelerate launch` sets in the environment of its processes
SHARDING = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_FSDP": "FSDP"}


def main(folder: Path) -> None:
    """Train as one of several processes; the first one writes `history.json` and `result.json`."""
    if launching.PARENT in os.environ:
        engine.exit_with_parent(int(os.environ[launching.PARENT]))
    refuse_sharding()
    facts, history = fine_tuning.train_in_this_process(_read_job(folder))
    if launching.is_first():
        result = {"facts": facts, "history": _records(history)}
        workspace.write_json(result, folder / "result.json")


def refuse_sharding() -> None:
    """Raise where the launcher shares out the weights, as a `--config_file` may ask for.

    Raises
    ------
    WorkbookError : it was.
    """
    for variable, name in SHARDING.items():
        if os.environ.get(variable, "false").lower() == "true":
            raise WorkbookError(
                f"training.launch_options asks for {name}, which shares out gradients that "
                "micro-batches, averages and checkpoints need whole: set distributed_type to "
                "MULTI_GPU in the launcher's configuration file"
            )


def _read_job(folder: Path) -> TrainingJob:
    def write_history(history: pd.DataFrame) -> None:
        workspace.write_json(_records(history), folder / "history.json")

    facts = workspace.read_json(folder / "job.json")
    return TrainingJob(
        workspace.read_table(folder / "train.parquet"),
        workspace.read_table(folder / "val.parquet"),
        config=Config.model_validate(facts["config"]),
        ws=Workspace(dataset=facts["dataset"], run=facts["run"]),
        watch=write_history,
    )


def _records(history: pd.DataFrame) -> list[dict[str, Any]]:
    return history.astype(object).where(history.notna(), None).to_dict("records")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
