"""Cross-validation: every row is predicted by models that saw neither it nor a near-copy of it."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

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
    rows : DataFrame of n rows with `row_id`, `text`, `label`, `group`: those that were predicted
    fold : ndarray of int of shape (repeats, n), the fold in which a row is held out
    probs : member -> ndarray of shape (repeats, n, k), columns in the sorted order of the labels
    scores : DataFrame of `member`, `repeat`, `fold`, `macro_f1`, `accuracy`, `seconds`
    """

    rows: pd.DataFrame
    fold: np.ndarray
    probs: dict[str, np.ndarray]
    scores: pd.DataFrame

    def n_split_groups(self) -> int:
        """Return how many groups of near-copies lie in several folds, over all repetitions."""
        group = self.rows["group"].to_numpy()
        folds_of_group = [pd.Series(fold).groupby(group).nunique() for fold in self.fold]
        return int((pd.concat(folds_of_group) > 1).sum())


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
        raise WorkbookError(
            f"{n_folds} folds need as many texts of each class, and {n_groups.idxmin()!r} has "
            f"{n_groups.min()} different texts: {remedy}"
        )
    fold = np.zeros(len(rows), dtype=int)
    splitter = StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    for number, (_, held_out) in enumerate(splitter.split(rows, rows["label"], rows["group"])):
        fold[held_out] = number
    return fold


def early_stopping_mask(rows: pd.DataFrame, *, share: float, seed: int) -> np.ndarray:
    """Return which of a training's rows stop it: a share of them, stratified by label.

    Near-copies stay together. A class that is one group of near-copies is trained on.

    Returns
    -------
    ndarray of bool of shape (n,)
    """
    splitter = StratifiedGroupKFold(n_splits=round(1 / share), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # of a class with fewer rows than parts: some part has none
        warnings.filterwarnings("ignore", message="The least populated class")
        _, held_out = next(splitter.split(rows, rows["label"], rows["group"]))
    stops = np.zeros(len(rows), dtype=bool)
    stops[held_out] = True
    trained_on = rows["label"][~stops]
    return stops & rows["label"].isin(trained_on).to_numpy()


def cross_validate(
    train: pd.DataFrame, *, config: Config, ws: Workspace, progress: bool = True
) -> CrossValidation:
    """Train every member on all folds but one, and predict that one; so for each fold.

    A share of a transformer's own training rows stops its training: the rows that it is scored on
    decide nothing. Finished trainings are kept: a cross-validation that was interrupted continues
    with the next.

    Parameters
    ----------
    train : with `row_id`, `text`, `label`, `group`
    config : `cross_validation` sets folds, repeats, rows and members; the same seed gives the same
        folds

    Raises
    ------
    WorkbookError : a class with fewer texts than folds.
    """
    settings = config.cross_validation
    rows = _sample(train, config)
    fold = np.stack([_folds(rows, config, repeat=i) for i in range(settings.repeats)])
    jobs: list[dict[str, Any]] = [
        {"name": name, "repeat": repeat, "fold": number}
        for repeat, number in np.ndindex(settings.repeats, settings.folds)
        for name in [*baseline.LINEAR, *settings.members]
    ]
    outputs = engine.run_tasks(
        train_on_folds,
        jobs,
        tables={"rows": rows},
        config=config,
        ws=ws,
        desc="cross-validation",
        progress=progress,
    )
    classes, y_true = np.unique(rows["label"].to_numpy().astype(str), return_inverse=True)
    probs: dict[str, np.ndarray] = {}
    scores = []
    for job, (fold_probs, seconds) in zip(jobs, outputs):
        name, repeat = job["name"], job["repeat"]
        held_out = fold[repeat] == job["fold"]
        probs.setdefault(name, np.empty((*fold.shape, len(classes))))
        probs[name][repeat, held_out] = fold_probs
        y_fold, y_pred = y_true[held_out], fold_probs.argmax(axis=1)
        f1 = macro_f1(y_fold, y_pred, n_classes=len(classes))
        scores.append((name, repeat, job["fold"], f1, accuracy(y_fold, y_pred), seconds))
    columns = ["member", "repeat", "fold", "macro_f1", "accuracy", "seconds"]
    return CrossValidation(rows, fold, probs, pd.DataFrame(scores, columns=columns))


def train_on_folds(
    tables: Mapping[str, pd.DataFrame],
    *,
    config: Config,
    ws: Workspace,
    name: str,
    repeat: int,
    fold: int,
) -> tuple[np.ndarray, float]:
    """Train a member on the table `rows` without one fold, and predict that fold.

    Returns
    -------
    probs : ndarray of shape (n_fold, k)
    seconds : of the training
    """
    rows = tables["rows"]
    is_held_out = _folds(rows, config, repeat=repeat) == fold
    train, held_out = rows[~is_held_out], rows[is_held_out]
    if name in baseline.LINEAR:
        started = time.perf_counter()
        fit = baseline.LINEAR[name]
        model = fit(train["text"].tolist(), train["label"].tolist(), seed=config.seed)
        probs = model.predict_proba(held_out["text"].tolist())
        return probs, time.perf_counter() - started
    share = config.cross_validation.early_stopping_share
    stops = early_stopping_mask(train, share=share, seed=config.seed)
    settings = config.member_config(name)
    return cached_training.train_and_predict(
        train[~stops],
        train[stops],
        held_out,
        config=settings.model_copy(update={"seed": settings.seed + repeat}),
        ws=replace(ws, run=f"{ws.run}/folds"),
        name=f"{name}-{repeat}-{fold}",
    )


def compare(
    scores: pd.DataFrame, *, n_rows: int, n_folds: int, confidence: float = 0.95
) -> pd.DataFrame:
    """Compare members over the same folds.

    Parameters
    ----------
    scores : of a CrossValidation
    confidence : of a mean's interval, and of the intervals of all gains together (Bonferroni over
        all pairs: which of them are compared is seen in the scores)

    Returns
    -------
    DataFrame by member, best mean first: `macro_f1`, `deviation` between folds, `low`, `high`,
    `gain` over the first row with `gain_low`, `gain_high` and `verdict` ("best", "worse",
    "inconclusive"), `seconds` of all its trainings, `chosen`: the one whose mean minus one standard
    error is highest, which is the best or not significantly different from it.

    Source
    ------
    `significance.cross_validation_interval`; the choice after Breiman et al. 1984, "Classification
    and Regression Trees".
    """
    by_fold = scores.pivot(index=["repeat", "fold"], columns="member", values="macro_f1")
    order = by_fold.mean().sort_values(ascending=False, kind="stable").index
    n_test = max(1, round(n_rows / n_folds))
    sizes = {"n_train": n_rows - n_test, "n_test": n_test}
    n_pairs = max(1, math.comb(len(order), 2))
    rows = []
    for name in order:
        values = by_fold[name]
        gains = values - by_fold[order[0]]
        mean = cross_validation_interval(values.to_numpy(), confidence=confidence, **sizes)
        gain = cross_validation_interval(
            gains.to_numpy(), confidence=1 - (1 - confidence) / n_pairs, **sizes
        )
        row = {
            "macro_f1": mean.value,
            "deviation": values.std(ddof=1),
            "low": max(0.0, mean.low),
            "high": min(1.0, mean.high),
            "gain": gain.value,
            "gain_low": gain.low,
            "gain_high": gain.high,
            "verdict": "best" if name == order[0] else gain.verdict,
        }
        rows.append(row)
    compared = pd.DataFrame(rows, index=order)
    compared["seconds"] = scores.groupby("member")["seconds"].sum()
    # never one that is worse: such a gap is wider than the difference of two standard errors
    lower_means = compared["macro_f1"] - compared["deviation"] / np.sqrt(len(by_fold))
    compared["chosen"] = compared.index == lower_means.idxmax()
    return compared


def describe_best(compared: pd.DataFrame, *, n_train: int) -> str:
    """Return the score of the member with the best mean, in words.

    Parameters
    ----------
    compared : from `compare`
    n_train : rows that each of its models was trained on
    """
    best = compared.iloc[0]
    return (
        f"{best.name}: macro F1 {best['macro_f1']:.3f} [{best['low']:.3f}, {best['high']:.3f}] "
        f"when trained on {n_train:,} texts. One fold alone is off by "
        f"{compared['deviation'].max():.3f} (standard deviation, the largest of the members)."
    )


def describe_verdicts(compared: pd.DataFrame, *, n_rows: int, n_folds: int) -> str:
    """Return in words which members are significantly different, and which one is chosen.

    Parameters
    ----------
    compared : from `compare`
    n_folds : of all repetitions together
    """
    similar = ", ".join(compared.index[compared["verdict"] == "inconclusive"])
    worse = ", ".join(compared.index[compared["verdict"] == "worse"])
    parts = [f"{compared.index[0]} has the highest mean"]
    if similar:
        parts.append(f"not significantly different from it: {similar}")
    if worse:
        parts.append(f"worse: {worse}")
    chosen = compared["chosen"].idxmax()
    return f"{'; '.join(parts)}. Chosen: {chosen}, on {n_rows:,} rows in {n_folds} folds."


def _sample(train: pd.DataFrame, config: Config) -> pd.DataFrame:
    settings = config.cross_validation
    if not settings.rows or settings.rows >= len(train):
        return train.reset_index(drop=True)
    # a rare class is in every fold
    return sample_rows(
        train,
        settings.rows,
        seed=config.seed,
        at_least=2 * settings.folds,
        setting="cross_validation.rows",
    )


def _folds(rows: pd.DataFrame, config: Config, *, repeat: int) -> np.ndarray:
    return assign_folds(rows, n_folds=config.cross_validation.folds, seed=config.seed + repeat)
