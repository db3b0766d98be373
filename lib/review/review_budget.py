"""How far down a ranking of doubtful labels a person should look: what the laboratory found by depth, and where looking stops being worth it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.isotonic import IsotonicRegression

from lib.evaluation.significance import Interval, student_interval

N_DEPTHS, FIRST_DEPTH = 40, 5  # of the grid; the precision of fewer rows than that is chance
SECONDS_A_ROW = 15  # of a person's attention; the reviewer shows the person's own


@dataclass(frozen=True)
class Depth:
    """How many rows a person should look at next, and what to expect of them.

    Attributes
    ----------
    k : rows to look at
    bound : what ends them: `budget`, `flags` (confident learning flags no further row) or `worth` (see `worthwhile`)
    worthwhile : rows of the ranking beyond which fewer than `min_hit_share` of those looked at are errors
    errors : expected real errors among the k
    recall : expected share of all errors that is found once the k are looked at, 0..1
    rate : share of labels made wrong in the laboratory that this was read off, 0..1
    flagged_share : share of the user's labels that confident learning flags; `rate` is the nearest there is
    n_decided : rows that were looked at before
    min_hit_share : lowest share of errors that makes looking worthwhile, 0..1
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


def hits_by_depth(
    doubts: np.ndarray, planted: np.ndarray, *, n_depths: int = N_DEPTHS
) -> pd.DataFrame:
    """Return what is found in the most doubtful rows, at depths that grow by a constant factor up to all rows.

    Parameters
    ----------
    doubts : ndarray of shape (n,), higher is more doubtful
    planted : ndarray of bool of shape (n,), at least one true

    Returns
    -------
    DataFrame with `depth` (share of the rows), `precision` and `recall` up to there, all 0..1

    Examples
    --------
    >>> doubts, planted = np.arange(10)[::-1], np.array([1, 1, 0, 0, 0, 1, 0, 0, 0, 0], dtype=bool)
    >>> hits_by_depth(doubts, planted, n_depths=2).round(2).to_numpy().tolist()
    [[0.5, 0.4, 0.67], [1.0, 0.3, 1.0]]
    """
    n = len(doubts)
    rows = np.unique(np.geomspace(min(FIRST_DEPTH, n), n, n_depths).round().astype(int))
    hits = planted[np.argsort(-doubts, kind="stable")].cumsum()[rows - 1]
    return pd.DataFrame(
        {"depth": rows / n, "precision": hits / rows, "recall": hits / planted.sum()}
    )


def choose_depth(
    depths: pd.DataFrame,
    issues: pd.DataFrame,
    *,
    detector: str,
    budget: int,
    decided: np.ndarray | None = None,
    min_hit_share: float = 0.2,
) -> Depth:
    """Return how many rows to look at next: as many as the budget allows, and no more than are worth it.

    A share of the laboratory's rows stands for the same share of the user's. Marginal precision is the mean over seeds, made to
    fall with depth. Decided rows count as the first of the ranking, from which the queue takes them.

    Parameters
    ----------
    depths : `Findings.depths` of the laboratory
    issues : all ranked rows, with `is_issue` (confident learning flags the label)
    detector : the one that ranked them
    budget : rows that a person is willing to look at
    decided : ndarray of bool, one for each row of `issues`: a person has looked at it; None: at none
    min_hit_share : lowest share of errors that makes looking worthwhile, 0..1

    Source
    ------
    ours
    """
    flagged = issues["is_issue"].to_numpy(dtype=bool)
    decided = np.zeros(len(issues), dtype=bool) if decided is None else decided
    rate, n_decided = nearest_rate(depths, flagged.mean()), int(decided.sum())
    hits = _hit_shares(depths, detector=detector, rate=rate)
    worthwhile = round(_worthwhile_share(hits.mean(axis=1), min_hit_share) * len(issues))
    limits = {
        "worth": max(0, worthwhile - n_decided),
        "flags": int((flagged & ~decided).sum()),
        "budget": budget,
    }
    bound = min(limits, key=lambda name: limits[name])
    k = limits[bound]
    errors, recall = _expected(hits, n_rows=len(issues), start=n_decided, end=n_decided + k)
    return Depth(
        k, bound, worthwhile, errors, recall, rate, float(flagged.mean()), n_decided, min_hit_share
    )


def nearest_rate(depths: pd.DataFrame, share: float) -> float:
    """Return the rate of planted errors that is nearest to a share of labels, 0..1."""
    return float(min(sorted(depths["rate"].unique()), key=lambda rate: abs(rate - share)))


def expected_yield(
    depths: pd.DataFrame,
    *,
    detector: str,
    rate: float,
    n_rows: int,
    at: Sequence[int] = (25, 50, 100, 200, 500, 1_000, 2_000),
) -> pd.DataFrame:
    """Return what a person finds who looks at the first rows of a ranking.

    Parameters
    ----------
    depths : `Findings.depths` of the laboratory
    n_rows : length of the ranking
    at : numbers of rows that a person looks at; those beyond the ranking are left out

    Returns
    -------
    DataFrame by rows looked at: `errors` expected among them with `low` and `high`, `recall` (0..1), `minutes` that it takes
    """
    hits = _hit_shares(depths, detector=detector, rate=rate)
    table = {}
    for k in sorted({k for k in at if 0 < k <= n_rows}):
        errors, recall = _expected(hits, n_rows=n_rows, start=0, end=k)
        table[k] = (errors.value, errors.low, errors.high, recall.value, minutes(k))
    columns = ["errors", "low", "high", "recall", "minutes"]
    return pd.DataFrame.from_dict(table, orient="index", columns=columns).rename_axis(
        "rows looked at"
    )


def minutes(n_rows: int) -> int:
    """Return the minutes that looking at rows takes a person."""
    return max(1, round(n_rows * SECONDS_A_ROW / 60))


def summary(depth: Depth) -> str:
    """Say in words what to expect of the queue, and what ends it."""
    one_in, which = (
        f"one error in {1 / depth.min_hit_share:.3g} texts",
        "next" if depth.n_decided else "first",
    )
    beyond = f"looking further than {depth.worthwhile:,} rows finds fewer than {one_in}"
    if depth.k == 0:
        why = {
            "worth": beyond,
            "flags": "confident learning flags none",
            "budget": "the budget (labels.queue_rows) has no room for one",
        }[depth.bound]
        return f"No flagged row is queued: {why}. {_basis(depth)}"
    found = f"{depth.errors.value:.0f} [{depth.errors.low:.0f}, {depth.errors.high:.0f}]"
    ends = {
        "worth": "",
        "flags": "Confident learning flags no more rows; ",
        "budget": "The budget (labels.queue_rows) ends them there; ",
    }[depth.bound]
    return (
        f"Of the {which} {depth.k:,} flags expect about {found} real errors, after which {depth.recall.value:.0%} "
        f"[{depth.recall.low:.0%}, {depth.recall.high:.0%}] of all errors are found; reviewing them takes about {minutes(depth.k)} minutes at "
        f"{SECONDS_A_ROW} s a row. {ends}{beyond if ends else beyond.capitalize()}. {_basis(depth)}"
    )


def _basis(depth: Depth) -> str:
    decided = f" Decided already: {depth.n_decided:,}." if depth.n_decided else ""
    return f"Read off {depth.rate:.0%} of planted errors, the rate nearest to the {depth.flagged_share:.1%} of labels flagged here.{decided}"


def _hit_shares(depths: pd.DataFrame, *, detector: str, rate: float) -> pd.DataFrame:
    """Return errors found up to each depth (index) for each seed (columns), as a share of all rows."""
    seen = depths[(depths["detector"] == detector) & (depths["rate"] == rate)]
    return seen.assign(hits=seen["precision"] * seen["depth"]).pivot(
        index="depth", columns="seed", values="hits"
    )


def _worthwhile_share(hits: pd.Series, min_hit_share: float) -> float:
    """Return the share of the rows beyond which the marginal precision is too low."""
    depth = hits.index.to_numpy()
    widths = np.diff(depth, prepend=0)
    marginal = np.diff(hits.to_numpy(), prepend=0) / widths
    falling = IsotonicRegression(increasing=False).fit_transform(
        np.arange(len(depth)), marginal, sample_weight=widths
    )
    worth = falling >= min_hit_share - 1e-9
    return float(depth[worth][-1]) if worth.any() else 0.0


def _expected(
    hits: pd.DataFrame, *, n_rows: int, start: int, end: int
) -> tuple[Interval, Interval]:
    """Return errors found between two depths, and the share of all that is found by the end, with intervals over seeds."""
    depth = np.r_[0, hits.index.to_numpy()]
    curves = [np.r_[0, hits[seed].to_numpy()] for seed in hits]
    found = np.array([np.interp([start / n_rows, end / n_rows], depth, curve) for curve in curves])
    errors = _over_seeds((found[:, 1] - found[:, 0]) * n_rows, highest=end - start, n=n_rows)
    return errors, _over_seeds(found[:, 1] / [curve[-1] for curve in curves], highest=1, n=n_rows)


def _over_seeds(
    values: np.ndarray, *, highest: float, n: int, confidence: float = 0.95
) -> Interval:
    error = values.std(ddof=1) / np.sqrt(len(values))
    return student_interval(
        values.mean(), error, n_values=len(values), n=n, confidence=confidence, bounds=(0, highest)
    )
