"""Checkpoints of a run: which training they belong to, which one is whole, and when they go."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from lib import provenance, workspace
from lib.config import Config
from lib.training.finetune import launching, tokenization

# next to a checkpoint, written before the Trainer's own state
AVERAGED = "averaged.safetensors"
RECIPE = "recipe.json"
# what a training goes on from, and what the model is
STATE = ("trainer_state.json", "optimizer.pt", "scheduler.pt", RECIPE)
WEIGHTS = "*model.safetensors"


def key_of(train: pd.DataFrame, val: pd.DataFrame, config: Config) -> str:
    """Return what checkpoints belong to: the data, the settings, the code."""
    return provenance.fingerprint(
        tokenization.learnable(train),
        tokenization.learnable(val),
        config.training.model_dump(mode="json"),
        config.seed,
        provenance.code_fingerprint("lib.training.finetune"),
    )


def open_or_clear(checkpoints: Path, key: str) -> list[str]:
    """Keep the checkpoints of an interrupted run with this key, and clear others away.

    Returns
    -------
    the tries of that run that diverged, in words
    """
    path = checkpoints / "attempt.json"
    with launching.first_process_first():
        attempt = workspace.read_json(path) if path.exists() else {}
        if attempt.get("key") == key:
            return attempt["tried"]
        begin(checkpoints, key, [])
    return []


def begin(checkpoints: Path, key: str, tried: list[str]) -> None:
    """Clear old checkpoints away, and note what the new ones belong to."""
    clear(checkpoints)
    if launching.is_first():
        workspace.write_json({"key": key, "tried": tried}, checkpoints / "attempt.json")


def clear(checkpoints: Path) -> None:
    """Delete the checkpoints."""
    if launching.is_first():
        # first, so that what is left, were this cut short, is not taken up
        (checkpoints / "attempt.json").unlink(missing_ok=True)
        shutil.rmtree(checkpoints, ignore_errors=True)


def last(checkpoints: Path) -> str | None:
    """Return the folder of the last whole checkpoint.

    The state file is written last; of a checkpoint that is half deleted other files are missing.
    """
    whole = {}
    for folder in checkpoints.glob("checkpoint-*"):
        n_states = len(list(folder.glob("rng_state*.pth")))  # one of each process
        if n_states >= launching.n_processes() and _holds(folder, [*STATE, WEIGHTS]):
            with contextlib.suppress(ValueError):
                step = workspace.read_json(folder / "trainer_state.json")["global_step"]
                whole[step] = folder
    return str(whole[max(whole)]) if whole else None


def _holds(folder: Path, names: list[str]) -> bool:
    return all(any(folder.glob(name)) for name in names)


def keep_last(checkpoints: Path, folder: Path) -> None:
    """Keep the model of the last checkpoint in a folder: an adapter alone, where that learned."""
    left_out = shutil.ignore_patterns(*STATE, AVERAGED, "*.pt", "*.pth", "*.bin")
    with workspace.atomic_path(folder) as scratch:
        shutil.copytree(str(last(checkpoints)), scratch, ignore=left_out, dirs_exist_ok=True)


def current(args: Any, state: Any) -> Path:
    """Return the folder of the checkpoint of the step that a Trainer is at."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
