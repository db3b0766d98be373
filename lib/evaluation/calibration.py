"""Calibrated probabilities: temperature and vector scaling, and how large the error is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from lib.evaluation.metrics import checked_probs, with_confidence
from lib.evaluation.significance import Interval

MIN_BIN_SIZE = 10  # rows that the accuracy of a bin is estimated from
SMALLEST_PROB = 1e-12  # smaller probabilities count as it, so that their logarithm is finite
# bounds of the logarithm of 1/temperature; where all rows are right, nothing else would bound it
LOG_SCALES = (-3.0, 3.0)
METHODS = ("none", "temperature", "vector")


@dataclass(frozen=True)
class Calibrator:
    """A scale and a shift of each class's log-probability.

    A temperature T is the scale 1/T for all classes, and no shift.

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
        """Return the (geometric mean) temperature: above 1 the model was over-confident."""
        return float(np.exp(-np.log(self.scale).mean()))


def fit_calibrator(
    probs: np.ndarray, y_true: np.ndarray, *, method: str, ridge: float = 0.01
) -> Calibrator:
    """Fit a calibrator that minimises the log loss of rows which the model did not learn from.

    Parameters
    ----------
    probs : ndarray of shape (n, k), rows summing to 1
    y_true : ndarray of int of shape (n,), columns of `probs`
    method : "none", "temperature" (one number; never changes which class comes first) or "vector"
        (a scale and a shift for each class)
    ridge : of "vector": pulls the logarithms of the scales towards that of the temperature, and the
        shifts to 0

    Raises
    ------
    ValueError : shapes differ, a row does not sum to 1, or another method.

    Source
    ------
    Guo et al. 2017, "On Calibration of Modern Neural Networks"; the ridge after Kull et al. 2019,
    "Beyond temperature scaling".
    """
    logs = log_probs(checked_probs(probs, y_true))
    k = probs.shape[1]
    if method not in METHODS:
        raise ValueError(f"method must be 'none', 'temperature' or 'vector', got {method!r}")
    if method == "none":
        return Calibrator(np.ones(k), np.zeros(k))
    temperature = optimize.minimize_scalar(
        lambda log_scale: _log_loss(np.exp(log_scale) * logs, y_true),
        bounds=LOG_SCALES,
        method="bounded",
    )
    values = np.r_[np.full(k, temperature.x), np.zeros(k)]
    if method == "vector":
        values = _fit_vector(logs, y_true, values, ridge=ridge)
    return Calibrator(np.exp(values[:k]), values[k:])


def _fit_vector(
    logs: np.ndarray, y_true: np.ndarray, start: np.ndarray, *, ridge: float
) -> np.ndarray:
    """Return the logarithms of the scales, then the shifts: ndarray of shape (2 k,)."""
    n, k = logs.shape
    truth = np.eye(k)[y_true]

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        scale = np.exp(values[:k])
        scores = logs * scale + values[k:]
        errors = (special.softmax(scores, axis=1) - truth) / n
        scale_gradient = (errors * logs).sum(axis=0) * scale
        gradient = np.r_[scale_gradient, errors.sum(axis=0)]
        away = values - start
        penalty = 0.5 * ridge * np.sum(away**2)
        return _log_loss(scores, y_true) + penalty, gradient + ridge * away

    return optimize.minimize(loss, start, jac=True, method="L-BFGS-B").x


def out_of_fold(
    probs: np.ndarray, y_true: np.ndarray, fold: np.ndarray, *, method: str
) -> np.ndarray:
    """Return probabilities of shape (n, k), each fold's calibrated by what the others fitted."""

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
    fit : takes the rows to fit on (ndarray of bool of shape (n,)), returns what predicts other rows
    fold : ndarray of int of shape (n,)

    Returns
    -------
    ndarray of shape (n, n_classes)
    """
    probs = np.empty((len(fold), n_classes))
    for number in np.unique(fold):
        held_out = fold == number
        probs[held_out] = fit(~held_out)(held_out)
    return probs


def log_probs(probs: np.ndarray) -> np.ndarray:
    """Return logarithms of probabilities, of those below `SMALLEST_PROB` its own."""
    return np.log(np.clip(probs, SMALLEST_PROB, None))


def _log_loss(scores: np.ndarray, y_true: np.ndarray) -> float:
    """Return the log loss of scores whose softmax are the probabilities."""
    of_truth = scores[np.arange(len(y_true)), y_true]
    return float(np.mean(special.logsumexp(scores, axis=1) - of_truth))


def debiased_calibration_error(
    probs: np.ndarray,
    y_true: np.ndarray,
    *,
    y_pred: np.ndarray | None = None,
    n_bins: int = 15,
    confidence: float = 0.95,
) -> Interval:
    """Return the root mean square gap between confidence and accuracy in bins, less chance's part.

    The gap is that of these bins: gaps that cancel within a bin are not seen, so that the error of
    single confidences is at least as large.

    Parameters
    ----------
    probs : ndarray of shape (n, k), rows summing to 1
    y_true : ndarray of int of shape (n,), columns of `probs`
    y_pred : as `metrics.with_confidence` takes it
    n_bins : bins of equally many rows, at most: a bin has ten or more

    Returns
    -------
    Interval in [0, 1]; 0 where the gaps are no larger than chance makes them. It holds the errors
    whose estimates would scatter as far as this one (rows taken as independent): normal theory for
    a sum of squared gaps, solved for the error as in Wilson's interval.

    Raises
    ------
    ValueError : fewer than 2 rows, shapes differ, or a row does not sum to 1.

    Source
    ------
    Kumar et al. 2019, "Verified Uncertainty Calibration", the debiased estimator.
    """
    probs = checked_probs(probs, y_true)
    n = len(probs)
    if n < 2:
        raise ValueError(f"the calibration error needs 2 rows or more, got {n}")
    y_pred, confidences = with_confidence(probs, y_pred)
    right = y_pred == y_true
    order = np.argsort(confidences, kind="stable")
    n_bins = max(1, min(n_bins, n // MIN_BIN_SIZE))
    bins = np.array_split(order, n_bins)
    weight = np.array([len(rows) for rows in bins]) / n
    gap = np.array([confidences[rows].mean() - right[rows].mean() for rows in bins])
    noise = np.array([_accuracy_variance(right[rows]) for rows in bins])
    square = float(weight @ (gap**2 - noise))
    # around true squares s of the bins, estimates have the variance
    # 4 s (weight^2 noise) + 2 (weight noise)^2, summed over bins
    z = stats.norm.ppf(0.5 + confidence / 2)
    weighted_noise = weight * noise
    excess = np.maximum(0, gap**2 - noise)
    relative = excess / (weight @ excess) if excess.any() else 1.0
    middle = square + 2 * z**2 * float((weight * relative) @ weighted_noise)
    product = square**2 - 2 * z**2 * float(weighted_noise @ weighted_noise)
    half = np.sqrt(max(0.0, middle**2 - product))
    squares = np.array([square, middle - half, middle + half])
    value, low, high = np.sqrt(squares.clip(0, 1)).tolist()
    return Interval(value, low, high, n=n, confidence=confidence)


def _accuracy_variance(right: np.ndarray) -> float:
    """Return the variance of a bin's accuracy.

    Where all of it is right, or all wrong, it is that of two more rows of which one is right.
    """
    n = len(right)
    share = float(right.mean())
    if share in (0.0, 1.0):
        share = (right.sum() + 1) / (n + 2)
    return share * (1 - share) / (n - 1)


def describe_calibrator(
    calibrator: Calibrator, *, method: str, rows: str, before: Interval, after: Interval
) -> str:
    """Return as a sentence what calibration does to the log loss.

    Parameters
    ----------
    method : that of `fit_calibrator`
    rows : which rows they are, as "validation"
    before, after : the log loss of the rows without and with calibration
    """
    way = f"calibration by {method} (mean temperature {calibrator.temperature:.2f})"
    return f"On {after.n:,} {rows} rows, the log loss with {way} is {after}, without it {before}."


def supported_method(method: str, log_losses: Mapping[str, Interval]) -> str:
    """Return the method asked for, "temperature" where "vector" has not the lower log loss.

    Few rows do not suffice for two numbers a class.

    Parameters
    ----------
    log_losses : by method, of rows that each was not fitted on
    """
    if method == "vector" and log_losses["vector"].value >= log_losses["temperature"].value:
        return "temperature"
    return method


def describe_errors(intervals: Mapping[str, Mapping[str, Interval]]) -> str:
    """Return the calibration of several models as a sentence.

    Parameters
    ----------
    intervals : model -> Intervals by name, `calibration_error` and `brier_loss` among them
    """
    models = [
        f"{name}: calibration error {errors['calibration_error']}, Brier {errors['brier_loss']}"
        for name, errors in intervals.items()
    ]
    return f"{'; '.join(models)}."
