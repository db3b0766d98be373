"""One training among many (a fold, a seed, a technique): its predictions are kept, its model is not."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from lib import provenance, workspace
from lib.config import Config, TrainingConfig
from lib.training import finetune
from lib.workspace import Workspace


def train_and_predict(
    train: pd.DataFrame,
    stop: pd.DataFrame,
    scored: pd.DataFrame | None = None,
    *,
    config: Config,
    ws: Workspace,
    name: str,
    watch: Callable[[pd.DataFrame], None] | None = None,
) -> tuple[np.ndarray, float]:
    """Fine-tune once, unless it was done before with the same rows, settings and code; a killed series loses one training at most.

    Parameters
    ----------
    train, stop : with `text` and `label`; `stop` decides when training ends and which checkpoint is kept
    scored : with `text`, the rows to predict; None: those of `stop`
    ws : where the trials of a series are kept, for instance of run "quick/ledger"
    name : of this trial, in its file's name
    watch : is given the history after every evaluation; what it raises ends the training

    Returns
    -------
    probs : ndarray of shape (n, k), columns in the sorted order of the labels of `train`
    seconds : that the training took
    """
    key, named = (
        _key(train, stop, config, scored=scored),
        f"{workspace.file_name(name)}-{config.seed}",
    )
    path = ws.folder(workspace.MODELS) / f"{named}.parquet"
    if not path.exists() or workspace.read_facts(path).get("key") != key:
        own = replace(ws, run=f"{ws.run}/{named}")  # others may be training at the same time
        result = finetune.train(
            train, stop, config=config, ws=own, progress=False, watch=watch, name=name
        )
        probs = (
            result.val_probs
            if scored is None
            else predict(result.model_dir, scored, settings=config.training)
        )
        table = pd.DataFrame(probs, columns=[str(code) for code in range(probs.shape[1])])
        workspace.write_table(
            table, path, facts={"key": key, "seconds": result.facts["training_seconds"]}
        )
        shutil.rmtree(own.folder(workspace.MODELS), ignore_errors=True)
    return workspace.read_table(path).to_numpy(), workspace.read_facts(path)["seconds"]


def train_once(
    train: pd.DataFrame,
    stop: pd.DataFrame,
    *,
    config: Config,
    ws: Workspace,
    progress: bool = False,
) -> tuple[Path, float]:
    """Fine-tune and keep the model, unless this place has that of the same rows, settings and code; return its folder and the seconds."""
    record, key = ws.folder(workspace.MODELS) / "trained.json", _key(train, stop, config)
    if (
        not (record.exists() and ws.path("transformer").exists())
        or (known := workspace.read_json(record))["key"] != key
    ):
        record.unlink(
            missing_ok=True
        )  # before the model changes: a record never stands beside another one
        result = finetune.train(train, stop, config=config, ws=ws, progress=progress)
        known = {"key": key, "seconds": result.facts["training_seconds"]}
        workspace.write_json(known, record)
    return ws.path("transformer"), known["seconds"]


def predict(
    model_dir: Path, table: pd.DataFrame, *, settings: TrainingConfig, progress: bool = False
) -> np.ndarray:
    """Load a model that was trained with these settings and return its probabilities of the texts, of shape (n, k)."""
    tokenizer, model, _ = finetune.load_model(model_dir)
    return finetune.predict_probs(
        tokenizer, model, table["text"].tolist(), settings=settings, progress=progress
    )


def _key(
    train: pd.DataFrame, stop: pd.DataFrame, config: Config, *, scored: pd.DataFrame | None = None
) -> str:
    tables = [provenance.table_fingerprint(finetune.learnable(table)) for table in (train, stop)]
    tables += [provenance.table_fingerprint(scored[["text"]])] if scored is not None else []
    return hashlib.sha256(
        json.dumps(
            [
                *tables,
                config.training.model_dump(mode="json"),
                config.seed,
                provenance.code_fingerprint(__name__),
            ]
        ).encode()
    ).hexdigest()
