"""Several models as one, fitted on out-of-fold probabilities.

No member was trained on the rows it predicts there, and none stopped its training on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import special
from tqdm import tqdm

from lib.errors import WorkbookError
from lib.evaluation.calibration import cross_fitted
from lib.evaluation.metrics import checked_probs
from lib.evaluation.significance import describe_gain, paired_tests
from lib.training.ensembles import weights as fitting

METHODS = ("soft", "weighted", "greedy", "stacking")  # the simplest first
# begins the names of the columns with probabilities, so that a class may be called "fold"
OF_CLASS = "p: "
MIN_SHARE = 1e-4  # a member with a smaller share of the weight is left out


def class_columns(probs: np.ndarray, class_names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the columns of a table of probabilities: "p: <class>" -> ndarray of shape (n,)."""
    return {f"{OF_CLASS}{label}": probs[:, code] for code, label in enumerate(class_names)}


@dataclass(frozen=True)
class Ensemble:
    """How the probabilities of several members become one.

    Attributes
    ----------
    method : one of METHODS
    members : m names
    class_names : k, sorted
    weights : ndarray of shape (m,), shares that sum to 1; for "stacking" of shape (m * k, k), on
        the members' log-probabilities
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
        missing = [name for name in self.members if name not in probs]
        if missing:
            raise WorkbookError(
                f"the ensemble needs probabilities of {missing[0]!r}; "
                f"there are those of {', '.join(map(str, probs))}"
            )
        stacked = np.stack([probs[name] for name in self.members])
        if self.method == "stacking":
            scores = fitting.stacking_features(stacked) @ self.weights + self.bias
            return special.softmax(scores, axis=1)
        return np.tensordot(self.weights, stacked, axes=1)

    def shares(self) -> pd.Series:
        """Return each member's share of the weight; for "stacking" of the absolute coefficients."""
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
    """Fit how the members combine.

    Parameters
    ----------
    oof_probs : member -> ndarray of shape (n, k), out of fold
    y_true : ndarray of int of shape (n,), columns of the probabilities
    method : "soft" (the mean), "weighted" (the shares with the lowest log loss), "greedy" (members
        drawn with replacement, each the one that raises macro F1 most) or "stacking" (multinomial
        regression on log-probabilities, its strength by cross-validation)
    fold : ndarray of int of shape (n,), for that cross-validation; None draws three

    Raises
    ------
    WorkbookError : another method, or a member whose probabilities do not fit the rows or do not
        sum to 1.

    Source
    ------
    Caruana et al. 2004, "Ensemble Selection from Libraries of Models"; Wolpert 1992, "Stacked
    Generalization".
    """
    if method not in METHODS:
        raise WorkbookError(f"no way of combining {method!r}; there are {', '.join(METHODS)}")
    stacked = _checked(oof_probs, y_true)
    k = stacked.shape[2]
    members = list(oof_probs)
    names = class_names or [str(code) for code in range(k)]
    if method == "stacking":
        weights, bias = fitting.stacking_coefficients(stacked, y_true, fold)
        return Ensemble(method, members, names, weights, bias)
    if method == "soft":
        weights = np.full(len(members), 1 / len(members))
    elif method == "weighted":
        weights = fitting.log_loss_shares(stacked, y_true)
    else:
        weights = fitting.greedy_shares(stacked, y_true)
    used = np.flatnonzero(weights > MIN_SHARE)  # a member without weight need not be run
    shares = weights[used] / weights[used].sum()
    return Ensemble(method, [members[i] for i in used], names, shares, np.zeros(k))


def out_of_fold(
    oof_probs: Mapping[str, np.ndarray], y_true: np.ndarray, fold: np.ndarray, *, method: str
) -> np.ndarray:
    """Return the ensemble's probabilities of each row, from weights fitted on the other folds.

    Returns
    -------
    ndarray of shape (n, k)
    """

    def fit(rows: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        ensemble = fit_ensemble(_at(oof_probs, rows), y_true[rows], method=method, fold=fold[rows])
        return lambda others: ensemble.predict_probs(_at(oof_probs, others))

    n_classes = next(iter(oof_probs.values())).shape[1]
    return cross_fitted(fit, fold, n_classes=n_classes)


def compared(
    methods: Sequence[str],
    oof_probs: Mapping[str, np.ndarray],
    y_true: np.ndarray,
    fold: np.ndarray,
    *,
    progress: bool = True,
) -> dict[str, np.ndarray]:
    """Return what `out_of_fold` does for several ways of combining, each by its name.

    Stacking fits m * k * k numbers for m members and k classes. Where that is more than the rows,
    it is left out: it takes minutes to hours to learn noise.
    """
    n_rows, k = next(iter(oof_probs.values())).shape
    if len(oof_probs) * k * k > n_rows:
        methods = [method for method in methods if method != "stacking"] or ["soft"]
    bar = tqdm(methods, "ways of combining", unit="way", disable=not progress)
    return {method: out_of_fold(oof_probs, y_true, fold, method=method) for method in bar}


def choose(
    method_probs: Mapping[str, np.ndarray], y_true: np.ndarray, *, n_train: int, **options: Any
) -> str:
    """Return the simplest way of combining, or the one that gains most over it.

    Only ways that are better than the simplest by a paired test are considered; none where the
    members learned a sample: a transformer gains more from further rows than TF-IDF, so that the
    weights of small members are not those of the ones that are used.

    Parameters
    ----------
    method_probs : method -> its out-of-fold probabilities
    n_train : training rows that the members which are used learn
    options : of `significance.paired_tests`
    """
    first = simplest(method_probs)
    if len(y_true) < n_train:
        return first
    predicted = {name: probs.argmax(axis=1) for name, probs in method_probs.items()}
    y_first = predicted.pop(first)
    tests = paired_tests(y_true, y_first, predicted, **options)
    better = tests[tests["verdict"] == "better"]
    return str(better["gain"].idxmax()) if len(better) else first


def simplest(methods: Iterable[str]) -> str:
    """Return the simplest of several ways of combining."""
    return min(methods, key=METHODS.index)


def describe_choice(
    tests: pd.DataFrame, method: str, *, best_member: str, n: int, n_train: int
) -> str:
    """Return in words how the chosen way compares with the best member, and why it is chosen.

    Parameters
    ----------
    tests : `significance.paired_tests` of all ways against the best member, over n rows
    method : from `choose`
    n_train : as there
    """
    first = simplest(tests.index)
    reason = f"it gains most of those better than {first}"
    if n < n_train:
        reason = f"the simplest way, since weights of members of {n:,} rows do not hold for more"
    elif method == first:
        reason = "it is the simplest way, and none is better than it"
    gain = describe_gain(tests.loc[method], best_member, n=n)
    return f"{gain} {method} is used: {reason}."


def _at(probs: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: of_member[rows] for name, of_member in probs.items()}


def _checked(oof_probs: Mapping[str, np.ndarray], y_true: np.ndarray) -> np.ndarray:
    """Return the members' probabilities as an ndarray of shape (m, n, k)."""
    if not oof_probs:
        raise WorkbookError("an ensemble needs members: no probabilities were given")
    checked = {}
    for name, probs in oof_probs.items():
        try:
            checked[name] = checked_probs(probs, y_true)
        except ValueError as error:
            raise WorkbookError(f"member {name!r}: {error}") from None
    n_classes = {name: probs.shape[1] for name, probs in checked.items()}
    if len(set(n_classes.values())) > 1:
        counts = ", ".join(f"{name!r} {k}" for name, k in n_classes.items())
        raise WorkbookError(f"members have different numbers of classes: {counts}")
    return np.stack(list(checked.values()))
