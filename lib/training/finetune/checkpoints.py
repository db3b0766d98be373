"""Checkpoints of a run: whose they are, which one is whole, and when they go."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd

from lib import provenance, workspace
from lib.config import Config
from lib.training.finetune import callbacks, launching, tokenization

WHOLE = (
    "trainer_state.json",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state*.pth",
    "*model.safetensors",
    callbacks.RECIPE,
)  # of a checkpoint


def key_of(train: pd.DataFrame, val: pd.DataFrame, config: Config) -> str:
    """Return what checkpoints belong to: the data, the settings, the code."""
    tables = [provenance.table_fingerprint(tokenization.learnable(table)) for table in (train, val)]
    what = [
        *tables,
        config.training.model_dump(mode="json"),
        config.seed,
        provenance.code_fingerprint("lib.training.finetune"),
    ]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def open_or_clear(checkpoints: Path, key: str) -> list[str]:
    """Keep the checkpoints of an interrupted run with this key, clear away others; return what that run tried before, in words."""
    record = checkpoints / "attempt.json"
    with launching.first_process_first():
        known = workspace.read_json(record) if record.exists() else {}
        if known.get("key") != key:
            known = {"key": key, "tried": []}
            begin(checkpoints, key, [])
    return known["tried"]


def begin(checkpoints: Path, key: str, tried: list[str]) -> None:
    """Clear old checkpoints away, and note what the new ones belong to."""
    clear(checkpoints)
    if launching.is_first():
        workspace.write_json({"key": key, "tried": tried}, checkpoints / "attempt.json")


def clear(checkpoints: Path) -> None:
    """Delete the checkpoints."""
    if launching.is_first():
        (checkpoints / "attempt.json").unlink(
            missing_ok=True
        )  # first: without it what is left, were this cut short, is not taken up
        shutil.rmtree(checkpoints, ignore_errors=True)


def last(checkpoints: Path) -> str | None:
    """Return the folder of the last whole checkpoint. Its state file is written last; of one half deleted other files are missing."""
    whole = {}
    for folder in checkpoints.glob("checkpoint-*"):
        if all(any(folder.glob(name)) for name in WHOLE):
            with contextlib.suppress(ValueError):
                whole[workspace.read_json(folder / "trainer_state.json")["global_step"]] = folder
    return str(whole[max(whole)]) if whole else None
