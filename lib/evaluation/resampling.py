"""Bootstrap resamples as weights of rows, so that thousands of resamples are scored at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse, stats

WeightedStatistic = Callable[[np.ndarray], np.ndarray]
BATCH_CELLS = 2**23  # weights held at once: 32 MB
MAX_JACKKNIFE = 1_000  # parts that are left out in turn for the acceleration


@dataclass(frozen=True)
class ResamplingPlan:
    """How rows are drawn again.

    Attributes
    ----------
    cell : ndarray of int of shape (n,); rows of one cell are alike to the statistic, which is given a weight for each cell
    unit : ndarray of int of shape (n,); the rows of a unit are drawn together (a group of near-copies, or a row alone)
    stratum : ndarray of int of shape (n_units,); each stratum keeps its number of units
    """

    cell: np.ndarray
    unit: np.ndarray
    stratum: np.ndarray

    @property
    def n_cells(self) -> int:
        """Return how many weights a resample has."""
        return int(self.cell.max()) + 1


def draws(
    n: int,
    *,
    cell: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    strata: np.ndarray | None = None,
) -> ResamplingPlan:
    """Say how n rows are drawn again.

    Parameters
    ----------
    cell : rows that are alike share a number from 0; None: every row for itself
    groups : (n,) of anything; rows of a group are drawn together
    strata : (n,) of anything; each keeps its number of rows (or groups)

    Raises
    ------
    ValueError : fewer than two rows or groups, or a group that lies in two strata.
    """
    unit = np.unique(groups, return_inverse=True)[1] if groups is not None else np.arange(n)
    kind = (
        np.unique(strata, return_inverse=True)[1] if strata is not None else np.zeros(n, dtype=int)
    )
    stratum = np.zeros(int(unit.max(initial=-1)) + 1, dtype=int)
    stratum[unit] = kind
    if len(stratum) < 2:
        raise ValueError(
            f"resampling needs two rows or groups at least, found {len(stratum)} in {n} rows"
        )
    if (astray := np.flatnonzero(stratum[unit] != kind)).size:
        raise ValueError(
            f"a group must lie in one stratum; that of row {astray[0]} lies in several"
        )
    return ResamplingPlan(np.arange(n) if cell is None else cell, unit, stratum)


def unique_cells(*arrays: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the cell of each row, and the arrays by cell: rows with equal values in all arrays are one cell."""
    distinct, cell = np.unique(np.stack(arrays), axis=1, return_inverse=True)
    return cell.reshape(-1), list(distinct)


def resampled(
    statistic: WeightedStatistic, how: ResamplingPlan, *, n_resamples: int, seed: int
) -> np.ndarray:
    """Return a statistic of every resample: ndarray of shape (n_resamples, ...).

    Parameters
    ----------
    statistic : takes weights of shape (b, n_cells), returns (b,) or (b, j)
    """
    return np.concatenate(
        [statistic(weights) for weights in _weights(how, n_resamples, np.random.default_rng(seed))]
    )


def bca_interval(
    statistic: WeightedStatistic,
    how: ResamplingPlan,
    *,
    n_resamples: int,
    confidence: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return value, low and high end of a statistic with several columns, each of shape (j,): bias-corrected and accelerated.

    The acceleration is that of a jackknife over units, over random parts of them where there are more than 1,000. A column that is
    NaN in some resamples is judged by the others.

    Source
    ------
    Efron 1987, "Better Bootstrap Confidence Intervals"; strata as in scipy.stats.bootstrap.
    """
    value = statistic(np.bincount(how.cell, minlength=how.n_cells)[None].astype(np.float32))[0]
    scores = resampled(statistic, how, n_resamples=n_resamples, seed=seed)
    acceleration = _acceleration(statistic, how, seed=seed)
    ends = [_ends(scores[:, j], value[j], acceleration[j], confidence) for j in range(len(value))]
    low, high = np.array(ends, dtype=float).T
    return value, low, high


def _ends(
    scores: np.ndarray, value: float, acceleration: float, confidence: float
) -> tuple[float, float]:
    scores = scores[np.isfinite(scores)]
    if not len(scores) or np.ptp(scores) == 0:
        return (value, value) if not len(scores) else (float(scores[0]), float(scores[0]))
    below = (np.mean(scores < value) + np.mean(scores <= value)) / 2
    bias = stats.norm.ppf(np.clip(below, 0.5 / len(scores), 1 - 0.5 / len(scores)))
    tails = bias + stats.norm.ppf([(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = np.quantile(scores, stats.norm.cdf(bias + tails / (1 - acceleration * tails)))
    return float(low), float(high)


def _acceleration(statistic: WeightedStatistic, how: ResamplingPlan, *, seed: int) -> np.ndarray:
    """Return the skewness of the units' influence over six, for each column."""
    n_units, whole = len(how.stratum), np.bincount(how.cell, minlength=how.n_cells)
    alone = n_units == len(
        how.unit
    )  # every row is a unit: to leave out one row of a cell is to leave out any
    if alone and how.n_cells <= MAX_JACKKNIFE and not how.stratum.any():
        left_out, times, stratum = (
            np.eye(how.n_cells),
            whole.astype(float),
            np.zeros(how.n_cells, dtype=int),
        )
    else:
        part, stratum = _parts(how.stratum, np.random.default_rng(seed))
        left_out, times = np.zeros((len(stratum), how.n_cells)), np.ones(len(stratum))
        np.add.at(left_out, (part[how.unit], how.cell), 1)
    scores = statistic((whole - left_out).astype(np.float32))
    mean = np.stack(
        [
            np.average(scores[stratum == s], axis=0, weights=times[stratum == s])
            for s in range(stratum.max() + 1)
        ]
    )
    influence = mean[stratum] - scores
    square = times @ influence**2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num(times @ influence**3 / (6 * square**1.5))


def _parts(stratum: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Deal units out to at most 1,000 parts, each within one stratum; return the part of each unit, the stratum of each part."""
    order = np.lexsort((rng.permutation(len(stratum)), stratum))
    n_each = np.bincount(stratum)
    n_parts = np.minimum(n_each, np.maximum(2, MAX_JACKKNIFE * n_each // len(stratum)))
    starts, first_part = np.cumsum(n_each) - n_each, np.cumsum(n_parts) - n_parts
    place = np.arange(len(stratum)) - starts[stratum[order]]
    part = np.empty(len(stratum), dtype=int)
    part[order] = first_part[stratum[order]] + place % n_parts[stratum[order]]
    return part, np.repeat(np.arange(len(n_each)), n_parts)


def _weights(
    how: ResamplingPlan, n_resamples: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    members = [np.flatnonzero(how.stratum == s) for s in range(how.stratum.max() + 1)]
    alone, batch = len(how.stratum) == len(how.unit), max(1, BATCH_CELLS // how.n_cells)
    for start in range(0, n_resamples, batch):
        weights = np.empty((min(batch, n_resamples - start), how.n_cells), dtype=np.float32)
        for row in weights:
            drawn = [units[rng.integers(0, len(units), len(units))] for units in members]
            drawn = drawn[0] if len(drawn) == 1 else np.concatenate(drawn)
            if alone:
                row[:] = np.bincount(how.cell[drawn], minlength=how.n_cells)
            else:
                row[:] = np.bincount(
                    how.cell,
                    weights=np.bincount(drawn, minlength=len(how.stratum))[how.unit],
                    minlength=how.n_cells,
                )
        yield weights


# --- metrics of weighted rows: weights of shape (b, m) in, (b,) or (b, k) out ---


def weighted_mean(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the mean of values of shape (m,) under each of the weights: ndarray of shape (b,)."""
    return (weights @ values.astype(np.float64)) / weights.sum(axis=1)


def weighted_sums(
    weights: np.ndarray, place: np.ndarray, *, n_places: int, values: np.ndarray | None = None
) -> np.ndarray:
    """Return the sum of weights (times values) of the rows of each place: ndarray of shape (b, n_places)."""
    m = len(place)
    chosen = sparse.csr_array(
        (np.ones(m) if values is None else values, (place, np.arange(m))), shape=(n_places, m)
    )
    return (chosen @ weights.T).T


def weighted_class_f1(
    weights: np.ndarray, y_true: np.ndarray, y_pred: np.ndarray, *, n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return each class's F1, and the weight of its rows and predictions together (0: the class is not there); both of shape (b, n_classes)."""
    together = weighted_sums(weights, y_true, n_places=n_classes) + weighted_sums(
        weights, y_pred, n_places=n_classes
    )
    right = weighted_sums(
        weights, y_true, n_places=n_classes, values=(y_true == y_pred).astype(float)
    )
    return 2 * right / np.maximum(together, np.finfo(float).tiny), together


def weighted_macro_f1(
    weights: np.ndarray, y_true: np.ndarray, y_pred: np.ndarray, *, n_classes: int
) -> np.ndarray:
    """Return `metrics.macro_f1` under each of the weights: ndarray of shape (b,)."""
    f1, together = weighted_class_f1(weights, y_true, y_pred, n_classes=n_classes)
    return f1.sum(axis=1) / np.maximum(1, (together > 0).sum(axis=1))


def weighted_roc_auc(weights: np.ndarray, y_true: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Return `metrics.roc_auc` under each of the weights: ndarray of shape (b,)."""
    areas = []
    for code in range(probs.shape[1]):
        order = np.argsort(probs[:, code], kind="stable")
        scores, positive, ordered = probs[order, code], y_true[order] == code, weights[:, order]
        negatives = np.cumsum(
            np.pad(ordered * ~positive, ((0, 0), (1, 0))), axis=1, dtype=np.float64
        )  # weight of negatives below each place
        first, last = (
            np.searchsorted(scores, scores[positive], side=side) for side in ("left", "right")
        )
        positives = ordered[:, positive]
        beaten = (positives * (negatives[:, first] + negatives[:, last])).sum(axis=1) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            areas.append(beaten / (positives.sum(axis=1, dtype=np.float64) * negatives[:, -1]))
    return _mean_of_defined(np.stack(areas, axis=1))


def _mean_of_defined(areas: np.ndarray) -> np.ndarray:
    defined = np.isfinite(areas)
    with np.errstate(invalid="ignore"):
        return np.where(defined, areas, 0).sum(axis=1) / np.where(
            defined.any(axis=1), defined.sum(axis=1), np.nan
        )
