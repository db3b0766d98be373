"""How the baseline's score grows with the number of training texts, and what more would add."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from scipy import optimize, stats
from tqdm import tqdm

from lib.config import FIXED_FOLDS
from lib.evaluation import resampling
from lib.evaluation.significance import Interval
from lib.training.baseline import fit_baseline
from lib.training.search.cross_validation import assign_folds

SMALLEST_SHARE = 1 / 16  # of the training rows, where the curve begins
MIN_SIZES = 4  # a power law has three parameters
MIN_RESAMPLES = 200  # for the curve's own intervals


@dataclass(frozen=True)
class PowerLaw:
    """Macro F1 = ceiling - scale * n ** -exponent, of n training rows.

    Attributes
    ----------
    ceiling : 0..1
    scale : 0 or more
    exponent : 0..2
    """

    ceiling: float
    scale: float
    exponent: float

    def __call__(self, n: np.ndarray | float) -> np.ndarray | float:
        """Return the macro F1 that the law gives n training rows."""
        return self.ceiling - self.scale * np.asarray(n, dtype=float) ** -self.exponent

    def gain_of_doubling(self, n: int) -> float:
        """Return what n further training rows add to n."""
        return float(self(2 * n) - self(n))


@dataclass(frozen=True)
class LearningCurve:
    """Macro F1 by training size, and the power law through it.

    Attributes
    ----------
    table : DataFrame by `n_train`: `macro_f1` (mean over draws) with `low`, `high` over the
        held-out rows
    law : through all sizes
    doubled : what twice the largest size would add to macro F1 by that law; the interval is of the
        held-out rows, and of how far such a law misses
    missed : macro F1 at the largest size minus the forecast of a law that is fitted to the smaller
        ones alone
    n_held_out : rows that all sizes are scored on
    """

    table: pd.DataFrame
    law: PowerLaw
    doubled: Interval
    missed: float
    n_held_out: int


def learning_curve(
    rows: pd.DataFrame,
    *,
    n_sizes: int = 6,
    draws: int = 3,
    n_resamples: int = 200,
    confidence: float = 0.95,
    seed: int = 42,
    progress: bool = True,
) -> LearningCurve:
    """Train the TF-IDF baseline on more and more of the rows, and score it on a fifth held out.

    Near-copies are held out together.

    Parameters
    ----------
    rows : with `text`, `label`, `group`
    n_sizes : from a sixteenth of the training rows to all of them, in equal ratios; 4 at least
    draws : how often each size is drawn; the means are shown

    Source
    ------
    Hestness et al. 2017, "Deep Learning Scaling is Predictable, Empirically" (the power law).

    Raises
    ------
    ValueError : fewer than 4 sizes. WorkbookError : a class with fewer than 5 texts.
    """
    if n_sizes < MIN_SIZES:
        raise ValueError(
            f"a power law has three parameters and needs {MIN_SIZES} sizes or more, got {n_sizes}"
        )
    remedy = "set cross_validation.curve_draws=0, or add rows"
    held_out = assign_folds(rows, n_folds=FIXED_FOLDS, seed=seed, remedy=remedy) == 0
    train, scored = rows[~held_out], rows[held_out]
    labels = train["label"].to_numpy()
    classes = np.unique(rows["label"].astype(str))
    y_true = np.searchsorted(classes, scored["label"].astype(str))
    smallest = max(2 * len(classes), SMALLEST_SHARE * len(train))
    sizes = np.geomspace(smallest, len(train), n_sizes)
    sizes = np.unique(sizes.round().astype(int))
    predicted = np.empty((draws, len(sizes), len(scored)), dtype=int)
    fits = list(np.ndindex(draws, len(sizes)))
    for draw, i in tqdm(fits, desc="learning curve", unit="fit", disable=not progress):
        if draw and sizes[i] == len(train):
            predicted[draw, i] = predicted[0, i]  # all rows, whatever was drawn
            continue
        order = _stratified_order(labels, np.random.default_rng(seed + draw))
        drawn = train.iloc[order[: sizes[i]]]
        model = fit_baseline(drawn["text"].tolist(), drawn["label"].tolist(), seed=seed)
        predicted_labels = model.predict(scored["text"].tolist()).astype(str)
        predicted[draw, i] = np.searchsorted(classes, predicted_labels)

    def scores(weights: np.ndarray) -> np.ndarray:
        """Return the mean over draws of each size's score: ndarray of shape (b, sizes)."""
        f1 = partial(resampling.stacked_macro_f1, weights, y_true, n_classes=len(classes))
        return np.mean([f1(list(of_draw)) for of_draw in predicted], axis=0)

    plan = resampling.draws(len(scored), groups=scored["group"].to_numpy())
    return _fitted(sizes, scores, plan, n_resamples=n_resamples, confidence=confidence, seed=seed)


def _fitted(
    sizes: np.ndarray,
    scores: resampling.WeightedStatistic,
    plan: resampling.ResamplingPlan,
    *,
    n_resamples: int,
    confidence: float,
    seed: int,
) -> LearningCurve:
    """Return the intervals of the sizes' scores and the laws through them.

    Two sources of chance add up in the gain of doubling: the held-out rows, by a bootstrap, and the
    law, which may be wrong, and the training rows drawn: as far as it missed the last size.

    Source
    ------
    ours
    """
    value, low, high = resampling.bca_interval(
        scores, plan, n_resamples=max(n_resamples, MIN_RESAMPLES), confidence=confidence, seed=seed
    )
    largest = sizes[-1]
    law = power_law(sizes, value)
    gain = law.gain_of_doubling(largest)
    resamples = resampling.resampled(scores, plan, n_resamples=n_resamples, seed=seed)
    gains = [power_law(sizes, resample).gain_of_doubling(largest) for resample in resamples]
    smaller_law = power_law(sizes[:-1], value[:-1])
    missed = float(value[-1] - smaller_law(largest))
    error = np.hypot(np.std(gains, ddof=1), missed)
    half = float(stats.norm.ppf(0.5 + confidence / 2) * error)
    n_held_out = len(plan.cell)
    doubled = Interval(gain, gain - half, gain + half, n_held_out, confidence)
    table = pd.DataFrame({"n_train": sizes, "macro_f1": value, "low": low, "high": high})
    return LearningCurve(table.set_index("n_train"), law, doubled, missed, n_held_out)


def power_law(sizes: np.ndarray, scores: np.ndarray) -> PowerLaw:
    """Return the power law nearest to the scores, by least squares.

    Examples
    --------
    >>> n = np.array([100, 200, 400, 800])
    >>> law = power_law(n, 0.9 - 2 * n**-0.5)
    >>> round(law.ceiling, 3), round(law.scale, 3), round(law.exponent, 3)
    (0.9, 2.0, 0.5)
    """
    ceiling = min(1.0, scores.max() + 0.02)
    scale = max(1e-3, np.ptp(scores)) * np.sqrt(sizes[0])
    start = (ceiling, scale, 0.5)
    bounds = ([0, 0, 0], [1, np.inf, 2])

    def residuals(parameters: np.ndarray) -> np.ndarray:
        return PowerLaw(*parameters)(sizes) - scores

    fit = optimize.least_squares(residuals, start, bounds=bounds, x_scale=start)
    return PowerLaw(*fit.x.tolist())


def describe(curve: LearningCurve | None) -> str:
    """Return in words what twice the training texts would add."""
    if curve is None:
        return "No learning curve: cross_validation.curve_draws is 0."
    n_train = curve.table.index.max()
    score = curve.table["macro_f1"].iloc[-1]
    gain = f"Twice {n_train:,} training texts would add {curve.doubled.signed()} to"
    forecast = f"A law fitted to the smaller sizes alone missed the last one by {curve.missed:+.3f}"
    return f"{gain} the baseline's macro F1 of {score:.3f}. {forecast}."


def next_steps(curve: LearningCurve | None) -> dict[str, float]:
    """Return labelling as many texts again, and the points of macro F1 that it wins at least."""
    if curve is None or not curve.doubled.low > 0:
        return {}
    n_train = curve.table.index.max()
    step = f"Label more texts: {n_train:,} more would add {curve.doubled.signed()} to macro F1"
    return {f"{step} (of the baseline).": 100 * curve.doubled.low}


def _stratified_order(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an order of the rows in which every beginning is stratified.

    It holds the classes in about their shares, and each at least once from the start.
    """
    shuffled = rng.permutation(len(labels))
    drawn = pd.Series(labels[shuffled])
    rank = drawn.groupby(drawn).cumcount().to_numpy()
    class_size = drawn.map(drawn.value_counts()).to_numpy()
    share = (rank + rng.random(len(labels)) * 0.5) / class_size
    share[rank == 0] = -1.0
    return shuffled[np.argsort(share, kind="stable")]
