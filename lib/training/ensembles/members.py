"""The members of an ensemble: their out-of-fold probabilities, and each trained on all rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import yaml
from tqdm import tqdm

from lib import provenance, workspace
from lib.config import Config
from lib.errors import WorkbookError
from lib.training import baseline, cached_training, engine, finetune
from lib.training.ensembles.combining import OF_CLASS, class_columns
from lib.training.search import CrossValidation
from lib.workspace import Workspace

TIMED = 256  # texts on which a member is timed whose probabilities are known


def class_codes(rows: pd.DataFrame, class_names: Sequence[str]) -> np.ndarray:
    """Return the place of each row's label among the class names: ndarray of int of shape (n,)."""
    return pd.Categorical(rows["label"], categories=class_names).codes.astype(int)


def oof_table(result: CrossValidation, *, class_names: Sequence[str]) -> pd.DataFrame:
    """Return the out-of-fold probabilities as a table.

    Returns
    -------
    DataFrame of `row_id`, `repeat`, `fold`, `member`, and a column `p: <class>` for each class
    """
    parts = []
    for name, probs in result.probs.items():
        for repeat, fold in enumerate(result.fold):
            rows = result.rows[["row_id"]].assign(repeat=repeat, fold=fold, member=name)
            parts.append(rows.assign(**class_columns(probs[repeat], class_names)))
    return pd.concat(parts, ignore_index=True)


def read_members(
    table: pd.DataFrame, rows: pd.DataFrame
) -> tuple[dict[str, np.ndarray], pd.DataFrame, np.ndarray]:
    """Align the members of a table of out-of-fold probabilities.

    Parameters
    ----------
    table : from `oof_table`, or of its form; columns are matched by class name, rows by `row_id`.
        Of repetitions the first is taken
    rows : with `row_id` and `label`, those of the table and any others

    Returns
    -------
    probs : member -> ndarray of shape (n, k), columns in the sorted order of the labels
    rows : the n rows that have probabilities, in their order
    fold : ndarray of int of shape (n,)

    Raises
    ------
    WorkbookError : a class has no column, or a column no class; a member lacks a row that another
        has, or has one twice; a row's probabilities are not numbers or do not sum to 1.
    """
    columns = [f"{OF_CLASS}{label}" for label in sorted(rows["label"].unique())]
    given = {column for column in table.columns if column.startswith(OF_CLASS)}
    unmatched = sorted(given ^ set(columns))
    if unmatched:
        raise WorkbookError(
            f"out-of-fold probabilities: column {unmatched[0]!r} is in one of the table and the "
            "labels, not in both; run notebook 05 again on this data"
        )
    first = table[table["repeat"] == table["repeat"].min()]
    kept = rows[rows["row_id"].isin(first["row_id"])].reset_index(drop=True)
    probs = {}
    for name, of_member in first.groupby("member", sort=False):
        aligned = _aligned(str(name), of_member, kept["row_id"])
        probs[str(name)] = _checked(str(name), aligned[columns])
    return probs, kept, aligned["fold"].to_numpy(dtype=int)


def with_searched(config: Config, ws: Workspace) -> Config:
    """Return the settings with the search's best ones as a further member, `searched`.

    Only where `search.cross_validate` asks for it and there was a search.
    """
    best = yaml.safe_load(ws.existing("best_settings.yaml").read_text(encoding="utf-8"))["training"]
    if not (best and config.search.cross_validate):
        return config
    members = {**config.cross_validation.members, "searched": best}
    settings = config.cross_validation.model_copy(update={"members": members})
    return config.model_copy(update={"cross_validation": settings})


def fit_all(
    names: Sequence[str],
    train: pd.DataFrame,
    val: pd.DataFrame,
    *,
    config: Config,
    ws: Workspace,
    progress: bool = True,
) -> list[Path]:
    """Train members on all training rows, unless notebook 04 or an earlier run did.

    Parameters
    ----------
    names : of `baseline.LINEAR` or of `cross_validation.members`
    train, val : with `text` and `label`; `val` stops the training of a transformer

    Returns
    -------
    their folders
    """
    return engine.run_tasks(
        fit,
        [{"name": name} for name in names],
        tables={"train": train[["text", "label"]], "val": val[["text", "label"]]},
        config=config,
        ws=ws,
        desc="members on all rows",
        progress=progress,
    )


def fit(tables: Mapping[str, pd.DataFrame], *, name: str, config: Config, ws: Workspace) -> Path:
    """Train one member on the table `train`; `val` stops a transformer. Return its folder."""
    train, val = tables["train"], tables["val"]
    folder = member_folder(name, config, ws)
    if folder in (ws.path("baseline"), ws.path("transformer")):  # notebook 04's
        return folder
    if name in baseline.LINEAR:
        _fit_linear(name, train[["text", "label"]], folder, seed=config.seed)
    else:
        settings = config.member_config(name)
        cached_training.train_once(train, val, config=settings, ws=_member_ws(name, ws))
    return folder


def member_of_run(config: Config) -> str | None:
    """Return the member that notebook 04 has trained, or None.

    It is the one with the run's own settings and seed.
    """
    for name in config.cross_validation.members:
        if config.member_config(name) == config:
            return name
    return None


def predictor(
    name: str | None, *, config: Config, ws: Workspace
) -> Callable[[Sequence[str]], np.ndarray]:
    """Return a function from texts to a trained member's probabilities.

    Their columns are in the sorted order of the labels.

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
    settings = config.member(name) if name else config.training
    tokenizer, model, _ = finetune.load_model(folder)
    return lambda texts: finetune.predict_probs(
        tokenizer, model, list(texts), settings=settings, progress=False
    )


def predict_all(
    names: Sequence[str | None],
    texts: Sequence[str],
    *,
    config: Config,
    ws: Workspace,
    known: Mapping[str | None, np.ndarray] = MappingProxyType({}),
    progress: bool = True,
) -> tuple[dict[str | None, np.ndarray], pd.Series]:
    """Predict with trained members. A member None is the transformer of notebook 04.

    Parameters
    ----------
    known : member -> ndarray of shape (n, k), what it is known to predict of these texts. It
        predicts 256 of them again, to be timed

    Returns
    -------
    probs : member -> ndarray of shape (n, k)
    ms_per_text : milliseconds a text that each took
    """
    probs: dict[str | None, np.ndarray] = {}
    milliseconds = {}
    for name in tqdm(names, "members", unit="member", disable=not progress):
        predict = predictor(name, config=config, ws=ws)
        asked = texts[:TIMED] if name in known else texts
        started = time.perf_counter()
        answers = np.asarray(predict(asked), dtype=float)
        milliseconds[name] = 1000 * (time.perf_counter() - started) / len(asked)
        probs[name] = known.get(name, answers)
    return probs, pd.Series(milliseconds, name="ms_per_text")


def saved_probs(
    names: Sequence[str],
    rows: pd.DataFrame,
    *,
    class_names: Sequence[str],
    config: Config,
    ws: Workspace,
) -> dict[str | None, np.ndarray]:
    """Return what notebook 04 saved of validation rows, for those members that it trained.

    Parameters
    ----------
    rows : n validation rows, with `row_id`

    Returns
    -------
    member -> ndarray of shape (n, k)

    Raises
    ------
    WorkbookError : a row is not among those that notebook 04 predicted.
    """
    table = workspace.read_table(ws.existing("val_probs.parquet")).set_index("row_id")
    missing = rows["row_id"][~rows["row_id"].isin(table.index)]
    if len(missing):
        raise WorkbookError(
            f"val_probs.parquet has no probabilities of validation row {missing.iloc[0]}: "
            "run 04_train_model again"
        )
    table = table.loc[rows["row_id"]]
    titles = {ws.path("baseline"): "TF-IDF baseline", ws.path("transformer"): "transformer"}
    known: dict[str | None, np.ndarray] = {}
    for name in names:
        title = titles.get(member_folder(name, config, ws))
        if title:
            known[name] = table[[f"{title}: {label}" for label in class_names]].to_numpy()
    return known


def untouched_rows(names: Sequence[str], val: pd.DataFrame, *, config: Config) -> pd.DataFrame:
    """Return the validation rows that stopped no member's training; they may be none."""
    stopped = set[int]()
    for name in names:
        if name not in baseline.LINEAR:
            rows = finetune.early_stopping_rows(val, config.member_config(name))
            stopped.update(rows["row_id"])
    return val[~val["row_id"].isin(stopped)]


def _aligned(name: str, of_member: pd.DataFrame, row_ids: pd.Series) -> pd.DataFrame:
    """Return a member's rows in the order of the ids."""
    twice = of_member["row_id"][of_member["row_id"].duplicated()]
    if len(twice):
        raise WorkbookError(
            f"member {name!r} has row {twice.iloc[0]} twice in its out-of-fold probabilities"
        )
    aligned = of_member.set_index("row_id").reindex(row_ids)
    missing = aligned.index[aligned["fold"].isna()]
    if len(missing):
        raise WorkbookError(
            f"member {name!r} has no probabilities of {len(missing):,} rows that others have, the "
            f"first is row {missing[0]}: run notebook 05 again"
        )
    return aligned


def _checked(name: str, table: pd.DataFrame) -> np.ndarray:
    """Return a member's probabilities: ndarray of shape (n, k)."""
    probs = table.to_numpy(dtype=float)
    is_valid = (abs(probs.sum(axis=1) - 1) <= 1e-6) & ~(probs < 0).any(axis=1)
    if not is_valid.all():
        row = int(np.argmin(is_valid))
        raise WorkbookError(
            f"member {name!r}: the probabilities of row {table.index[row]} must be 0 to 1 and sum "
            f"to 1, found {probs[row].round(4).tolist()}"
        )
    return probs


def _fit_linear(name: str, train: pd.DataFrame, folder: Path, *, seed: int) -> None:
    def fit() -> dict:
        model = baseline.LINEAR[name](train["text"].tolist(), train["label"].tolist(), seed=seed)
        baseline.save_baseline(model, folder)
        return {}

    code = provenance.code_fingerprint(baseline.__name__)
    key = provenance.fingerprint(name, train, seed, code)
    provenance.once(folder.parent / "trained.json", key, fit, outputs=[folder])


def member_folder(name: str | None, config: Config, ws: Workspace) -> Path:
    """Return where a member's model is; None: the transformer of notebook 04."""
    if name == "TF-IDF":
        return ws.path("baseline")
    if name in baseline.LINEAR:
        return _member_ws(name, ws).path("baseline")
    if name is None or config.member_config(name) == config:
        return ws.path("transformer")
    return _member_ws(name, ws).path("transformer")


def _member_ws(name: str, ws: Workspace) -> Workspace:
    return ws.child(f"members/{workspace.file_name(name)}")
