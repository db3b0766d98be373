"""The review budget: how many rows of a ranking a person should review, and what to expect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.isotonic import IsotonicRegression

from lib.evaluation.significance import Interval, student_interval

N_DEPTHS = 40
# The precision of fewer rows than this is chance.
FIRST_DEPTH = 5
# Of a person's attention; the reviewer shows the person's own.
SECONDS_A_ROW = 15


@dataclass(frozen=True)
class ReviewBudget:
    """How many rows a person should review next, and what to expect of them.

    Attributes
    ----------
    k : rows to review
    bound : what limits them: `budget`, `flags` (confident learning flags no further row) or
        `worth` (see `worthwhile`)
    worthwhile : rows of the ranking beyond which fewer than `min_hit_share` are errors
    errors : expected real errors among the k
    recall : expected share of all errors that is found once the k are reviewed, 0..1
    rate : share of labels made wrong in the laboratory that this was measured at, 0..1
    flagged_share : share of the user's labels that confident learning flags; `rate` is the nearest
    n_decided : rows that were reviewed before
    min_hit_share : lowest share of errors that makes reviewing worthwhile, 0..1
    """

    k: int
    bound: str
    worthwhile: int
    errors: Interval
    recall: Interval
    rate: float
    flagged_share: float
    n_decided: int
    min_hit_share: float

    def describe(self) -> str:
        """Say what to expect of the queue, and what limits it."""
        one_in = f"one error in {1 / self.min_hit_share:.3g} texts"
        beyond = f"beyond {self.worthwhile:,} rows there is fewer than {one_in}"
        if self.k == 0:
            reasons = {
                "worth": beyond,
                "flags": "confident learning flags none",
                "budget": "the budget (labels.queue_rows) has no room for one",
            }
            return f"No flagged row is queued: {reasons[self.bound]}. {self._basis()}"
        limits = {
            "worth": "",
            "flags": "Confident learning flags no more rows. ",
            "budget": "The budget (labels.queue_rows) ends the queue there. ",
        }
        which = "next" if self.n_decided else "first"
        errors, recall = self.errors, self.recall
        return (
            f"Of the {which} {self.k:,} flags expect about {errors.value:.0f} "
            f"[{errors.low:.0f}, {errors.high:.0f}] real errors; "
            f"{recall.value:.0%} [{recall.low:.0%}, {recall.high:.0%}] of all errors are found "
            f"then. Reviewing them takes about {minutes(self.k)} minutes at {SECONDS_A_ROW} s a "
            f"row. {limits[self.bound]}{beyond.capitalize()}. {self._basis()}"
        )

    def _basis(self) -> str:
        basis = (
            f"Measured at {self.rate:.0%} of injected errors, the rate nearest to the "
            f"{self.flagged_share:.1%} of labels flagged here."
        )
        return f"{basis} Decided already: {self.n_decided:,}." if self.n_decided else basis


def describe(budget: ReviewBudget | None, *, max_rows: int) -> str:
    """Say what to expect of the queue; None stands for a laboratory that is off."""
    if budget is None:
        return f"Not measured: the queue takes the first {max_rows:,} flags."
    return budget.describe()


def hits_by_depth(
    scores: np.ndarray, is_wrong: np.ndarray, *, n_depths: int = N_DEPTHS
) -> pd.DataFrame:
    """Return what is found in the first rows, at depths that grow by a factor up to all rows.

    Parameters
    ----------
    scores : ndarray of shape (n,), higher is more likely wrong
    is_wrong : ndarray of bool of shape (n,), at least one true

    Returns
    -------
    DataFrame with `depth` (share of the rows), `precision` and `recall` up to there, all 0..1

    Examples
    --------
    >>> scores = np.arange(10)[::-1]
    >>> is_wrong = np.array([1, 1, 0, 0, 0, 1, 0, 0, 0, 0], dtype=bool)
    >>> hits_by_depth(scores, is_wrong, n_depths=2).round(2).to_numpy().tolist()
    [[0.5, 0.4, 0.67], [1.0, 0.3, 1.0]]
    """
    n = len(scores)
    n_reviewed = np.geomspace(min(FIRST_DEPTH, n), n, n_depths).round().astype(int)
    n_reviewed = np.unique(n_reviewed)
    hits = is_wrong[np.argsort(-scores, kind="stable")].cumsum()[n_reviewed - 1]
    return pd.DataFrame(
        {"depth": n_reviewed / n, "precision": hits / n_reviewed, "recall": hits / is_wrong.sum()}
    )


def choose_budget(
    depths: pd.DataFrame,
    issues: pd.DataFrame,
    *,
    detector: str,
    max_rows: int,
    decided: np.ndarray | None = None,
    min_hit_share: float = 0.2,
) -> ReviewBudget:
    """Return how many rows to review next: at most `max_rows`, and no more than are worth it.

    A share of the laboratory's rows stands for the same share of the user's. Marginal precision is
    the mean over seeds, made to fall with depth. Decided rows count as the first of the ranking,
    from which the queue takes them.

    Parameters
    ----------
    depths : `Findings.depths` of the laboratory
    issues : all ranked rows, with `is_issue` (confident learning flags the label)
    detector : the one that ranked them
    max_rows : rows that a person is willing to review
    decided : ndarray of bool, one for each row of `issues`: a person has reviewed it; None: no row
    min_hit_share : lowest share of errors that makes reviewing worthwhile, 0..1

    Source
    ------
    ours
    """
    flagged = issues["is_issue"].to_numpy(dtype=bool)
    if decided is None:
        decided = np.zeros(len(issues), dtype=bool)
    n_decided = int(decided.sum())
    flagged_share = float(flagged.mean())
    rate = nearest_rate(depths, flagged_share)
    hits = _hit_shares(depths, detector=detector, rate=rate)
    worthwhile = round(_worthwhile_share(hits.mean(axis=1), min_hit_share) * len(issues))
    limits = {
        "worth": max(0, worthwhile - n_decided),
        "flags": int((flagged & ~decided).sum()),
        "budget": max_rows,
    }
    bound = min(limits, key=limits.__getitem__)
    k = limits[bound]
    errors, recall = _expected(hits, n_rows=len(issues), start=n_decided, end=n_decided + k)
    return ReviewBudget(
        k, bound, worthwhile, errors, recall, rate, flagged_share, n_decided, min_hit_share
    )


def nearest_rate(depths: pd.DataFrame, share: float) -> float:
    """Return the rate of injected errors that is nearest to a share of labels, 0..1."""
    rates = np.unique(depths["rate"])
    return float(rates[np.argmin(np.abs(rates - share))])


def expected_yield(
    depths: pd.DataFrame,
    *,
    detector: str,
    rate: float,
    n_rows: int,
    at: Sequence[int] = (25, 50, 100, 200, 500, 1_000, 2_000),
) -> pd.DataFrame:
    """Return what a person finds who reviews the first rows of a ranking.

    Parameters
    ----------
    depths : `Findings.depths` of the laboratory
    n_rows : length of the ranking
    at : numbers of rows that a person reviews; those beyond the ranking are left out

    Returns
    -------
    DataFrame by rows reviewed: `errors` expected among them with `low` and `high`, `recall` (0..1),
    `minutes` that it takes
    """
    hits = _hit_shares(depths, detector=detector, rate=rate)
    table = {}
    for k in sorted(at):
        if k <= n_rows:
            errors, recall = _expected(hits, n_rows=n_rows, start=0, end=k)
            table[k] = (errors.value, errors.low, errors.high, recall.value, minutes(k))
    columns = ["errors", "low", "high", "recall", "minutes"]
    by_rows = pd.DataFrame.from_dict(table, orient="index", columns=columns)
    return by_rows.rename_axis("rows reviewed")


def minutes(n_rows: int) -> int:
    """Return the minutes that reviewing rows takes a person."""
    return max(1, round(n_rows * SECONDS_A_ROW / 60))


def mean_over_seeds(values: np.ndarray, *, highest: float, n: int) -> Interval:
    """Return the mean with Student's 95 % interval, clipped to 0..`highest`; `n` rows behind it."""
    return student_interval(
        values.mean(), stats.sem(values), n_values=len(values), n=n, bounds=(0, highest)
    )


def _hit_shares(depths: pd.DataFrame, *, detector: str, rate: float) -> pd.DataFrame:
    """Return errors found up to each depth (index) for each seed (columns), as a share of rows."""
    curve = depths[depths["detector"].eq(detector) & depths["rate"].eq(rate)]
    curve = curve.assign(hits=curve["precision"] * curve["depth"])
    return curve.pivot(index="depth", columns="seed", values="hits")


def _worthwhile_share(hits: pd.Series, min_hit_share: float) -> float:
    """Return the share of the rows beyond which the marginal precision is too low."""
    depth = hits.index.to_numpy()
    widths = np.diff(depth, prepend=0)
    marginal = np.diff(hits.to_numpy(), prepend=0) / widths
    falling = IsotonicRegression(increasing=False)
    precision = falling.fit_transform(np.arange(len(depth)), marginal, sample_weight=widths)
    worthwhile = depth[precision >= min_hit_share - 1e-9]
    return float(worthwhile[-1]) if len(worthwhile) else 0.0


def _expected(
    hits: pd.DataFrame, *, n_rows: int, start: int, end: int
) -> tuple[Interval, Interval]:
    """Return errors found between two depths, and the share of all found by the end, over seeds."""
    depth = np.r_[0, hits.index.to_numpy()]
    ends = [start / n_rows, end / n_rows]
    found = np.array([np.interp(ends, depth, np.r_[0, curve]) for curve in hits.to_numpy().T])
    between = (found[:, 1] - found[:, 0]) * n_rows
    recall = found[:, 1] / hits.iloc[-1].to_numpy()
    return (
        mean_over_seeds(between, highest=end - start, n=n_rows),
        mean_over_seeds(recall, highest=1, n=n_rows),
    )
