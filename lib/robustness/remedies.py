"""Whether training on spoiled texts helps against them, and what it costs on texts as they are."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pandas as pd

from lib.errors import WorkbookError
from lib.evaluation.resampling import draws, weighted_mean
from lib.evaluation.significance import Interval, intervals_of
from lib.robustness.attacks import AttackResult
from lib.robustness.attacks.search import UNFINISHED, WRONG_BEFORE
from lib.robustness.curves import SeverityCurves, words_of
from lib.robustness.perturbations import Synonyms, perturb

CLEAN, ATTACKED = "texts as they are", "under attack"


def perturbed_copies(
    texts: Sequence[str],
    *,
    kinds: Sequence[str],
    severities: Sequence[int],
    seed: int,
    synonyms: Synonyms | None = None,
) -> list[str]:
    """Return a copy of each text, spoiled in one of the ways, drawn anew for each.

    Parameters
    ----------
    kinds, severities, synonyms : as `perturb` takes them
    """
    random = Random(seed)
    ways = [(random.choice(kinds), random.choice(severities)) for _ in texts]
    return [
        perturb([text], kind=kind, severity=severity, seed=seed, synonyms=synonyms)[0]
        for text, (kind, severity) in zip(texts, ways)
    ]


def curve_gains(before: SeverityCurves, after: SeverityCurves, **options: Any) -> pd.DataFrame:
    """Return what a second model gains over a first one on texts as they are, and by kind.

    Parameters
    ----------
    before, after : of the two models on the same texts, kinds and severities
    options : of `significance.intervals_of`

    Returns
    -------
    DataFrame by way (`texts as they are`, then kinds): macro F1 `before` and `after`, for a kind
        the mean over severities; their difference as `gain` with `low`, `high` (which hold for all
        rows together) and `verdict`

    Raises
    ------
    WorkbookError : texts, kinds or severities differ.
    """
    index = before.answers.index
    if before.answers.texts != after.answers.texts or not index.equals(after.answers.index):
        raise WorkbookError(
            "curves before and after are of other texts, kinds or severities; measure both on the "
            "same ones"
        )
    kinds = index.unique("kind")
    ways = [CLEAN, *kinds]
    of_way = np.array([CLEAN, *index.get_level_values("kind")], dtype=object)[:, None] == ways
    mean = of_way / of_way.sum(axis=0)

    def scores_and_gains(weights: np.ndarray) -> np.ndarray:
        first = before.answers.macro_f1(weights) @ mean
        second = after.answers.macro_f1(weights) @ mean
        return np.hstack([first, second, second - first])

    return _gains(scores_and_gains, before.answers.plan, ways, options)


def attack_gains(
    before: AttackResult, after: AttackResult, *, groups: np.ndarray, **options: Any
) -> pd.DataFrame:
    """Return what a second model gains over a first one on texts as they are, and under attack.

    Parameters
    ----------
    before, after : the same attack on the two models, on the same n texts
    groups : (n,) of anything; the bootstrap draws rows of a group (near-copies) together
    options : of `significance.intervals_of`

    Returns
    -------
    As `curve_gains`, of accuracy: a text is right under attack where it is right, and no change
        that the attack found makes it wrong. Texts that did not get their turn in both are left
        out.

    Raises
    ------
    WorkbookError : the texts differ, or fewer than two got their turn in both.
    """
    tables = [before.table, after.table]
    if not tables[0][["text", "label"]].equals(tables[1][["text", "label"]]):
        raise WorkbookError("attacks before and after are on other texts; use the same ones")
    had_turn = np.all([table["outcome"] != UNFINISHED for table in tables], axis=0)
    if had_turn.sum() < 2:
        raise WorkbookError(
            f"{had_turn.sum()} texts got their turn before and after, of {len(had_turn)}: raise "
            "robustness.attack_seconds"
        )
    right = [_right(table[had_turn]) for table in tables]

    def scores_and_gains(weights: np.ndarray) -> np.ndarray:
        first, second = (
            np.column_stack([weighted_mean(weights, column) for column in of_model.T])
            for of_model in right
        )
        return np.hstack([first, second, second - first])

    plan = draws(int(had_turn.sum()), groups=np.asarray(groups)[had_turn])
    return _gains(scores_and_gains, plan, [CLEAN, ATTACKED], options)


def describe(gains: pd.DataFrame, *, remedy: str, score: str) -> str:
    """Return in words what a remedy gains and costs, from `curve_gains` or `attack_gains`."""
    spoiled = gains.drop(index=CLEAN)
    n_better = (spoiled["verdict"] == "better").sum()
    best = spoiled["gain"].idxmax()
    shown = {
        way: f"{_interval(row).signed()}, from {row['before']:.3f}"
        for way, row in gains.loc[[CLEAN, best]].iterrows()
    }
    found = f"{words_of(best)} changes by {shown[best]} ({spoiled.loc[best, 'verdict']})"
    if len(spoiled) > 1:
        found = (
            f"is significantly better in {n_better} of {len(spoiled)} ways of spoiling; "
            f"{words_of(best)} gains most ({shown[best]})"
        )
    return (
        f"With {remedy}, {score} {found}. What it costs on texts as they are: {shown[CLEAN]} "
        f"({gains.loc[CLEAN, 'verdict']}, n = {gains.loc[CLEAN, 'n']:,})."
    )


def _right(table: pd.DataFrame) -> np.ndarray:
    """Return whether each text is right as it is, and under attack: shape (n, 2)."""
    was_right = table["outcome"] != WRONG_BEFORE
    return np.c_[was_right, table["predicted"] == table["label"]].astype(float)


def _gains(statistic: Any, plan: Any, ways: Sequence[str], options: dict[str, Any]) -> pd.DataFrame:
    options = options | {"confidence": 1 - (1 - options.get("confidence", 0.95)) / len(ways)}
    intervals = intervals_of(statistic, plan, **options)
    before, after, gains = np.array(intervals, dtype=object).reshape(3, len(ways))
    table = pd.DataFrame(
        {
            "before": [interval.value for interval in before],
            "after": [interval.value for interval in after],
        },
        index=pd.Index(ways, name="way"),
    )
    table[["gain", "low", "high"]] = [gain.with_ends for gain in gains]
    table["verdict"] = [gain.verdict for gain in gains]
    table["n"] = [gain.n for gain in gains]
    return table


def _interval(row: pd.Series) -> Interval:
    return Interval(row["gain"], row["low"], row["high"], n=row["n"])
