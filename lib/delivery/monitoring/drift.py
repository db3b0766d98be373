"""Whether predictions differ from a reference: several signals, one rate of false alarms."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from tqdm import tqdm

FEWEST = 5  # texts that a category is expected to have in a batch; rarer ones count together
Signals = Mapping[str, np.ndarray]
MIN_ROWS = 10  # of a signal in a batch; with fewer nothing is claimed
LEAST_P = 1e-4  # of a text, so that its logarithm is finite


def _distribution(batch: np.ndarray, reference: np.ndarray) -> float:
    return stats.ks_2samp(batch[:, 0], reference[:, 0], method="asymp").pvalue


def _rise(batch: np.ndarray, reference: np.ndarray) -> float:
    options = {"equal_var": False, "alternative": "greater"}
    return stats.ttest_ind(batch[:, 0], reference[:, 0], **options).pvalue


def _tail(batch: np.ndarray, reference: np.ndarray) -> float:
    """Test the logarithms of conformal p-values, whose sum is Fisher's combination of them."""
    return _rise(*(-np.log(np.maximum(1 - part, LEAST_P)) for part in (batch, reference)))


def _mix(batch: np.ndarray, reference: np.ndarray) -> float:
    codes = pd.factorize(np.concatenate([batch, reference])[:, 0])[0]
    parts = np.split(codes, [len(batch)])
    counts = np.stack([np.bincount(part, minlength=codes.max() + 1) for part in parts])
    rare = counts.sum(axis=0) * len(batch) < FEWEST * len(codes)
    counts = np.column_stack([counts[:, ~rare], counts[:, rare].sum(axis=1)])
    counts = counts[:, counts.any(axis=0)]
    return stats.chi2_contingency(counts, correction=False).pvalue


def _means(batch: np.ndarray, reference: np.ndarray) -> float:
    """Hotelling's test, that is a two-sample test by Fisher's linear discriminant."""
    n, m, k = len(batch), len(reference), batch.shape[1]
    freedom = n + m - k - 1
    if freedom < 1:
        return 1.0
    scatter = (n - 1) * np.cov(batch.T) + (m - 1) * np.cov(reference.T)
    gap = batch.mean(axis=0) - reference.mean(axis=0)
    distance = gap @ np.linalg.pinv(np.atleast_2d(scatter)) @ gap
    return stats.f.sf(n * m / (n + m) * distance * freedom / k, k, freedom)


# name -> its column, and its test
SIGNALS: dict[str, tuple[str, Callable[[np.ndarray, np.ndarray], float]]] = {
    "length in characters": ("n_characters", _distribution),
    "length in words": ("n_words", _distribution),
    "language": ("language", _mix),
    "unknown words": ("unknown_share", _rise),
    "embedding": ("embedding", _means),
    "unusual texts": ("ood_score", _tail),
    "class mix": ("label", _mix),
    "confidence": ("confidence", _distribution),
    "abstentions": ("abstained", _mix),
}


def signals(rows: pd.DataFrame) -> Signals:
    """Return what drift is measured in: name -> ndarray of shape (n, k), missing where it is NaN.

    Labels and languages become numbers, the same ones in every table.
    """
    found = {}
    for name, (column, test) in SIGNALS.items():
        if column not in rows:
            continue
        values = rows[column]
        known = values.notna().to_numpy()
        if test is _means:
            numbers = np.stack(values[known].to_list())
        elif test is _mix:
            numbers = pd.util.hash_array(values[known].to_numpy(dtype=object))[:, None]
        else:
            numbers = values[known].to_numpy()[:, None]
        found[name] = np.full((len(rows), numbers.shape[1]), np.nan)
        found[name][known] = numbers
    return found


def p_values(batch: Signals, reference: Signals) -> dict[str, float]:
    """Return how likely each signal would differ as much, were the batch like the reference.

    Lengths and confidence by Kolmogorov and Smirnov's test; mixes by chi-squared; the share of
    unknown words by Welch's test, and unusual texts by Fisher's combination of their conformal
    p-values (Bates et al. 2023), both against a rise alone; the embedding by Hotelling's test. Some
    are only asymptotic: `threshold` measures what they are worth. A signal that one of them lacks,
    or that has a single value, is left out.
    """
    found = {}
    for name in batch.keys() & reference.keys():
        parts = [values[~np.isnan(values[:, 0])] for values in (batch[name], reference[name])]
        both = np.concatenate(parts)
        if min(map(len, parts)) >= MIN_ROWS and (both != both[0]).any():
            found[name] = float(SIGNALS[name][1](*parts))
    return found


def threshold(
    reference: pd.DataFrame,
    *,
    size: int,
    false_alarms: float = 0.05,
    n_splits: int = 400,
    seed: int,
) -> tuple[float, float]:
    """Measure below which p-value at most `false_alarms` of undisturbed batches fall.

    The reference is split at random into a batch and the rest, which are alike for certain. The
    smallest p-value over all signals is what counts, so that one rate holds for all of them
    together (Westfall and Young 1993).

    Parameters
    ----------
    size : of the batches; at most half of the reference is split off
    n_splits : 1 / `false_alarms` at least

    Returns
    -------
    p-value; share of half as many other splits that are below it, 0..1
    """
    n = len(next(iter(reference.values())))
    size = min(size, n // 2)
    rng = np.random.default_rng(seed)
    smallest = []
    for _ in tqdm(range(n_splits + n_splits // 2), "splits of the reference", unit="split"):
        order = rng.permutation(n)
        batch, rest = (
            {name: values[rows] for name, values in reference.items()}
            for rows in (order[:size], order[size:])
        )
        smallest.append(min(p_values(batch, rest).values(), default=1.0))
    limit = np.sort(smallest[:n_splits])[int(false_alarms * (n_splits + 1)) - 1]
    return float(limit), float(np.mean(smallest[n_splits:] < limit))


@dataclass(frozen=True)
class Drift:
    """What differs, since when.

    Attributes
    ----------
    batches : oldest first: `first`, `last` (times), `n`
    p_values : a row a batch, a column a signal
    limit : the p-value below which a cell is an alarm
    """

    batches: pd.DataFrame
    p_values: pd.DataFrame
    limit: float

    @property
    def alarms(self) -> np.ndarray:
        """Return whether each batch is reported."""
        return (self.p_values < self.limit).any(axis=1).to_numpy()

    @property
    def since(self) -> int | None:
        """Return the first reported batch from which on most are; None where there is none."""
        for i in np.flatnonzero(self.alarms):
            if self.alarms[i:].mean() > 0.5:
                return int(i)
        return None

    def describe(self) -> str:
        """Return in sentences whether something is wrong, since when, and by which signals."""
        alarms, since = self.alarms, self.since
        how_many = f"{alarms.sum()} of {len(alarms)} batches differ"
        if not alarms.any():
            return f"Nothing is wrong as far as the signals tell: {how_many}."
        told = (self.p_values < self.limit).sum()
        names = ", ".join(f"{name} ({n})" for name, n in told[told > 0].items())
        first = self.batches["first"].iloc[alarms.argmax() if since is None else since]
        state = (
            "Something was wrong, and passed, from" if since is None else "Something is wrong since"
        )
        return f"{state} {first:%Y-%m-%d %H:%M} UTC: {how_many}, by {names}."


def batches_of(rows: pd.DataFrame, *, size: int, most: int) -> list[pd.DataFrame]:
    """Return the newest rows in batches, oldest first; each has `size` rows, or a few more."""
    newest = rows.tail(size * most)
    ends = np.linspace(0, len(newest), max(1, len(newest) // size) + 1).astype(int)
    return [newest.iloc[start:end] for start, end in itertools.pairwise(ends)]


def watch(batches: list[pd.DataFrame], reference: pd.DataFrame, *, limit: float) -> Drift:
    """Compare batches of predictions with a reference.

    Parameters
    ----------
    batches : rows of a log, oldest first
    reference : predictions with the same columns
    limit : from `threshold`; it is shared among the batches, so that its rate holds for all
    """
    known = signals(reference)
    found = pd.DataFrame([p_values(signals(batch), known) for batch in batches])
    spans = [
        {"first": batch["time"].min(), "last": batch["time"].max(), "n": len(batch)}
        for batch in batches
    ]
    return Drift(
        pd.DataFrame(spans),
        found.reindex(columns=[*SIGNALS]).dropna(axis=1, how="all"),
        limit / len(batches),
    )
