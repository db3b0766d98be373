"""One training among many (a fold, a seed, a technique), done once for its rows and settings."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    """Fine-tune and predict, unless that was done with the same rows, settings and code.

    The predictions are kept, the model is not. A killed series loses one training at most.

    Parameters
    ----------
    train, stop : with `text` and `label`; `stop` decides when training ends and which checkpoint
        is kept
    scored : with `text`, the rows to predict; None: those of `stop`
    ws : where the trials of a series are kept, for instance of run "quick/ledger"
    name : of this trial, in its file's name
    watch : is given the history after every evaluation; what it raises ends the training

    Returns
    -------
    probs : ndarray of shape (n, k), columns in the sorted order of the labels of `train`
    seconds : that the training took
    """
    trial = f"{workspace.file_name(name)}-{config.seed}"
    path = ws.folder(workspace.MODELS) / f"{trial}.parquet"

    def make() -> dict[str, Any]:
        trial_ws = ws.child(trial)  # others may be training at the same time
        result = finetune.train(
            train, stop, config=config, ws=trial_ws, progress=False, watch=watch, name=name
        )
        probs = result.val_probs
        if scored is not None:
            probs = predict(result.model_dir, scored, settings=config.training)
        workspace.write_table(pd.DataFrame(probs).rename(columns=str), path)
        shutil.rmtree(trial_ws.folder(workspace.MODELS), ignore_errors=True)
        return {"seconds": result.facts["training_seconds"]}

    tables = [finetune.learnable(train), finetune.learnable(stop)]
    if scored is not None:
        tables.append(scored[["text"]])
    key = _key(tables, config)
    facts = provenance.once(path.with_suffix(".json"), key, make, outputs=[path])
    return workspace.read_table(path).to_numpy(), facts["seconds"]


def train_once(
    train: pd.DataFrame,
    stop: pd.DataFrame,
    *,
    config: Config,
    ws: Workspace,
    progress: bool = False,
) -> tuple[Path, float]:
    """Fine-tune and keep the model, unless that was done with the same rows, settings and code.

    Returns
    -------
    the model's folder, and the seconds that the training took
    """

    def make() -> dict[str, Any]:
        result = finetune.train(train, stop, config=config, ws=ws, progress=progress)
        return {"seconds": result.facts["training_seconds"]}

    folder = ws.path("transformer")
    record = ws.folder(workspace.MODELS) / "trained.json"
    key = _key([finetune.learnable(train), finetune.learnable(stop)], config)
    facts = provenance.once(record, key, make, outputs=[folder])
    return folder, facts["seconds"]


def predict(
    model_dir: Path, table: pd.DataFrame, *, settings: TrainingConfig, progress: bool = False
) -> np.ndarray:
    """Load a model trained with these settings; return its probabilities, of shape (n, k)."""
    tokenizer, model, _ = finetune.load_model(model_dir)
    texts = table["text"].tolist()
    return finetune.predict_probs(tokenizer, model, texts, settings=settings, progress=progress)


def _key(tables: list[pd.DataFrame], config: Config) -> str:
    settings = config.training.model_dump(mode="json")
    code = provenance.code_fingerprint(__name__)
    return provenance.fingerprint(*tables, settings, config.seed, code)
