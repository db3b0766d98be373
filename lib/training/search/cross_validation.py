"""Cross-validation: every row is predicted by models that saw neither it nor a near-copy of it."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from lib.config import Config
from lib.data.sources import sample_rows
from lib.errors import WorkbookError
from lib.evaluation.metrics import accuracy, macro_f1
from lib.evaluation.significance import Interval, cross_validation_interval
from lib.training import baseline, cached_training, engine
from lib.workspace import Workspace

COMPARED = ["macro_f1", "deviation", "low", "high", "gain", "gain_low", "gain_high", "verdict"]


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
        n_folds = pd.DataFrame(self.fold.T).groupby(group).nunique().to_numpy()
        return int((n_folds > 1).sum())


def sample_for_folds(
    train: pd.DataFrame, n_rows: int | None, *, n_folds: int, seed: int
) -> pd.DataFrame:
    """Return a stratified sample with a rare class in every fold, or all rows where they are fewer.

    Parameters
    ----------
    n_rows : 0 or None takes all; more are taken where the classes need it
    """
    if not n_rows or n_rows >= len(train):
        return train.reset_index(drop=True)
    return sample_rows(train, n_rows, seed=seed, at_least=2 * n_folds)


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
    rarest, n_texts = n_groups.idxmin(), n_groups.min()
    if n_texts < max(2, n_folds):
        raise WorkbookError(
            f"{n_folds} folds need as many texts of each class, and {rarest!r} has {n_texts} "
            f"different texts: {remedy}"
        )
    fold = np.zeros(len(rows), dtype=int)
    for number, (_, held_out) in enumerate(_splits(rows, n_folds, seed)):
        fold[held_out] = number
    return fold


def _splits(rows: pd.DataFrame, n_folds: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    splitter = StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    return splitter.split(rows, rows["label"], rows["group"])


def early_stopping_mask(rows: pd.DataFrame, *, share: float, seed: int) -> np.ndarray:
    """Return which of a training's rows stop it: a share of them, stratified by label.

    Near-copies stay together. Of small classes it is a larger share: a row of the largest at least.
    A class that is one group of near-copies is trained on.

    Returns
    -------
    ndarray of bool of shape (n,)
    """
    n_groups = rows.groupby("label")["group"].nunique()
    n_parts = min(round(1 / share), int(n_groups.max()))
    with warnings.catch_warnings():
        # of a class with fewer rows than parts: some part has none
        warnings.filterwarnings("ignore", message="The least populated class")
        _, held_out = next(_splits(rows, n_parts, seed))
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
    rows = sample_for_folds(train, settings.rows, n_folds=settings.folds, seed=config.seed)
    fold = np.stack([_folds(rows, config, repeat) for repeat in range(settings.repeats)])
    members = [*baseline.LINEAR, *settings.members]
    keys = product(range(settings.repeats), range(settings.folds), members)
    jobs = [{"member": name, "repeat": repeat, "fold": number} for repeat, number, name in keys]
    outputs = engine.run_tasks(
        train_on_folds,
        jobs,
        tables={"rows": rows},
        config=config,
        ws=ws,
        desc="cross-validation",
        progress=progress,
    )
    return _collected(rows, fold, jobs, outputs)


def _collected(
    rows: pd.DataFrame,
    fold: np.ndarray,
    jobs: list[dict[str, Any]],
    outputs: list[tuple[np.ndarray, float]],
) -> CrossValidation:
    """Return the probabilities of all jobs by member, and the score of each job."""
    labels = rows["label"].to_numpy().astype(str)
    classes, y_true = np.unique(labels, return_inverse=True)
    n_classes = len(classes)
    probs: dict[str, np.ndarray] = {}
    scores = []
    for job, (fold_probs, seconds) in zip(jobs, outputs):
        member, repeat = job["member"], job["repeat"]
        held_out = fold[repeat] == job["fold"]
        probs.setdefault(member, np.empty((*fold.shape, n_classes)))
        probs[member][repeat, held_out] = fold_probs
        y_fold = y_true[held_out]
        y_pred = fold_probs.argmax(axis=1)
        score = {
            "macro_f1": macro_f1(y_fold, y_pred, n_classes=n_classes),
            "accuracy": accuracy(y_fold, y_pred),
            "seconds": seconds,
        }
        scores.append(job | score)
    return CrossValidation(rows, fold, probs, pd.DataFrame(scores))


def train_on_folds(
    tables: Mapping[str, pd.DataFrame],
    *,
    config: Config,
    ws: Workspace,
    member: str,
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
    is_held_out = _folds(rows, config, repeat) == fold
    train, held_out = rows[~is_held_out], rows[is_held_out]
    if member in baseline.LINEAR:
        started = time.perf_counter()
        fit = baseline.LINEAR[member]
        texts, labels = train["text"].tolist(), train["label"].tolist()
        model = fit(texts, labels, seed=config.seed)
        probs = model.predict_proba(held_out["text"].tolist())
        return probs, time.perf_counter() - started
    share = config.cross_validation.early_stopping_share
    stops = early_stopping_mask(train, share=share, seed=config.seed)
    settings = config.member_config(member)
    settings = settings.model_copy(update={"seed": settings.seed + repeat})
    folds_ws = ws.child("folds")
    name = f"{member}-{repeat}-{fold}"
    return cached_training.train_and_predict(
        train[~stops], train[stops], held_out, config=settings, ws=folds_ws, name=name
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
    best = order[0]
    n_test = max(1, round(n_rows / n_folds))
    n_train = n_rows - n_test
    n_pairs = max(1, math.comb(len(order), 2))
    confidence_of_all = 1 - (1 - confidence) / n_pairs

    def interval(scores: pd.Series, confidence: float) -> Interval:
        return cross_validation_interval(
            scores.to_numpy(), n_train=n_train, n_test=n_test, confidence=confidence
        )

    rows = []
    for name in order:
        mean = interval(by_fold[name], confidence)
        gain = interval(by_fold[name] - by_fold[best], confidence_of_all)
        deviation = by_fold[name].std(ddof=1)
        low, high = max(0.0, mean.low), min(1.0, mean.high)
        verdict = "best" if name == best else gain.verdict
        rows.append((mean.value, deviation, low, high, gain.value, gain.low, gain.high, verdict))
    compared = pd.DataFrame(rows, index=order, columns=COMPARED)
    compared["seconds"] = scores.groupby("member")["seconds"].sum()
    # never one that is worse: such a gap is wider than the difference of two standard errors
    standard_error = compared["deviation"] / np.sqrt(len(by_fold))
    chosen = (compared["macro_f1"] - standard_error).idxmax()
    compared["chosen"] = order == chosen
    return compared


def describe_best(compared: pd.DataFrame, *, n_train: int) -> str:
    """Return the score of the member with the best mean, in words.

    Parameters
    ----------
    compared : from `compare`
    n_train : rows that each of its models was trained on
    """
    best = compared.iloc[0]
    score = Interval(best["macro_f1"], best["low"], best["high"], n=n_train)
    deviation = compared["deviation"].max()
    return (
        f"{best.name}: macro F1 {score} when trained on {n_train:,} texts. One fold alone is off "
        f"by {deviation:.3f} (standard deviation, the largest of the members)."
    )


def describe_verdicts(compared: pd.DataFrame, *, n_rows: int, n_folds: int) -> str:
    """Return in words which members are significantly different, and which one is chosen.

    Parameters
    ----------
    compared : from `compare`
    n_folds : of all repetitions together
    """
    best, verdict = compared.index[0], compared["verdict"]
    chosen = compared["chosen"].idxmax()
    similar = ", ".join(compared.index[verdict == "inconclusive"])
    worse = ", ".join(compared.index[verdict == "worse"])
    sentence = f"{best} has the highest mean"
    if similar:
        sentence += f"; not significantly different from it: {similar}"
    if worse:
        sentence += f"; worse: {worse}"
    return f"{sentence}. Chosen: {chosen}, on {n_rows:,} rows in {n_folds} folds."


def _folds(rows: pd.DataFrame, config: Config, repeat: int) -> np.ndarray:
    n_folds = config.cross_validation.folds
    return assign_folds(rows, n_folds=n_folds, seed=config.seed + repeat)
