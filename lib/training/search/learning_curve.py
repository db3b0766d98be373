"""How the baseline's score grows with the number of training texts, and what more of them would buy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize
from tqdm import tqdm

from lib.config import FIXED_FOLDS
from lib.evaluation import resampling
from lib.evaluation.significance import Interval
from lib.training.baseline import fit_baseline
from lib.training.search.cross_validation import assign_folds

SMALLEST_SHARE = 1 / 16  # of the training rows, where the curve begins


@dataclass(frozen=True)
class LearningCurve:
    """Macro F1 by training size, and the power law through it.

    Attributes
    ----------
    table : DataFrame by `n_train`: `macro_f1` (mean over draws) with `low`, `high` over the held-out rows
    ceiling, scale, exponent : macro F1 = ceiling - scale * n_train ** -exponent
    doubled : what twice the largest size would add to macro F1 by that law; the interval is over the held-out rows
    missed : macro F1 at the largest size minus what the law says that is fitted to the smaller ones alone
    n_held_out : rows that all sizes are scored on
    """

    table: pd.DataFrame
    ceiling: float
    scale: float
    exponent: float
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
    """Train the TF-IDF baseline on ever more of the rows, and score it on a fifth that is held out, near-copies together.

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
    if n_sizes < 4:
        raise ValueError(f"three numbers of a law need four sizes or more, got {n_sizes}")
    held_out = (
        assign_folds(
            rows,
            n_folds=FIXED_FOLDS,
            seed=seed,
            remedy="set cross_validation.curve_draws=0, or add rows",
        )
        == 0
    )
    train, scored = rows[~held_out], rows[held_out]
    classes, y = np.unique(rows["label"].to_numpy().astype(str), return_inverse=True)
    sizes = np.unique(
        np.geomspace(max(2 * len(classes), SMALLEST_SHARE * len(train)), len(train), n_sizes)
        .round()
        .astype(int)
    )
    predicted = np.empty((len(sizes), draws, len(scored)), dtype=int)
    with tqdm(
        total=len(sizes) * draws, desc="learning curve", unit="fit", disable=not progress
    ) as bar:
        for draw in range(draws):
            order = _classes_first(train["label"].to_numpy(), np.random.default_rng(seed + draw))
            for i, size in enumerate(sizes):
                some = train.iloc[order[:size]]
                model = fit_baseline(some["text"].tolist(), some["label"].tolist(), seed=seed)
                predicted[i, draw] = np.searchsorted(
                    classes, model.predict(scored["text"].tolist()).astype(str)
                )
                bar.update()

    def scores(weights: np.ndarray) -> np.ndarray:
        of_draws = [
            [
                resampling.weighted_macro_f1(weights, y[held_out], each, n_classes=len(classes))
                for each in of_size
            ]
            for of_size in predicted
        ]
        return np.stack([np.mean(each, axis=0) for each in of_draws], axis=1)

    how = resampling.draws(len(scored), groups=scored["group"].to_numpy())
    value, low, high = resampling.bca_interval(
        scores, how, n_resamples=max(n_resamples, 200), confidence=confidence, seed=seed
    )
    law = power_law(sizes, value)
    gains = [
        _doubled(sizes, power_law(sizes, each))
        for each in resampling.resampled(scores, how, n_resamples=n_resamples, seed=seed)
    ]
    ends = np.quantile(gains, [(1 - confidence) / 2, (1 + confidence) / 2])
    before = power_law(sizes[:-1], value[:-1])
    return LearningCurve(
        pd.DataFrame(
            {"macro_f1": value, "low": low, "high": high}, index=pd.Index(sizes, name="n_train")
        ),
        *law,
        Interval(_doubled(sizes, law), float(ends[0]), float(ends[1]), len(scored), confidence),
        float(value[-1] - at(before, sizes[-1])),
        len(scored),
    )


def power_law(sizes: np.ndarray, scores: np.ndarray) -> tuple[float, float, float]:
    """Return ceiling (0..1), scale (0 or more) and exponent (0..2) of the law nearest to the scores, by least squares.

    Examples
    --------
    >>> n = np.array([100, 200, 400, 800])
    >>> [round(value, 3) for value in power_law(n, 0.9 - 2 * n**-0.5)]
    [0.9, 2.0, 0.5]
    """
    start = (min(1.0, scores.max() + 0.02), max(1e-3, np.ptp(scores)) * np.sqrt(sizes[0]), 0.5)
    found = optimize.least_squares(
        lambda law: at(tuple(law), sizes) - scores,
        start,
        bounds=([0, 0, 0], [1, np.inf, 2]),
        x_scale=start,
    ).x
    return float(found[0]), float(found[1]), float(found[2])


def at(law: tuple[float, float, float], n: np.ndarray | float) -> np.ndarray | float:
    """Return the macro F1 that a law gives n training rows."""
    ceiling, scale, exponent = law
    return ceiling - scale * np.asarray(n, dtype=float) ** -exponent


def _doubled(sizes: np.ndarray, law: tuple[float, float, float]) -> float:
    return float(at(law, 2 * sizes[-1]) - at(law, sizes[-1]))


def _classes_first(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an order of the rows whose every beginning holds the classes in about their shares, and each at least once from the start."""
    shuffled = rng.permutation(len(labels))
    place = pd.Series(labels[shuffled]).groupby(labels[shuffled]).cumcount().to_numpy()
    share = (place + rng.random(len(labels)) * 0.5) / pd.Series(labels[shuffled]).map(
        pd.Series(labels).value_counts()
    ).to_numpy()
    return shuffled[np.argsort(np.where(place == 0, -1.0, share), kind="stable")]
