"""How differently the members of an ensemble err, and what each further one adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from lib.evaluation.metrics import macro_f1
from lib.evaluation.significance import Interval, macro_f1_gains
from lib.training.ensembles.weights import mean_log_loss


def best_member(oof_probs: Mapping[str, np.ndarray], y_true: np.ndarray) -> str:
    """Return the member with the highest macro F1."""
    scores = {}
    for name, probs in oof_probs.items():
        y_pred = probs.argmax(axis=1)
        scores[name] = macro_f1(y_true, y_pred, n_classes=probs.shape[1])
    return max(scores, key=scores.__getitem__)


def describe_best_member(name: str, macro_f1: Interval, *, n_train: int) -> str:
    """Return the best member's score in words; `n_train` is the number of all training rows."""
    sentence = f"The best member alone is {name}: macro F1 {macro_f1}, n = {macro_f1.n:,}."
    share = macro_f1.n / n_train
    if share >= 0.5:
        return sentence
    return (
        f"{sentence} These are {share:.0%} of the training rows: what holds for models trained on "
        "few rows need not hold for those trained on all."
    )


def diversity(oof_probs: Mapping[str, np.ndarray], y_true: np.ndarray) -> pd.DataFrame:
    """Return how differently each two members err.

    Returns
    -------
    DataFrame by (one, other): `disagreement` (share of rows to which they give different classes),
    `error_correlation` (of being wrong, -1..1; NaN where one is never or always wrong), `one_right`
    (share of rows where exactly one of them is right)

    Source
    ------
    Kuncheva and Whitaker 2003, "Measures of Diversity in Classifier Ensembles".
    """
    predicted = {name: probs.argmax(axis=1) for name, probs in oof_probs.items()}
    rows = []
    for one, other in combinations(predicted, 2):
        wrong_one = predicted[one] != y_true
        wrong_other = predicted[other] != y_true
        correlation = float("nan")
        if np.ptp(wrong_one.astype(int)) and np.ptp(wrong_other.astype(int)):
            correlation = np.corrcoef(wrong_one, wrong_other)[0, 1]
        disagreement = np.mean(predicted[one] != predicted[other])
        one_right = np.mean(wrong_one != wrong_other)
        rows.append((one, other, disagreement, correlation, one_right))
    columns = ["one", "other", "disagreement", "error_correlation", "one_right"]
    return pd.DataFrame(rows, columns=columns).set_index(["one", "other"])


def describe_diversity(pairs: pd.DataFrame) -> str:
    """Return in words which two members differ most; `pairs` is from `diversity`."""
    one, other = pairs["one_right"].idxmax()
    share = pairs.loc[(one, other), "one_right"]
    correlation = pairs.loc[(one, other), "error_correlation"]
    return (
        f"Most different: {one} and {other}. On {share:.1%} of the texts exactly one is right; "
        f"their errors correlate {correlation:.2f}."
    )


def gain_curve(
    oof_probs: Mapping[str, np.ndarray], y_true: np.ndarray, **options: Any
) -> pd.DataFrame:
    """Return what each further member adds to a soft vote.

    The best one comes first, then at each step the one that lowers the log loss most.

    Parameters
    ----------
    options : of `significance.macro_f1_gains`: `groups`, `n_resamples`, `confidence`, `seed`

    Returns
    -------
    DataFrame by number of members: `member` (added), `macro_f1`, `gain` over the first with `low`,
    `high`. The order is chosen on the same rows, so that the curve is a little optimistic
    """
    order = _order(oof_probs, y_true)
    n_classes = oof_probs[order[0]].shape[1]
    n_members = range(1, len(order) + 1)
    votes = [_vote(oof_probs, order[:n]).argmax(axis=1) for n in n_members]
    gains = macro_f1_gains(y_true, votes[0], votes, n_classes=n_classes, **options)
    curve = pd.DataFrame({"member": order}, index=pd.Index(n_members, name="members"))
    curve["macro_f1"] = [macro_f1(y_true, vote, n_classes=n_classes) for vote in votes]
    curve["gain"] = [gain.value for gain in gains]
    curve["low"] = [gain.low for gain in gains]
    curve["high"] = [gain.high for gain in gains]
    return curve


def describe_gain_curve(curve: pd.DataFrame) -> str:
    """Return in words how many members reach the highest score; `curve` is from `gain_curve`."""
    n_best = int(curve["macro_f1"].idxmax())
    first, gain = curve["member"].iloc[0], curve.loc[n_best, "gain"]
    highest = f"Macro F1 is highest with {n_best} of {len(curve)} members"
    return f"{highest}: {gain:+.3f} over {first} alone."


def _order(oof_probs: Mapping[str, np.ndarray], y_true: np.ndarray) -> list[str]:
    order = [best_member(oof_probs, y_true)]
    while remaining := [name for name in oof_probs if name not in order]:
        losses = [mean_log_loss(_vote(oof_probs, [*order, name]), y_true) for name in remaining]
        order.append(remaining[int(np.argmin(losses))])
    return order


def _vote(oof_probs: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    return np.mean([oof_probs[name] for name in names], axis=0)
