"""One training among many (a fold, a seed, a technique): its predictions are kept, its model is not."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable

import numpy as np
import pandas as pd

from lib import workspace
from lib.config import Config
from lib.training import finetune
from lib.workspace import Workspace


def train_and_predict(
    train: pd.DataFrame,
    stop: pd.DataFrame,
    scored: pd.DataFrame | None = None,
    *,
    config: Config,
    run: Workspace,
    name: str,
    watch: Callable[[pd.DataFrame], None] | None = None,
) -> tuple[np.ndarray, float]:
    """Fine-tune once, unless it was done before with the same rows, settings and code; a killed series loses one training at most.

    Parameters
    ----------
    train, stop : with `text` and `label`; `stop` decides when training ends and which checkpoint is kept
    scored : with `text`, the rows to predict; None: those of `stop`
    run : where the trials of a series are kept, for instance of run "quick/ledger"
    name : of this trial, in its file's name
    watch : is given the history after every evaluation; what it raises ends the training

    Returns
    -------
    probs : ndarray of shape (n, k), columns in the sorted order of the labels of `train`
    seconds : that the training took
    """
    tables = [workspace.table_fingerprint(table) for table in (train[["text", "label"]], stop[["text", "label"]])]
    tables += [workspace.table_fingerprint(scored[["text"]])] if scored is not None else []
    key = hashlib.sha256(json.dumps([*tables, config.training.model_dump(mode="json"), config.seed, workspace.code_fingerprint()]).encode()).hexdigest()
    folder = run.folder(workspace.MODELS)
    path = folder / f"{name.replace(' ', '-').replace('/', '-')}-{config.seed}.parquet"
    if not path.exists() or workspace.read_facts(path).get("key") != key:
        result = finetune.train(train, stop, config=config, run=run, progress=False, watch=watch)
        probs = result.val_probs if scored is None else _predict(scored, result, config)
        table = pd.DataFrame(probs, columns=[str(code) for code in range(probs.shape[1])])
        workspace.write_table(table, path, facts={"key": key, "seconds": result.facts["training_seconds"]})
        for left in folder.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
    return workspace.read_table(path).to_numpy(), workspace.read_facts(path)["seconds"]


def _predict(scored: pd.DataFrame, result: finetune.TrainingResult, config: Config) -> np.ndarray:
    tokenizer, model, _ = finetune.load_model(result.model_dir)
    settings = config.training
    return finetune.predict_probs(tokenizer, model, scored["text"].tolist(), max_length=settings.max_length, truncation=settings.truncation, progress=False)
