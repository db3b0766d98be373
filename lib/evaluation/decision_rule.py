"""Which class is the label: the most probable one, or one that gives rare classes more weight.

The most probable class is right most often, but it is seldom a rare one. Macro F1 counts all
classes alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lib.evaluation.metrics import macro_f1
from lib.evaluation.significance import PairedTest, macro_f1_gains, paired_test

POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of a class's rarity; 0: the most probable class
MIN_IMBALANCE = 2  # largest class over smallest; below it, classes weigh the same (ours)


@dataclass(frozen=True, eq=False)
class DecisionRule:
    """What the probability of each class counts when the label is chosen.

    Attributes
    ----------
    weights : ndarray of shape (k,), above 0; equal ones choose the most probable class. One weight
        is that of all classes
    """

    weights: np.ndarray

    @classmethod
    def by_rarity(cls, class_counts: np.ndarray, *, power: float) -> DecisionRule:
        """Weight each class by (rows of the largest class / its own rows) to a power.

        Source
        ------
        Menon et al. 2021, "Long-tail learning via logit adjustment", after training.

        Examples
        --------
        >>> rule = DecisionRule.by_rarity(np.array([90, 10]), power=0.5)
        >>> rule.weights, rule.labels(np.array([[0.8, 0.2], [0.7, 0.3]]))
        (array([1., 3.]), array([0, 1]))
        """
        return cls((class_counts.max() / class_counts) ** power)

    @property
    def is_most_probable(self) -> bool:
        """Return whether the label is always the most probable class."""
        return bool(np.ptp(self.weights) == 0)

    def labels(self, probs: np.ndarray) -> np.ndarray:
        """Return the class given to each row of probabilities: ndarray of int of shape (n,)."""
        return (probs * self.weights).argmax(axis=1)


MOST_PROBABLE = DecisionRule(np.ones(1))


@dataclass(frozen=True, eq=False)
class DecisionFit:
    """A decision rule, and what weighting by rarity gains over the most probable class.

    Attributes
    ----------
    rule : what labels are chosen by
    gains : DataFrame of `gain` in macro F1, `low`, `high` and `verdict` (of that interval alone) by
        power of rarity; in the last row, each fold has the power that is best on the others
    cross_fitted : the paired test of that last row
    reason : why the rule is what it is
    """

    rule: DecisionRule
    gains: pd.DataFrame
    cross_fitted: PairedTest
    reason: str

    def describe(self) -> str:
        """Return in words what weighting gains out of fold, and what the label is."""
        if not self.gains["gain"].any():
            words = "Weighting by rarity changes no score"
            return f"{words}. The label is the most probable class: {self.reason}."
        test = self.cross_fitted
        weighted = "" if self.rule.is_most_probable else " after weighting by rarity"
        return (
            "Weighting by rarity, its power chosen on other folds: "
            f"macro F1 {test.macro_f1_gain.signed()} (randomisation p = {test.p_macro_f1:.2g}), "
            f"accuracy {test.accuracy_gain.signed()}, n = {test.macro_f1_gain.n:,}. "
            f"The label is the most probable class{weighted}: {self.reason}."
        )


def fit_decision(
    probs: np.ndarray,
    y_true: np.ndarray,
    fold: np.ndarray,
    *,
    class_counts: np.ndarray,
    method: str = "auto",
    confidence: float = 0.95,
    **options: Any,
) -> DecisionFit:
    """Choose how much rare classes weigh, by macro F1.

    Parameters
    ----------
    probs : ndarray of shape (n, k) of rows that the model did not learn from
    y_true : ndarray of int of shape (n,), columns of `probs`
    fold : ndarray of int of shape (n,): a fold is labelled with the power that is best on the
        others, and that gain is tested
    class_counts : ndarray of shape (k,), rows of each class that the model learned from
    method : "auto" weights classes where the gain in macro F1 is significant (interval and
        randomisation test; accuracy may fall) and the largest class has twice the rows of the
        smallest; "most_probable" never does
    options : of `significance.paired_test`: `groups`, `n_resamples`, `seed`
    """
    options["confidence"] = confidence
    rules = {power: DecisionRule.by_rarity(class_counts, power=power) for power in POWERS}
    labels = {power: rule.labels(probs) for power, rule in rules.items()}
    held_out = _cross_fitted(labels, y_true, fold)
    test = paired_test(y_true, labels[0], held_out, **options)
    rule = MOST_PROBABLE
    reason = _why_not(test, class_counts, method=method, alpha=1 - confidence)
    if not reason:
        power = _best_power(labels, y_true, np.ones(len(y_true), dtype=bool))
        rule = rules[power]
        reason = f"power {power:g} has the highest macro F1 on all folds"
    named = {f"power {power:g}": labels[power] for power in POWERS[1:]}
    named["chosen on other folds"] = held_out
    intervals = macro_f1_gains(
        y_true, labels[0], list(named.values()), n_classes=probs.shape[1], **options
    )
    columns = ["gain", "low", "high", "verdict"]
    rows = [(*gain.with_ends, gain.verdict) for gain in intervals]
    gains = pd.DataFrame(rows, index=list(named), columns=columns)
    return DecisionFit(rule, gains, test, reason)


def _cross_fitted(
    labels: Mapping[float, np.ndarray], y_true: np.ndarray, fold: np.ndarray
) -> np.ndarray:
    """Return for each fold the labels by the power that is best on the others."""
    chosen = np.empty_like(y_true)
    for number in np.unique(fold):
        others = fold != number
        power = _best_power(labels, y_true, others)
        chosen[~others] = labels[power][~others]
    return chosen


def _best_power(labels: Mapping[float, np.ndarray], y_true: np.ndarray, rows: np.ndarray) -> float:
    """Return the power with the highest macro F1 on some rows; of equal ones the smallest."""
    return max(labels, key=lambda power: macro_f1(y_true[rows], labels[power][rows]))


def _why_not(test: PairedTest, class_counts: np.ndarray, *, method: str, alpha: float) -> str:
    """Return why the most probable class stays the label, "" where it does not."""
    imbalance = class_counts.max() / class_counts.min()
    if method == "most_probable":
        return "the setting ensemble.decision"
    if imbalance < MIN_IMBALANCE:
        return f"the largest class has {imbalance:.1f} times the rows of the smallest"
    if test.macro_f1_gain.verdict != "better" or test.p_macro_f1 >= alpha:
        return "no significant gain"
    return ""
