"""Several models as one, fitted on out-of-fold probabilities: rows that no member learned from and that stopped no training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, special
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit

from lib import workspace
from lib.errors import WorkbookError
from lib.evaluation.calibration import SMALLEST_PROB, Calibrator, cross_fitted, log_probs
from lib.evaluation.metrics import checked_probs, macro_f1, row_log_losses
from lib.evaluation.significance import macro_f1_gains, paired_tests

METHODS = ("soft", "weighted", "greedy", "stacking")  # the simplest first
GREEDY_ROUNDS = (
    20  # members drawn with replacement, at most: weights are shares of a twentieth or more
)
STACKING_STRENGTHS = (
    0.001,
    0.01,
    0.1,
    1.0,
)  # C of the regression; a smaller one is more regularised
UNUSED = 1e-4  # a smaller share of the weight is none
SUREST = np.log(1e-4)  # stacking reads no log-probability below it
UNSEEN = -30.0  # score of a class that no row of a stack's has


@dataclass(frozen=True)
class Ensemble:
    """How the probabilities of several members become one.

    Attributes
    ----------
    method : one of METHODS
    members : m names
    class_names : k, sorted
    weights : ndarray of shape (m,), shares that sum to 1; for "stacking" of shape (m * k, k), on the members' log-probabilities
    bias : ndarray of shape (k,), 0 but for "stacking"
    """

    method: str
    members: list[str]
    class_names: list[str]
    weights: np.ndarray
    bias: np.ndarray

    def predict_probs(self, probs: Mapping[Any, np.ndarray]) -> np.ndarray:
        """Combine the members' probabilities, each of shape (n, k) in the order of `class_names`.

        Raises
        ------
        WorkbookError : a member is missing.
        """
        if missing := [name for name in self.members if name not in probs]:
            raise WorkbookError(
                f"the ensemble needs probabilities of {missing[0]!r}; there are those of {', '.join(map(str, probs))}"
            )
        stacked = np.stack([probs[name] for name in self.members])
        if self.method == "stacking":
            return special.softmax(_features(stacked) @ self.weights + self.bias, axis=1)
        return np.tensordot(self.weights, stacked, axes=1)

    def shares(self) -> pd.Series:
        """Return how much each member counts: its weight; for "stacking" its share of the absolute coefficients."""
        size = np.abs(self.weights).reshape(len(self.members), -1).sum(axis=1)
        return pd.Series(size / size.sum(), index=self.members)


def fit_ensemble(
    oof_probs: Mapping[str, np.ndarray],
    y_true: np.ndarray,
    *,
    method: str,
    class_names: list[str] | None = None,
    fold: np.ndarray | None = None,
) -> Ensemble:
    """Fit what combines the members.

    Parameters
    ----------
    oof_probs : member -> ndarray of shape (n, k), out of fold
    y_true : ndarray of int of shape (n,), columns of the probabilities
    method : "soft" (the mean), "weighted" (the shares of least log loss), "greedy" (members drawn with replacement, each the one that
        raises macro F1 most) or "stacking" (multinomial regression on log-probabilities, its strength by cross-validation)
    fold : ndarray of int of shape (n,), for that cross-validation; None draws three

    Raises
    ------
    WorkbookError : another method, or a member whose probabilities do not fit the rows or do not sum to 1.

    Source
    ------
    Caruana et al. 2004, "Ensemble Selection from Libraries of Models"; Wolpert 1992, "Stacked Generalization".
    """
    stacked = _checked(oof_probs, y_true)
    n_members, _, k = stacked.shape
    names = class_names or [str(code) for code in range(k)]
    if method == "stacking":
        weights, bias = _stacking(stacked, y_true, fold)
        return Ensemble(method, list(oof_probs), names, weights, bias)
    if method not in METHODS:
        raise WorkbookError(f"no way of combining {method!r}; there are {', '.join(METHODS)}")
    shares = {
        "soft": lambda: np.full(n_members, 1 / n_members),
        "weighted": lambda: _least_log_loss(stacked, y_true),
        "greedy": lambda: _greedy(stacked, y_true),
    }
    weights = shares[method]()
    used = np.flatnonzero(weights > UNUSED)  # a member without weight need not be run
    return Ensemble(
        method,
        [list(oof_probs)[i] for i in used],
        names,
        weights[used] / weights[used].sum(),
        np.zeros(k),
    )


def out_of_fold(
    oof_probs: Mapping[str, np.ndarray], y_true: np.ndarray, fold: np.ndarray, *, method: str
) -> np.ndarray:
    """Return the ensemble's probabilities of each row, from weights that were fitted on the other folds: ndarray of shape (n, k)."""

    def fit(rows: np.ndarray) -> Any:
        fitted = fit_ensemble(
            {name: probs[rows] for name, probs in oof_probs.items()},
            y_true[rows],
            method=method,
            fold=fold[rows],
        )
        return lambda others: fitted.predict_probs(
            {name: probs[others] for name, probs in oof_probs.items()}
        )

    return cross_fitted(fit, fold, n_classes=next(iter(oof_probs.values())).shape[1])


def best_member(oof_probs: Mapping[str, np.ndarray], y_true: np.ndarray) -> str:
    """Return the member with the highest macro F1."""
    return max(
        oof_probs,
        key=lambda name: macro_f1(
            y_true, oof_probs[name].argmax(axis=1), n_classes=oof_probs[name].shape[1]
        ),
    )


def choose(found: Mapping[str, np.ndarray], y_true: np.ndarray, **options: Any) -> str:
    """Return the simplest way of combining, or of those that are better than it by a paired test the one that gains most.

    Parameters
    ----------
    found : method -> its out-of-fold probabilities
    options : of `significance.paired_tests`
    """
    first = simplest(found)
    others = {name: probs.argmax(axis=1) for name, probs in found.items() if name != first}
    tests = paired_tests(y_true, found[first].argmax(axis=1), others, **options)
    better = tests[tests["verdict"] == "better"]
    return str(better["gain"].idxmax()) if len(better) else first


def simplest(methods: Iterable[str]) -> str:
    """Return the simplest of several ways of combining."""
    return min(methods, key=METHODS.index)


def gain_curve(
    oof_probs: Mapping[str, np.ndarray],
    y_true: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    n_resamples: int = 500,
    confidence: float = 0.95,
    seed: int = 42,
) -> pd.DataFrame:
    """Return what each further member adds to a soft vote: the best one first, then the one that lowers the log loss most.

    Returns
    -------
    DataFrame by number of members: `member` (added), `macro_f1`, `gain` over the first with `low`, `high`. The order is chosen on the
    same rows, so that the curve flatters a little
    """
    k, order = next(iter(oof_probs.values())).shape[1], [best_member(oof_probs, y_true)]
    while left := [name for name in oof_probs if name not in order]:
        order.append(
            min(left, key=lambda name: _log_loss(_vote(oof_probs, [*order, name]), y_true))
        )
    votes = [_vote(oof_probs, order[: n + 1]).argmax(axis=1) for n in range(len(order))]
    gains = macro_f1_gains(
        y_true,
        votes[0],
        votes,
        n_classes=k,
        groups=groups,
        n_resamples=n_resamples,
        confidence=confidence,
        seed=seed,
    )
    rows = [
        (name, macro_f1(y_true, vote, n_classes=k), gain.value, gain.low, gain.high)
        for name, vote, gain in zip(order, votes, gains)
    ]
    return pd.DataFrame(
        rows,
        columns=["member", "macro_f1", "gain", "low", "high"],
        index=pd.RangeIndex(1, len(rows) + 1, name="members"),
    )


def diversity(oof_probs: Mapping[str, np.ndarray], y_true: np.ndarray) -> pd.DataFrame:
    """Return how differently each two members err.

    Returns
    -------
    DataFrame by (one, other): `disagreement` (share of rows to which they give different classes), `error_correlation` (of being wrong,
    -1..1; NaN where one is never or always wrong), `one_right` (share of rows where exactly one of them is right)

    Source
    ------
    Kuncheva and Whitaker 2003, "Measures of Diversity in Classifier Ensembles".
    """
    predicted = {name: probs.argmax(axis=1) for name, probs in oof_probs.items()}
    rows = {}
    for one, other in combinations(predicted, 2):
        wrong = np.stack([predicted[one] != y_true, predicted[other] != y_true]).astype(float)
        correlation = np.corrcoef(wrong)[0, 1] if wrong.std(axis=1).all() else float("nan")
        rows[one, other] = (
            float(np.mean(predicted[one] != predicted[other])),
            correlation,
            float(np.mean(wrong[0] != wrong[1])),
        )
    index = (
        pd.MultiIndex.from_tuples(rows, names=["one", "other"])
        if rows
        else pd.MultiIndex.from_arrays([[], []], names=["one", "other"])
    )
    return pd.DataFrame(
        list(rows.values()), index=index, columns=["disagreement", "error_correlation", "one_right"]
    )


def save_ensemble(
    ensemble: Ensemble, calibrator: Calibrator, path: Path, *, facts: Mapping[str, Any]
) -> None:
    """Write an ensemble, what calibrates it, and `facts` about them as JSON."""
    plain = {"weights": ensemble.weights.tolist(), "bias": ensemble.bias.tolist()}
    shifts = {"scale": calibrator.scale.tolist(), "shift": calibrator.shift.tolist()}
    workspace.write_json(
        {
            **facts,
            "method": ensemble.method,
            "members": ensemble.members,
            "class_names": ensemble.class_names,
            **plain,
            **shifts,
        },
        path,
    )


def load_ensemble(path: Path) -> tuple[Ensemble, Calibrator]:
    """Read what `save_ensemble` wrote."""
    read = workspace.read_json(path)
    ensemble = Ensemble(
        read["method"],
        read["members"],
        read["class_names"],
        np.array(read["weights"]),
        np.array(read["bias"]),
    )
    return ensemble, Calibrator(np.array(read["scale"]), np.array(read["shift"]))


def _checked(oof_probs: Mapping[str, np.ndarray], y_true: np.ndarray) -> np.ndarray:
    if not oof_probs:
        raise WorkbookError("an ensemble needs members: no probabilities were given")
    checked = {}
    for name, probs in oof_probs.items():
        try:
            checked[name] = checked_probs(probs, y_true)
        except ValueError as error:
            raise WorkbookError(f"member {name!r}: {error}") from None
    if len({probs.shape[1] for probs in checked.values()}) > 1:
        raise WorkbookError(
            f"members have different numbers of classes: {', '.join(f'{name!r} {probs.shape[1]}' for name, probs in checked.items())}"
        )
    return np.stack(list(checked.values()))


def _least_log_loss(stacked: np.ndarray, y_true: np.ndarray) -> np.ndarray:
    given = stacked[:, np.arange(len(y_true)), y_true].T  # (n, m)
    n_members = len(stacked)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = np.clip(given @ weights, 1e-12, None)
        return float(-np.log(mixed).mean()), -(given / mixed[:, None]).mean(axis=0)

    sums_to_one = {"type": "eq", "fun": lambda weights: weights.sum() - 1, "jac": np.ones_like}
    start = np.full(n_members, 1 / n_members)
    found = optimize.minimize(
        loss,
        start,
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * n_members,
        constraints=[sums_to_one],
    ).x.clip(0)
    return found / found.sum()


def _greedy(stacked: np.ndarray, y_true: np.ndarray) -> np.ndarray:
    """Return the shares of the draws up to the best macro F1; where that ties, the log loss decides."""
    counts, total = np.zeros(len(stacked)), np.zeros(stacked.shape[1:])
    best, shares = (-1.0, -np.inf), counts
    for drawn in range(1, GREEDY_ROUNDS + 1):
        scores = [_score((total + probs) / drawn, y_true) for probs in stacked]
        chosen = max(range(len(stacked)), key=scores.__getitem__)
        counts[chosen], total = counts[chosen] + 1, total + stacked[chosen]
        if scores[chosen] > best:
            best, shares = scores[chosen], counts / drawn
    return shares


def _stacking(
    stacked: np.ndarray, y_true: np.ndarray, fold: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    splits = 3 if fold is None or len(np.unique(fold)) < 2 else PredefinedSplit(fold)
    k = stacked.shape[2]

    def score(
        regression: LogisticRegression, features: np.ndarray, y: np.ndarray
    ) -> float:  # a fold may lack a class that others have
        weights, bias = _of_all_classes(regression, k)
        return -_log_loss(special.softmax(features @ weights + bias, axis=1), y)

    regression = GridSearchCV(
        LogisticRegression(max_iter=500),
        {"C": list(STACKING_STRENGTHS)},
        scoring=score,
        cv=splits,
        error_score="raise",
    )
    return _of_all_classes(regression.fit(_features(stacked), y_true).best_estimator_, k)


def _of_all_classes(regression: LogisticRegression, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients of shape (features, k) and intercepts; a class that the regression has not seen is as good as impossible."""
    coef, intercept = regression.coef_, regression.intercept_
    if len(coef) == 1:  # of two classes it keeps the second alone
        coef, intercept = np.vstack([np.zeros_like(coef), coef]), np.r_[0.0, intercept]
    weights, bias = np.zeros((coef.shape[1], k)), np.full(k, UNSEEN)
    weights[:, regression.classes_], bias[regression.classes_] = coef.T, intercept
    return weights, bias


def _features(stacked: np.ndarray) -> np.ndarray:
    return np.concatenate([np.maximum(log_probs(probs), SUREST) for probs in stacked], axis=1)


def _vote(oof_probs: Mapping[str, np.ndarray], names: list[str]) -> np.ndarray:
    return np.mean([oof_probs[name] for name in names], axis=0)


def _score(probs: np.ndarray, y_true: np.ndarray) -> tuple[float, float]:
    return macro_f1(y_true, probs.argmax(axis=1), n_classes=probs.shape[1]), -_log_loss(
        probs, y_true
    )


def _log_loss(probs: np.ndarray, y_true: np.ndarray) -> float:
    return float(row_log_losses(probs, y_true, floor=SMALLEST_PROB).mean())
