"""One model in place of several: a student of the ensemble's probabilities, and a soup of two trainings' weights."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from lib import workspace
from lib.config import Config
from lib.errors import WorkbookError
from lib.training import cached_training
from lib.training.finetune import SOFT
from lib.training.search.cross_validation import early_stopping_mask
from lib.workspace import Workspace


def with_soft_labels(
    rows: pd.DataFrame, teacher: np.ndarray, y_true: np.ndarray, *, share: float, temperature: float
) -> pd.DataFrame:
    """Return the rows with what a student learns in place of their labels.

    Parameters
    ----------
    rows : n rows
    teacher : ndarray of shape (n, k), of models that did not learn from the row they judge
    y_true : ndarray of int of shape (n,), columns of `teacher`
    share : 0..1, of the teacher in a soft label; the rest is the label
    temperature : above 1 the teacher's probabilities are flattened

    Source
    ------
    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"; the student is trained at temperature 1.
    """
    flat = np.clip(teacher, 1e-12, None) ** (1 / temperature)
    soft = (
        share * flat / flat.sum(axis=1, keepdims=True)
        + (1 - share) * np.eye(teacher.shape[1])[y_true]
    )
    return rows.assign(**{f"{SOFT}{code}": soft[:, code] for code in range(soft.shape[1])})


def soup(folders: Sequence[Path], out: Path) -> Path:
    """Write a model whose weights are the mean of those of several: one model's cost, and often the accuracy of a vote.

    Parameters
    ----------
    folders : models that `finetune.train` saved, fine-tuned from the same weights with the same head to begin with
    out : folder of the new model

    Raises
    ------
    WorkbookError : the models differ in their classes or in the names or shapes of their weights.

    Source
    ------
    Wortsman et al. 2022, "Model soups" (the uniform soup).
    """
    from safetensors.torch import load_file, save_file

    first, *others = folders
    classes = [workspace.read_json(folder / "config.json")["id2label"] for folder in folders]
    total = {
        name: weight.double() for name, weight in load_file(first / "model.safetensors").items()
    }
    for folder, named in zip(others, classes[1:]):
        weights = load_file(folder / "model.safetensors")
        if named != classes[0] or {k: w.shape for k, w in weights.items()} != {
            k: w.shape for k, w in total.items()
        }:
            raise WorkbookError(
                f"no soup of {first} and {folder}: they differ in their classes or in the shapes of their weights"
            )
        for name, weight in weights.items():
            total[name] += weight
    with workspace.atomic_path(out) as scratch:
        shutil.copytree(first, scratch)
        save_file(
            {name: (weight / len(folders)).to(torch.float32) for name, weight in total.items()},
            scratch / "model.safetensors",
            metadata={"format": "pt"},
        )
    return out


def compare_students(
    rows: pd.DataFrame,
    teacher: np.ndarray,
    y_true: np.ndarray,
    scored: pd.DataFrame,
    *,
    config: Config,
    ws: Workspace,
    progress: bool = True,
) -> tuple[dict[str, np.ndarray], pd.Series]:
    """Train one model with hard labels, one with another seed, and one with the ensemble's probabilities, on the same rows.

    Trainings that are there already, of the same rows, settings and code, are not repeated.

    Parameters
    ----------
    rows : n rows with `text`, `label`, `group`; a share of them (`cross_validation.early_stopping_share`) stops the trainings
    teacher : ndarray of shape (n, k), the ensemble's out-of-fold probabilities
    scored : with `text`; rows that none of them has seen

    Returns
    -------
    probs : name -> ndarray of shape (n_scored, k): "one training", "another seed", "soup of both", "vote of both", "student"
    seconds : of the trainings
    """
    stops, settings = (
        early_stopping_mask(
            rows, share=config.cross_validation.early_stopping_share, seed=config.seed
        ),
        config.ensemble,
    )
    soft = with_soft_labels(
        rows,
        teacher,
        y_true,
        share=settings.teacher_share,
        temperature=settings.teacher_temperature,
    )
    one_head = config.model_copy(
        update={"training": config.training.model_copy(update={"head_seed": config.seed})}
    )
    other_seed = one_head.model_copy(update={"seed": (config.seed + 1) % 2**32})
    trainings = {
        "one training": (rows, one_head),
        "another seed": (rows, other_seed),
        "student": (soft, one_head),
    }
    folders, seconds, probs = {}, {}, {}
    for name, (learnt, its) in tqdm(
        trainings.items(), "students", unit="training", disable=not progress
    ):
        place = replace(ws, run=f"{ws.run}/students/{name.replace(' ', '-')}")
        folders[name], seconds[name] = cached_training.train_once(
            learnt[~stops], rows[stops], config=its, ws=place
        )
        probs[name] = cached_training.predict(folders[name], scored, settings=config.training)
    two = ("one training", "another seed")
    mixed = soup([folders[name] for name in two], ws.folder(workspace.MODELS) / "students" / "soup")
    probs["soup of both"] = cached_training.predict(mixed, scored, settings=config.training)
    probs["vote of both"] = np.mean([probs[name] for name in two], axis=0)
    return probs, pd.Series(seconds, name="seconds")
