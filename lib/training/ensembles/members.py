"""The members of an ensemble: their out-of-fold probabilities as a table, and each of them trained on all training rows."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from tqdm import tqdm

from lib import provenance, workspace
from lib.config import Config
from lib.errors import WorkbookError
from lib.evaluation.calibration import Calibrator
from lib.training import baseline, cached_training, engine, finetune
from lib.training.ensembles.combining import Ensemble
from lib.training.search import CrossValidation
from lib.workspace import Workspace

OF_CLASS = "p: "  # begins the names of the columns with probabilities, so that a class may be called "fold"


def oof_table(result: CrossValidation, *, class_names: Sequence[str]) -> pd.DataFrame:
    """Return the out-of-fold probabilities: `row_id`, `repeat`, `fold`, `member`, and a column `p: <class>` for each class."""
    parts = []
    for name, probs in result.probs.items():
        for repeat, fold in enumerate(result.fold):
            rows = pd.DataFrame(
                {"row_id": result.rows["row_id"], "repeat": repeat, "fold": fold, "member": name}
            )
            parts.append(
                rows.assign(
                    **{
                        f"{OF_CLASS}{label}": probs[repeat][:, i]
                        for i, label in enumerate(class_names)
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def read_members(
    table: pd.DataFrame, rows: pd.DataFrame
) -> tuple[dict[str, np.ndarray], pd.DataFrame, np.ndarray]:
    """Line up the members of a table of out-of-fold probabilities.

    Parameters
    ----------
    table : from `oof_table`, or of its form; columns are matched by class name, rows by `row_id`. Of repetitions the first is taken
    rows : with `row_id` and `label`, those of the table and any others

    Returns
    -------
    probs : member -> ndarray of shape (n, k), columns in the sorted order of the labels
    rows : the n rows that have probabilities, in their order
    fold : ndarray of int of shape (n,)

    Raises
    ------
    WorkbookError : a class has no column, or a column no class; a member lacks a row that another has, or has one twice; a row's
        probabilities are no numbers or do not sum to 1.
    """
    classes = sorted(rows["label"].unique())
    columns = [f"{OF_CLASS}{label}" for label in classes]
    found = [column for column in table.columns if column.startswith(OF_CLASS)]
    if set(found) != set(columns):
        odd = sorted(set(found) ^ set(columns))[0]
        raise WorkbookError(
            f"out-of-fold probabilities: column {odd!r} is in one of the table and the labels, not in both; run notebook 05 again on this data"
        )
    first = table[table["repeat"] == table["repeat"].min()]
    kept = rows[rows["row_id"].isin(first["row_id"])].reset_index(drop=True)
    probs = {}
    for name, of_member in first.groupby("member", sort=False):
        if len(twice := of_member["row_id"][of_member["row_id"].duplicated()]):
            raise WorkbookError(
                f"member {name!r} has row {twice.iloc[0]} twice in its out-of-fold probabilities"
            )
        aligned = of_member.set_index("row_id").reindex(kept["row_id"])
        if aligned["fold"].isna().any():
            missing = aligned.index[aligned["fold"].isna()]
            raise WorkbookError(
                f"member {name!r} has no probabilities of {len(missing):,} rows that others have, the first is row {missing[0]}: run notebook 05 again"
            )
        values = aligned[columns].to_numpy(dtype=float)
        if len(
            wrong := np.flatnonzero(
                ~(np.abs(values.sum(axis=1) - 1) <= 1e-6) | (values < 0).any(axis=1)
            )
        ):
            raise WorkbookError(
                f"member {name!r}: the probabilities of row {aligned.index[wrong[0]]} must be 0 to 1 and sum to 1, found {values[wrong[0]].round(4).tolist()}"
            )
        probs[str(name)] = values
    return probs, kept, aligned["fold"].to_numpy(dtype=int)


def with_searched(config: Config, ws: Workspace) -> Config:
    """Return the settings with the search's best as a member `searched`, where `search.cross_validate` says so and there was a search."""
    best = yaml.safe_load(ws.existing("best_settings.yaml").read_text(encoding="utf-8"))["training"]
    if not (best and config.search.cross_validate):
        return config
    named = {**config.cross_validation.members, "searched": best}
    return config.model_copy(
        update={"cross_validation": config.cross_validation.model_copy(update={"members": named})}
    )


def fit_all(
    names: Sequence[str],
    train: pd.DataFrame,
    val: pd.DataFrame,
    *,
    config: Config,
    ws: Workspace,
    progress: bool = True,
) -> list[Path]:
    """Train members on all training rows, unless notebook 04 or an earlier run did; return their folders.

    Parameters
    ----------
    names : of `baseline.LINEAR` or of `cross_validation.members`
    train, val : with `text` and `label`; `val` stops the training of a transformer
    """
    tables = {"train": train[["text", "label"]], "val": val[["text", "label"]]}
    jobs = [{"name": name} for name in names]
    return engine.run_tasks(
        fit,
        jobs,
        tables=tables,
        config=config,
        ws=ws,
        desc="members on all rows",
        progress=progress,
    )


def fit(tables: Mapping[str, pd.DataFrame], *, name: str, config: Config, ws: Workspace) -> Path:
    """Train one member on the table `train`, with the table `val` to stop a transformer; return its folder."""
    train, val = tables["train"], tables["val"]
    folder = member_folder(name, config, ws)
    if name in baseline.LINEAR:
        key = f"{provenance.table_fingerprint(train[['text', 'label']])} {config.seed} {provenance.code_fingerprint(baseline.__name__)}"
        if folder != ws.path("baseline") and not (
            folder.exists() and workspace.read_json(folder / "baseline.json")["key"] == key
        ):
            baseline.save_baseline(
                baseline.LINEAR[name](
                    train["text"].tolist(), train["label"].tolist(), seed=config.seed
                ),
                folder,
                key=key,
            )
    elif folder != ws.path("transformer"):
        cached_training.train_once(
            train, val, config=config.member_config(name), ws=_place(name, ws)
        )
    return folder


def member_of_run(config: Config) -> str | None:
    """Return the member that notebook 04 has trained: the one with the run's own settings and seed; None where there is none such."""
    return next(
        (name for name in config.cross_validation.members if config.member_config(name) == config),
        None,
    )


def predictor(
    name: str | None, *, config: Config, ws: Workspace
) -> Callable[[Sequence[str]], np.ndarray]:
    """Return a function that takes texts and returns a trained member's probabilities, columns in the sorted order of the labels.

    Parameters
    ----------
    name : of a member; None: the transformer of notebook 04, member or not

    Raises
    ------
    WorkbookError : it has not been trained.
    """
    folder = member_folder(name, config, ws)
    if not folder.exists():
        raise WorkbookError(f"member {name!r} is not in {folder}: run 06_build_ensemble again")
    if name in baseline.LINEAR:
        return baseline.load_baseline(folder).predict_proba
    settings, (tokenizer, model, _) = (
        (config.member_config(name) if name else config).training,
        finetune.load_model(folder),
    )
    return lambda texts: finetune.predict_probs(
        tokenizer, model, list(texts), settings=settings, progress=False
    )


def predict_all(
    names: Sequence[str | None],
    texts: Sequence[str],
    *,
    config: Config,
    ws: Workspace,
    progress: bool = True,
) -> tuple[dict[str | None, np.ndarray], pd.Series]:
    """Predict with trained members; return member -> ndarray of shape (n, k), and the milliseconds a text that each took.

    A member None is the transformer of notebook 04.
    """
    probs, milliseconds = dict[str | None, np.ndarray](), {}
    for name in tqdm(names, "members", unit="member", disable=not progress):
        predict = predictor(name, config=config, ws=ws)
        started = time.perf_counter()
        probs[name] = np.asarray(predict(texts), dtype=float)
        milliseconds[name] = 1000 * (time.perf_counter() - started) / len(texts)
    return probs, pd.Series(milliseconds, name="ms_per_text")


def model_id(ensemble: Ensemble, calibrator: Calibrator, *, config: Config, ws: Workspace) -> str:
    """Return a SHA-256 over the trained members of an ensemble and both models of notebook 04, how members combine and what calibrates them."""
    trained = [
        provenance.path_fingerprint(member_folder(name, config, ws))
        for name in dict.fromkeys([*ensemble.members, "TF-IDF", None])
    ]
    numbers = [
        array.tolist()
        for array in (ensemble.weights, ensemble.bias, calibrator.scale, calibrator.shift)
    ]
    return hashlib.sha256(
        json.dumps([trained, ensemble.method, ensemble.members, numbers]).encode()
    ).hexdigest()


def untouched_rows(names: Sequence[str], val: pd.DataFrame, *, config: Config) -> pd.DataFrame:
    """Return the validation rows that stopped no member's training; they may be none."""
    watched = [
        finetune.early_stopping_rows(val, config.member_config(name))["row_id"]
        for name in names
        if name not in baseline.LINEAR
    ]
    return val[~val["row_id"].isin(pd.concat(watched))] if watched else val


def member_folder(name: str | None, config: Config, ws: Workspace) -> Path:
    if name == "TF-IDF":
        return ws.path("baseline")
    if name in baseline.LINEAR:
        return _place(name, ws).path("baseline")
    if name is None or config.member_config(name) == config:
        return ws.path("transformer")
    return _place(name, ws).path("transformer")


def _place(name: str, ws: Workspace) -> Workspace:
    return replace(ws, run=f"{ws.run}/members/{workspace.file_name(name)}")
