"""Members trained on all rows, measured on validation rows; and which rows calibrate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lib.config import Config
from lib.evaluation.significance import Interval, paired_tests
from lib.training.ensembles import members
from lib.training.ensembles.combining import Ensemble
from lib.training.ensembles.diversity import best_member
from lib.training.search.cross_validation import assign_folds
from lib.workspace import Workspace

MIN_GROUPS = 20  # different texts of each class, to calibrate on validation rows
N_FOLDS = 5  # into which those rows are divided


@dataclass(frozen=True)
class FullMembers:
    """What an ensemble's members, trained on all training rows, predict of validation rows.

    Attributes
    ----------
    rows : n validation rows
    y_true : ndarray of int of shape (n,), columns of the probabilities
    probs : member -> ndarray of shape (n, k)
    ensemble_probs : ndarray of shape (n, k)
    ms_per_text : Series by member, milliseconds
    are_untouched : whether the rows stopped no member's training
    """

    rows: pd.DataFrame
    y_true: np.ndarray
    probs: dict[Any, np.ndarray]
    ensemble_probs: np.ndarray
    ms_per_text: pd.Series
    are_untouched: bool

    @property
    def best(self) -> str:
        """Return the member with the highest macro F1 on these rows."""
        return best_member(self.probs, self.y_true)

    def compare(self, **options: Any) -> pd.DataFrame:
        """Compare the ensemble and all other members with the best one.

        Parameters
        ----------
        options : of `significance.paired_tests`, but for the groups

        Returns
        -------
        DataFrame by name, of the columns of `paired_tests` and `ms_per_text`
        """
        predicted = {"ensemble": self.ensemble_probs.argmax(axis=1)}
        for name, probs in self.probs.items():
            predicted[name] = probs.argmax(axis=1)
        y_best = predicted.pop(self.best)
        options = options | {"groups": self.rows["group"].to_numpy()}
        tests = paired_tests(self.y_true, y_best, predicted, **options)
        tests["ms_per_text"] = self.ms_per_text.reindex(tests.index).fillna(self.ms_per_text.sum())
        return tests

    def describe(self, tests: pd.DataFrame) -> str:
        """Return in words what the ensemble gains and costs; `tests` is from `compare`."""
        row = tests.loc["ensemble"]
        gain = Interval(row["gain"], row["low"], row["high"], n=len(self.rows))
        caution = "" if self.are_untouched else " that stopped the training of a member"
        return (
            f"Members trained on all rows: the ensemble's macro F1 is {row['macro_f1']:.3f}, "
            f"{gain.signed()} over {self.best} ({row['verdict']}; n = {gain.n:,} validation rows"
            f"{caution}). It takes {row['ms_per_text']:.1f} ms a text, {self.best} alone "
            f"{self.ms_per_text[self.best]:.1f} ms."
        )


@dataclass(frozen=True)
class CalibrationRows:
    """The rows that calibrate an ensemble, and what was predicted of them.

    Attributes
    ----------
    kind : "validation" or "out-of-fold"
    rows : n rows, with `group`
    y_true : ndarray of int of shape (n,), columns of the probabilities
    probs : ndarray of shape (n, k), of the ensemble
    fold : ndarray of int of shape (n,): a row is measured by what was fitted on the other folds
    best_member : name -> ndarray of shape (n, k), of the best member alone
    """

    kind: str
    rows: pd.DataFrame
    y_true: np.ndarray
    probs: np.ndarray
    fold: np.ndarray
    best_member: dict[str, np.ndarray]

    @property
    def groups(self) -> np.ndarray:
        """Return the group of near-copies of each row."""
        return self.rows["group"].to_numpy()


def predict_validation(
    ensemble: Ensemble, val: pd.DataFrame, *, config: Config, ws: Workspace, progress: bool = True
) -> FullMembers:
    """Predict the validation rows that stopped no training with the members that `fit_all` trained.

    Where there are fewer of these rows than classes, all validation rows are taken. What notebook
    04 predicted of them with the members that it trained is read.

    Parameters
    ----------
    val : with `row_id`, `text`, `label`, `group`
    """
    rows = members.untouched_rows(ensemble.members, val, config=config)
    are_untouched = len(rows) >= len(ensemble.class_names)
    if not are_untouched:
        rows = val
    known = members.saved_probs(
        ensemble.members, rows, class_names=ensemble.class_names, config=config, ws=ws
    )
    texts = rows["text"].tolist()
    probs, ms_per_text = members.predict_all(
        ensemble.members, texts, config=config, ws=ws, known=known, progress=progress
    )
    y_true = members.class_codes(rows, ensemble.class_names)
    ensemble_probs = ensemble.predict_probs(probs)
    return FullMembers(rows, y_true, probs, ensemble_probs, ms_per_text, are_untouched)


def calibration_rows(
    full: FullMembers, oof: CalibrationRows, *, class_names: Sequence[str], seed: int
) -> CalibrationRows:
    """Return the rows to calibrate on: validation rows where they are enough, else `oof`.

    Validation rows are those of the models that are used, not of smaller ones. They are enough
    where they stopped no training and hold at least 20 different texts of each class.

    Parameters
    ----------
    oof : the out-of-fold rows
    seed : of the folds of the validation rows
    """
    n_groups = full.rows.groupby("label")["group"].nunique()
    fewest = n_groups.reindex(class_names, fill_value=0).min()
    if not full.are_untouched or fewest < MIN_GROUPS:
        return oof
    fold = assign_folds(full.rows, n_folds=N_FOLDS, seed=seed)
    single = {full.best: full.probs[full.best]}
    return CalibrationRows("validation", full.rows, full.y_true, full.ensemble_probs, fold, single)
