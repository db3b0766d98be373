"""Bootstrap resamples as weights of rows, so that thousands of resamples are scored at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse, stats

WeightedStatistic = Callable[[np.ndarray], np.ndarray]
BATCH_CELLS = 2**23  # weights held at once: 32 MB
MAX_JACKKNIFE = 1_000  # parts that are left out in turn for the acceleration


@dataclass(frozen=True)
class ResamplingPlan:
    """Which rows are drawn together, and which are alike.

    Attributes
    ----------
    cell : ndarray of int of shape (n,); rows of a cell are alike to the statistic, which is given
        one weight for each cell
    unit : ndarray of int of shape (n,); the rows of a unit are drawn together (a group of
        near-copies, or a single row)
    """

    cell: np.ndarray
    unit: np.ndarray

    @property
    def n_cells(self) -> int:
        """Return how many weights a resample has."""
        return int(self.cell.max()) + 1

    @property
    def n_units(self) -> int:
        """Return how many units a resample draws."""
        return int(self.unit.max(initial=-1)) + 1

    @property
    def rows_are_units(self) -> bool:
        """Return whether each row is drawn by itself."""
        return self.n_units == len(self.unit)


def draws(
    n: int, *, cell: np.ndarray | None = None, groups: np.ndarray | None = None
) -> ResamplingPlan:
    """Plan how n rows are resampled.

    Parameters
    ----------
    cell : rows that are alike share a number from 0; None: each row is its own cell
    groups : (n,) of anything; rows of a group are drawn together

    Raises
    ------
    ValueError : fewer than two rows or groups.
    """
    rows = np.arange(n)
    unit = rows if groups is None else np.unique(groups, return_inverse=True)[1]
    plan = ResamplingPlan(rows if cell is None else cell, unit)
    if plan.n_units < 2:
        raise ValueError(
            f"resampling needs at least two rows or groups, found {plan.n_units} in {n} rows"
        )
    return plan


def cell_draws(
    *arrays: np.ndarray, groups: np.ndarray | None = None
) -> tuple[ResamplingPlan, list[np.ndarray]]:
    """Plan how rows are resampled whose statistic depends on a few integers of each.

    Parameters
    ----------
    arrays : ndarrays of int of shape (n,); rows with equal values in all of them are one cell

    Returns
    -------
    plan : ResamplingPlan
    by_cell : the arrays with one value for each cell, ndarrays of int of shape (n_cells,)
    """
    distinct, cell = np.unique(np.stack(arrays), axis=1, return_inverse=True)
    plan = draws(len(arrays[0]), cell=cell.reshape(-1), groups=groups)
    return plan, list(distinct)


def resampled(
    statistic: WeightedStatistic, plan: ResamplingPlan, *, n_resamples: int, seed: int
) -> np.ndarray:
    """Return a statistic of every resample: ndarray of shape (n_resamples, ...).

    Parameters
    ----------
    statistic : takes weights of shape (b, n_cells), returns (b,) or (b, j)
    """
    batches = _weights(plan, n_resamples, np.random.default_rng(seed))
    return np.concatenate([statistic(weights) for weights in batches])


def bca_interval(
    statistic: WeightedStatistic,
    plan: ResamplingPlan,
    *,
    n_resamples: int,
    confidence: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return value, low and high end of each column of a statistic, all of shape (j,).

    The interval is bias-corrected and accelerated. The acceleration is that of a jackknife over
    units, or over 1,000 random parts of them where there are more. A column that is NaN in some
    resamples has the interval of the others.

    Source
    ------
    Efron 1987, "Better Bootstrap Confidence Intervals".
    """
    whole = np.bincount(plan.cell, minlength=plan.n_cells)
    value = statistic(whole[None].astype(np.float32))[0]
    scores = resampled(statistic, plan, n_resamples=n_resamples, seed=seed)
    acceleration = _acceleration(statistic, plan, seed=seed)
    ends = [_ends(*column, confidence) for column in zip(scores.T, value, acceleration)]
    low, high = np.array(ends, dtype=float).T
    return value, low, high


def _ends(
    scores: np.ndarray, value: float, acceleration: float, confidence: float
) -> tuple[float, float]:
    scores = scores[np.isfinite(scores)]
    if not len(scores):
        return value, value
    if np.ptp(scores) == 0:
        return scores[0], scores[0]
    below = (np.mean(scores < value) + np.mean(scores <= value)) / 2
    half_a_score = 0.5 / len(scores)
    bias = stats.norm.ppf(np.clip(below, half_a_score, 1 - half_a_score))
    tails = bias + stats.norm.ppf([(1 - confidence) / 2, (1 + confidence) / 2])
    corrected = bias + tails / (1 - acceleration * tails)
    low, high = np.quantile(scores, stats.norm.cdf(corrected))
    return low, high


def _acceleration(statistic: WeightedStatistic, plan: ResamplingPlan, *, seed: int) -> np.ndarray:
    """Return the skewness of the units' influence over six, for each column."""
    whole = np.bincount(plan.cell, minlength=plan.n_cells)
    if plan.rows_are_units and plan.n_cells <= MAX_JACKKNIFE:
        left_out = np.eye(plan.n_cells)  # one row of a cell stands for all of them
        times = whole.astype(float)
    else:
        n_parts = min(plan.n_units, MAX_JACKKNIFE)
        part = np.random.default_rng(seed).permutation(plan.n_units) % n_parts
        left_out = np.zeros((n_parts, plan.n_cells))
        np.add.at(left_out, (part[plan.unit], plan.cell), 1)
        times = np.ones(n_parts)
    scores = np.ascontiguousarray(statistic((whole - left_out).astype(np.float32)))
    influence = np.average(scores, axis=0, weights=times) - scores
    square = times @ influence**2
    cube = times @ influence**3
    with np.errstate(invalid="ignore", divide="ignore"):
        acceleration = cube / (6 * square**1.5)
    return np.nan_to_num(acceleration)


def _weights(
    plan: ResamplingPlan, n_resamples: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    batch = max(1, BATCH_CELLS // plan.n_cells)
    for start in range(0, n_resamples, batch):
        n_drawn = min(batch, n_resamples - start)
        weights = np.empty((n_drawn, plan.n_cells), dtype=np.float32)
        for row in weights:
            drawn = rng.integers(0, plan.n_units, plan.n_units)
            row[:] = _cell_counts(plan, drawn)
        yield weights


def _cell_counts(plan: ResamplingPlan, drawn: np.ndarray) -> np.ndarray:
    """Return how many rows of each cell are in the units drawn: ndarray of shape (n_cells,)."""
    if plan.rows_are_units:
        return np.bincount(plan.cell[drawn], minlength=plan.n_cells)
    times = np.bincount(drawn, minlength=plan.n_units)
    return np.bincount(plan.cell, weights=times[plan.unit], minlength=plan.n_cells)


# --- metrics of weighted rows: weights of shape (b, m) in, (b,) or (b, k) out ---


def weighted_mean(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the mean of values of shape (m,) under each of the weights, NaN where all are 0."""
    with np.errstate(invalid="ignore"):
        return (weights @ values.astype(np.float64)) / weights.sum(axis=1)


def weighted_sums(
    weights: np.ndarray, codes: np.ndarray, *, n_codes: int, values: np.ndarray | None = None
) -> np.ndarray:
    """Return the sum of weights (times values) of the rows of each code: ndarray (b, n_codes)."""
    m = len(codes)
    values = np.ones(m) if values is None else values
    selection = sparse.csr_array((values, (codes, np.arange(m))), shape=(n_codes, m))
    return (selection @ weights.T).T


def weighted_class_f1(
    weights: np.ndarray, y_true: np.ndarray, y_pred: np.ndarray, *, n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return each class's F1, and the weight of its rows plus that of its predictions.

    Returns
    -------
    f1, support : ndarrays of shape (b, n_classes); support is 0 where the class does not occur
    """
    support = weighted_sums(weights, y_true, n_codes=n_classes)
    support = support + weighted_sums(weights, y_pred, n_codes=n_classes)
    correct = (y_true == y_pred).astype(float)
    right = weighted_sums(weights, y_true, n_codes=n_classes, values=correct)
    return 2 * right / np.maximum(support, np.finfo(float).tiny), support


def weighted_macro_f1(
    weights: np.ndarray, y_true: np.ndarray, y_pred: np.ndarray, *, n_classes: int
) -> np.ndarray:
    """Return `metrics.macro_f1` under each of the weights: ndarray of shape (b,)."""
    f1, support = weighted_class_f1(weights, y_true, y_pred, n_classes=n_classes)
    n_present = (support > 0).sum(axis=1)
    return f1.sum(axis=1) / np.maximum(1, n_present)


def weighted_balanced_accuracy(
    weights: np.ndarray, y_true: np.ndarray, y_pred: np.ndarray, *, n_classes: int
) -> np.ndarray:
    """Return the mean recall of the classes that have rows: ndarray of shape (b,)."""
    correct = (y_true == y_pred).astype(float)
    n_rows = weighted_sums(weights, y_true, n_codes=n_classes)
    right = weighted_sums(weights, y_true, n_codes=n_classes, values=correct)
    recall = right / np.maximum(n_rows, np.finfo(float).tiny)
    return recall.sum(axis=1) / np.maximum(1, (n_rows > 0).sum(axis=1))


def weighted_matthews(
    weights: np.ndarray, y_true: np.ndarray, y_pred: np.ndarray, *, n_classes: int
) -> np.ndarray:
    """Return `metrics.matthews_correlation` under each of the weights, NaN where it is None."""
    n_rows = weighted_sums(weights, y_true, n_codes=n_classes)
    n_predicted = weighted_sums(weights, y_pred, n_codes=n_classes)
    total = n_rows.sum(axis=1)
    right = weights @ (y_true == y_pred).astype(float)
    together = right * total - (n_rows * n_predicted).sum(axis=1)
    of_rows = total**2 - (n_rows**2).sum(axis=1)
    of_predicted = total**2 - (n_predicted**2).sum(axis=1)
    spread = np.sqrt(of_rows) * np.sqrt(np.where(of_predicted > 0, of_predicted, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return together / spread


def stacked_macro_f1(
    weights: np.ndarray,
    y_true: np.ndarray,
    predictions: Sequence[np.ndarray],
    *,
    n_classes: int,
) -> np.ndarray:
    """Return the macro F1 of each of j predictions of the same rows: ndarray of shape (b, j)."""
    scores = [
        weighted_macro_f1(weights, y_true, y_pred, n_classes=n_classes) for y_pred in predictions
    ]
    return np.stack(scores, axis=1)
