"""How much each member of an ensemble counts: fitted shares, and a regression on top of them."""

from __future__ import annotations

import numpy as np
from scipy import optimize, special
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit

from lib.evaluation.calibration import SMALLEST_PROB, log_probs
from lib.evaluation.metrics import macro_f1, row_log_losses

# members drawn with replacement, at most: shares are multiples of about a twentieth
GREEDY_ROUNDS = 20
# C of the regression; a smaller one is more regularised
STACKING_STRENGTHS = (0.001, 0.01, 0.1, 1.0)
MIN_FEATURE = np.log(1e-4)  # stacking reads no log-probability below it
UNSEEN_CLASS_SCORE = -30.0  # of a class that no row of a stack's has


def mean_log_loss(probs: np.ndarray, y_true: np.ndarray) -> float:
    """Return the mean log loss of probabilities of shape (n, k)."""
    return float(row_log_losses(probs, y_true, floor=SMALLEST_PROB).mean())


def log_loss_shares(stacked: np.ndarray, y_true: np.ndarray) -> np.ndarray:
    """Return the shares whose weighted mean has the lowest log loss.

    Parameters
    ----------
    stacked : ndarray of shape (m, n, k), the members' probabilities

    Returns
    -------
    ndarray of shape (m,), 0 or more, with sum 1
    """
    true_probs = stacked[:, np.arange(len(y_true)), y_true].T  # (n, m)
    n_members = len(stacked)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = np.clip(true_probs @ weights, 1e-12, None)
        gradient = -(true_probs / mixed[:, None]).mean(axis=0)
        return float(-np.log(mixed).mean()), gradient

    sums_to_one = {"type": "eq", "fun": lambda weights: weights.sum() - 1, "jac": np.ones_like}
    fit = optimize.minimize(
        loss,
        np.full(n_members, 1 / n_members),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * n_members,
        constraints=[sums_to_one],
    )
    weights = fit.x.clip(0)
    return weights / weights.sum()


def greedy_shares(stacked: np.ndarray, y_true: np.ndarray) -> np.ndarray:
    """Return how often each member is drawn, up to the draw with the best macro F1.

    Each draw, with replacement, is of the member that raises macro F1 most; where that ties, the
    log loss decides. Shapes are those of `log_loss_shares`.
    """
    counts = np.zeros(len(stacked))
    total = np.zeros(stacked.shape[1:])
    best_score = (-1.0, -np.inf)
    best_shares = counts
    for n_drawn in range(1, GREEDY_ROUNDS + 1):
        scores = [_score((total + probs) / n_drawn, y_true) for probs in stacked]
        drawn = scores.index(max(scores))
        counts[drawn] += 1
        total += stacked[drawn]
        if scores[drawn] > best_score:
            best_score = scores[drawn]
            best_shares = counts / n_drawn
    return best_shares


def stacking_features(stacked: np.ndarray) -> np.ndarray:
    """Return the members' log-probabilities side by side: ndarray of shape (n, m * k)."""
    return np.concatenate([np.maximum(log_probs(probs), MIN_FEATURE) for probs in stacked], axis=1)


def stacking_coefficients(
    stacked: np.ndarray, y_true: np.ndarray, fold: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a multinomial regression on the members' log-probabilities.

    Parameters
    ----------
    stacked : ndarray of shape (m, n, k), the members' probabilities
    fold : ndarray of int of shape (n,), for the cross-validation that chooses its strength; None or
        a single fold: three random ones

    Returns
    -------
    weights : ndarray of shape (m * k, k)
    bias : ndarray of shape (k,)
    """
    k = stacked.shape[2]
    has_folds = fold is not None and len(np.unique(fold)) > 1

    # not sklearn's own score: a fold may lack a class that others have
    def score(regression: LogisticRegression, features: np.ndarray, y: np.ndarray) -> float:
        weights, bias = _for_all_classes(regression, k)
        return -mean_log_loss(special.softmax(features @ weights + bias, axis=1), y)

    search = GridSearchCV(
        LogisticRegression(max_iter=500),
        {"C": list(STACKING_STRENGTHS)},
        scoring=score,
        cv=PredefinedSplit(fold) if has_folds else 3,
        error_score="raise",
    )
    search.fit(stacking_features(stacked), y_true)
    return _for_all_classes(search.best_estimator_, k)


def _for_all_classes(regression: LogisticRegression, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients of shape (features, k) and intercepts of shape (k,).

    A class that the regression has not seen is as good as impossible.
    """
    coef, intercept = regression.coef_, regression.intercept_
    if len(coef) == 1:  # of two classes it has the second alone
        coef = np.vstack([np.zeros_like(coef), coef])
        intercept = np.r_[0.0, intercept]
    weights = np.zeros((coef.shape[1], k))
    bias = np.full(k, UNSEEN_CLASS_SCORE)
    weights[:, regression.classes_] = coef.T
    bias[regression.classes_] = intercept
    return weights, bias


def _score(probs: np.ndarray, y_true: np.ndarray) -> tuple[float, float]:
    f1 = macro_f1(y_true, probs.argmax(axis=1), n_classes=probs.shape[1])
    return f1, -mean_log_loss(probs, y_true)
