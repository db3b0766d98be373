"""Probabilities made as sure as they are right: temperature and vector scaling, and how far they are from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from lib.evaluation.metrics import checked_probs
from lib.evaluation.significance import Interval

LEAST_IN_BIN = 10  # rows that the accuracy of a bin is told from
LEAST = 1e-12  # probabilities below it are taken for it: their logarithm is finite
SCALES = (
    -3.0,
    3.0,
)  # logarithms of the inverse of a temperature: where all rows are right, nothing else would bound it


@dataclass(frozen=True)
class Calibrator:
    """A scale and a shift of each class's log-probability; a temperature T is the scale 1/T for all and no shift.

    Attributes
    ----------
    scale, shift : ndarray of shape (k,)
    """

    scale: np.ndarray
    shift: np.ndarray

    def __call__(self, probs: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities, of the shape of `probs`."""
        return special.softmax(log_probs(probs) * self.scale + self.shift, axis=1)

    @property
    def temperature(self) -> float:
        """Return the (geometric mean) temperature: above 1 the model was too sure, below 1 not sure enough."""
        return float(np.exp(-np.log(self.scale).mean()))


def fit_calibrator(
    probs: np.ndarray, y_true: np.ndarray, *, method: str, ridge: float = 0.01
) -> Calibrator:
    """Fit a calibrator that minimises the log loss of rows which the model did not learn from.

    Parameters
    ----------
    probs : ndarray of shape (n, k), rows summing to 1
    y_true : ndarray of int of shape (n,), columns of `probs`
    method : "none", "temperature" (one number; never changes which class comes first) or "vector" (a scale and a shift for each class)
    ridge : of "vector": pulls the logarithms of the scales towards that of the temperature, and the shifts to 0

    Raises
    ------
    ValueError : shapes differ, a row does not sum to 1, or another method.

    Source
    ------
    Guo et al. 2017, "On Calibration of Modern Neural Networks"; the ridge after Kull et al. 2019, "Beyond temperature scaling".
    """
    logs, k = log_probs(checked_probs(probs, y_true)), probs.shape[1]
    if method not in {"none", "temperature", "vector"}:
        raise ValueError(f"method must be 'none', 'temperature' or 'vector', got {method!r}")
    if method == "none":
        return Calibrator(np.ones(k), np.zeros(k))
    found = optimize.minimize_scalar(
        lambda log_scale: _log_loss(np.exp(log_scale) * logs, y_true),
        bounds=SCALES,
        method="bounded",
    )
    start = np.r_[np.full(k, found.x), np.zeros(k)]
    if method == "temperature":
        return Calibrator(np.exp(start[:k]), start[k:])

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        scale = np.exp(values[:k])
        scores = logs * scale + values[k:]
        errors = (special.softmax(scores, axis=1) - np.eye(k)[y_true]) / len(y_true)
        gradient = np.r_[(errors * logs).sum(axis=0) * scale, errors.sum(axis=0)]
        return _log_loss(scores, y_true) + 0.5 * ridge * np.sum(
            (values - start) ** 2
        ), gradient + ridge * (values - start)

    values = optimize.minimize(loss, start, jac=True, method="L-BFGS-B").x
    return Calibrator(np.exp(values[:k]), values[k:])


def out_of_fold(
    probs: np.ndarray, y_true: np.ndarray, fold: np.ndarray, *, method: str
) -> np.ndarray:
    """Return calibrated probabilities, those of each fold by what was fitted on the other folds: ndarray of shape (n, k)."""

    def fit(rows: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        calibrator = fit_calibrator(probs[rows], y_true[rows], method=method)
        return lambda others: calibrator(probs[others])

    return cross_fitted(fit, fold, n_classes=probs.shape[1])


def cross_fitted(
    fit: Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]],
    fold: np.ndarray,
    *,
    n_classes: int,
) -> np.ndarray:
    """Return probabilities of every row from what was fitted without its fold.

    Parameters
    ----------
    fit : takes the rows to fit on (ndarray of bool of shape (n,)), returns what predicts other such rows
    fold : ndarray of int of shape (n,)

    Returns
    -------
    ndarray of shape (n, n_classes)
    """
    found = np.empty((len(fold), n_classes))
    for number in np.unique(fold):
        held_out = fold == number
        found[held_out] = fit(~held_out)(held_out)
    return found


def log_probs(probs: np.ndarray) -> np.ndarray:
    """Return logarithms of probabilities, of those below `LEAST` its own."""
    return np.log(np.clip(probs, LEAST, None))


def _log_loss(scores: np.ndarray, y_true: np.ndarray) -> float:
    return float(
        np.mean(special.logsumexp(scores, axis=1) - scores[np.arange(len(y_true)), y_true])
    )


def debiased_calibration_error(
    probs: np.ndarray, y_true: np.ndarray, *, n_bins: int = 15, confidence: float = 0.95
) -> Interval:
    """Return the root mean square gap between confidence and accuracy, without the part that chance in the bins adds.

    Parameters
    ----------
    probs : ndarray of shape (n, k), rows summing to 1
    y_true : ndarray of int of shape (n,), columns of `probs`
    n_bins : bins of equally many rows, at most: a bin has ten or more

    Returns
    -------
    Interval in [0, 1]; 0 where the gaps are no larger than chance makes them. It holds the errors whose estimates would scatter as far as
    this one (rows taken as independent): normal theory for a sum of squared gaps, solved for the error as in Wilson's interval.

    Raises
    ------
    ValueError : fewer than 2 rows, shapes differ, or a row does not sum to 1.

    Source
    ------
    Kumar et al. 2019, "Verified Uncertainty Calibration", the debiased estimator.
    """
    probs = checked_probs(probs, y_true)
    if len(probs) < 2:
        raise ValueError(f"the calibration error needs 2 rows or more, got {len(probs)}")
    confidences, right = probs.max(axis=1), probs.argmax(axis=1) == y_true
    bins = np.array_split(
        np.argsort(confidences, kind="stable"), max(1, min(n_bins, len(probs) // LEAST_IN_BIN))
    )
    weight = np.array([len(rows) for rows in bins]) / len(probs)
    gap = np.array([confidences[rows].mean() - right[rows].mean() for rows in bins])
    noise = np.array([_noise(right[rows]) for rows in bins])
    square, z = float(weight @ (gap**2 - noise)), stats.norm.ppf(0.5 + confidence / 2)
    # around a true square s, estimates have the variance 4 s (weight^2 noise) + 2 (weight noise)^2, summed over bins
    middle, least = (
        square + 2 * z**2 * float(weight**2 @ noise),
        square**2 - 2 * z**2 * float((weight * noise) @ (weight * noise)),
    )
    half = np.sqrt(max(0.0, middle**2 - least))
    value, low, high = (
        float(np.sqrt(min(1.0, max(0.0, each)))) for each in (square, middle - half, middle + half)
    )
    return Interval(value, low, high, n=len(probs), confidence=confidence)


def _noise(right: np.ndarray) -> float:
    """Return the variance of a bin's accuracy; where all of it is right, or all wrong, as if two rows more were half right."""
    n, share = len(right), float(right.mean())
    if share in (0.0, 1.0):
        share = (right.sum() + 1) / (n + 2)
    return share * (1 - share) / (n - 1)
