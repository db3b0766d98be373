"""Cross-validation: every row is predicted by models that saw neither it nor a near-copy of it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from lib.config import Config
from lib.data.sources import sample_rows
from lib.errors import WorkbookError
from lib.evaluation.metrics import accuracy, macro_f1
from lib.evaluation.significance import cross_validation_interval
from lib.training import baseline, cached_training, engine
from lib.workspace import Workspace


@dataclass(frozen=True)
class CrossValidation:
    """Out-of-fold probabilities and scores.

    Attributes
    ----------
    rows : DataFrame of n rows with `row_id`, `text`, `label`, `group`: the rows that were dealt out
    fold : ndarray of int of shape (repeats, n), the fold in which a row is held out
    probs : member -> ndarray of shape (repeats, n, k), columns in the sorted order of the labels
    scores : DataFrame of `member`, `repeat`, `fold`, `macro_f1`, `accuracy`, `seconds`
    """

    rows: pd.DataFrame
    fold: np.ndarray
    probs: dict[str, np.ndarray]
    scores: pd.DataFrame


def assign_folds(
    rows: pd.DataFrame,
    *,
    n_folds: int,
    seed: int,
    remedy: str = "set cross_validation.folds lower or rows higher",
) -> np.ndarray:
    """Return the fold of each row, stratified by label; a group lies in one fold.

    Raises
    ------
    WorkbookError : a class with fewer groups than folds.
    """
    n_groups = rows.groupby("label")["group"].nunique()
    if n_groups.min() < max(2, n_folds):
        few = f"{n_groups.idxmin()!r} has {n_groups.min()} different texts"
        raise WorkbookError(
            f"{n_folds} folds need as many texts of each class, and {few}: {remedy}"
        )
    fold = np.zeros(len(rows), dtype=int)
    splitter = StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    for number, (_, held_out) in enumerate(splitter.split(rows, rows["label"], rows["group"])):
        fold[held_out] = number
    return fold


def early_stopping_mask(rows: pd.DataFrame, *, share: float, seed: int) -> np.ndarray:
    """Return which of a training's rows stop it: a share of them, stratified by label, near-copies together; a class of one group learns.

    Returns
    -------
    ndarray of bool of shape (n,)
    """
    splitter = StratifiedGroupKFold(n_splits=round(1 / share), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="The least populated class"
        )  # then it has no row in some part
        held_out = next(splitter.split(rows, rows["label"], rows["group"]))[1]
    stops = np.zeros(len(rows), dtype=bool)
    stops[held_out] = True
    return stops & rows["label"].isin(rows["label"][~stops]).to_numpy()


def cross_validate(
    train: pd.DataFrame, *, config: Config, ws: Workspace, progress: bool = True
) -> CrossValidation:
    """Train every member on each set of folds but one, and predict the one.

    What stops a transformer's training is a share of its own training rows: the rows that it is scored on decide nothing. Finished
    trainings are kept: a cross-validation that was interrupted goes on with the next.

    Parameters
    ----------
    train : with `row_id`, `text`, `label`, `group`
    config : `cross_validation` says folds, repeats, rows and members; the same seed deals the same folds

    Raises
    ------
    WorkbookError : a class with fewer texts than folds.
    """
    settings = config.cross_validation
    rows = train.reset_index(drop=True)
    if settings.rows and settings.rows < len(train):  # a rare class is in every fold
        rows = sample_rows(
            train,
            settings.rows,
            seed=config.seed,
            at_least=2 * settings.folds,
            setting="cross_validation.rows",
        )
    classes, y = np.unique(rows["label"].to_numpy().astype(str), return_inverse=True)
    fold = np.stack(
        [
            assign_folds(rows, n_folds=settings.folds, seed=config.seed + repeat)
            for repeat in range(settings.repeats)
        ]
    )
    members = [*baseline.LINEAR, *settings.members]
    deals = [
        (name, repeat, number)
        for repeat, number in np.ndindex(settings.repeats, settings.folds)
        for name in members
    ]
    jobs = [{"name": name, "repeat": repeat, "fold": number} for name, repeat, number in deals]
    trained = engine.run_tasks(
        train_on_folds,
        jobs,
        tables={"rows": rows},
        config=config,
        ws=ws,
        desc="cross-validation",
        progress=progress,
    )
    probs, scores = {name: np.empty((*fold.shape, len(classes))) for name in members}, []
    for (name, repeat, number), (found, seconds) in zip(deals, trained):
        held_out, y_pred = fold[repeat] == number, found.argmax(axis=1)
        probs[name][repeat, held_out] = found
        scores.append(
            (
                name,
                repeat,
                number,
                macro_f1(y[held_out], y_pred, n_classes=len(classes)),
                accuracy(y[held_out], y_pred),
                seconds,
            )
        )
    return CrossValidation(
        rows,
        fold,
        probs,
        pd.DataFrame(
            scores, columns=["member", "repeat", "fold", "macro_f1", "accuracy", "seconds"]
        ),
    )


def compare(
    scores: pd.DataFrame, *, n_rows: int, n_folds: int, confidence: float = 0.95
) -> pd.DataFrame:
    """Compare members over the same folds.

    Parameters
    ----------
    scores : of a CrossValidation
    confidence : of a mean's interval, and of the intervals of all gains together (Bonferroni over all pairs: which of them are compared is
        seen in the scores)

    Returns
    -------
    DataFrame by member, best mean first: `macro_f1`, `deviation` between folds, `low`, `high`, `gain` over the first row with
    `gain_low`, `gain_high` and `verdict` ("best", "worse", "inconclusive"), `seconds` of all its trainings, `chosen`: the one whose
    mean minus one standard error is highest, which is the best or not significantly worse.

    Source
    ------
    `significance.cross_validation_interval`; the choice after Breiman et al. 1984, "Classification and Regression Trees".
    """
    table = scores.pivot(index=["repeat", "fold"], columns="member", values="macro_f1")
    table = table[table.mean().sort_values(ascending=False, kind="stable").index]
    n_test = max(1, round(n_rows / n_folds))
    n_members = table.shape[1]
    sizes, each = (
        {"n_train": n_rows - n_test, "n_test": n_test},
        1 - (1 - confidence) / max(1, n_members * (n_members - 1) // 2),
    )
    found = []
    for place, (name, of_folds) in enumerate(table.items()):
        mean = cross_validation_interval(of_folds.to_numpy(), confidence=confidence, **sizes)
        gain = cross_validation_interval(
            (of_folds - table.iloc[:, 0]).to_numpy(), confidence=each, **sizes
        )
        verdict = "best" if place == 0 else gain.verdict
        found.append(
            (
                name,
                mean.value,
                of_folds.std(ddof=1),
                max(0.0, mean.low),
                min(1.0, mean.high),
                gain.value,
                gain.low,
                gain.high,
                verdict,
            )
        )
    columns = [
        "member",
        "macro_f1",
        "deviation",
        "low",
        "high",
        "gain",
        "gain_low",
        "gain_high",
        "verdict",
    ]
    compared = pd.DataFrame(found, columns=columns).set_index("member")
    compared["seconds"] = scores.groupby("member")["seconds"].sum()
    # never one that is worse: such a gap is wider than the difference of two standard errors
    careful = compared["macro_f1"] - compared["deviation"] / np.sqrt(len(table))
    compared["chosen"] = compared.index == careful.idxmax()
    return compared


def train_on_folds(
    tables: Mapping[str, pd.DataFrame],
    *,
    config: Config,
    ws: Workspace,
    name: str,
    repeat: int,
    fold: int,
) -> tuple[np.ndarray, float]:
    """Train a member on the table `rows` without one fold, and predict that; return probabilities of shape (n_fold, k) and seconds."""
    rows = tables["rows"]
    out = (
        assign_folds(rows, n_folds=config.cross_validation.folds, seed=config.seed + repeat) == fold
    )
    train, held_out = rows[~out], rows[out]
    if name in baseline.LINEAR:
        started = time.perf_counter()
        model = baseline.LINEAR[name](
            train["text"].tolist(), train["label"].tolist(), seed=config.seed
        )
        return model.predict_proba(held_out["text"].tolist()), time.perf_counter() - started
    stops = early_stopping_mask(
        train, share=config.cross_validation.early_stopping_share, seed=config.seed
    )
    place = Workspace(dataset=ws.dataset, run=f"{ws.run}/folds")
    settings = config.member_config(name)
    settings = settings.model_copy(update={"seed": settings.seed + repeat})
    return cached_training.train_and_predict(
        train[~stops],
        train[stops],
        held_out,
        config=settings,
        ws=place,
        name=f"{name}-{repeat}-{fold}",
    )
