"""The review budget: how many flags to review, and how many of them to expect to be errors.

How many flags are real errors is not known before people have looked: the laboratory knows it of
the errors that it injects, at a rate of its own. The first flags of a queue are therefore drawn at
random from it, and what people decide on them is an estimate for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from lib.evaluation.significance import Interval

# Flags that are drawn at random and reviewed before anything is said of the rest.
PILOT_ROWS = 20
# Of a person's attention; the reviewer shows the person's own.
SECONDS_A_ROW = 15
_PRIOR = 0.5  # Jeffreys' prior of a share: half an error and half a right label


@dataclass(frozen=True)
class ReviewBudget:
    """How many flags a person should review next, and what to expect of them.

    Attributes
    ----------
    k : flags to review
    bound : what limits them: `budget`, `flags` (confident learning flags no further row) or
        `worth` (fewer than `min_hit_share` of them are errors, by the upper end of `share`)
    n_pilot : flags drawn at random that people have decided on, `PILOT_ROWS` at most
    n_errors : those of them that were errors
    share : of errors among flags, 0..1; None until the pilot is reviewed
    errors : expected among the k; None until then
    min_hit_share : lowest share of errors that makes reviewing worthwhile, 0..1
    """

    k: int
    bound: str
    n_pilot: int
    n_errors: int
    share: Interval | None
    errors: Interval | None
    min_hit_share: float

    def describe(self) -> str:
        """Say what to expect of the queue, and what limits it."""
        reasons = {
            "worth": f"fewer than {self.min_hit_share:.0%} of the flags are errors",
            "flags": "confident learning flags no more",
            "budget": "the budget (labels.queue_rows) ends there",
        }
        queued = f"No flag is queued: {reasons[self.bound]}."
        if self.k:
            queued = (
                f"{self.k:,} flags are queued ({reasons[self.bound]}), some {minutes(self.k)} "
                f"minutes at {SECONDS_A_ROW} s each."
            )
        return f"{queued} {self._expectation()}"

    def next_steps(self, n_rows: int) -> dict[str, float]:
        """Return the review of the queue, and of 100 labels of `n_rows` how many it corrects."""
        if not self.k:
            return {}
        step = f"Review the {self.k:,} queued labels. {self._expectation()}"
        known = np.nan if self.errors is None else self.errors.low
        return {step: 100 * known / n_rows}

    def _expectation(self) -> str:
        if self.share is None or self.errors is None:
            n_left = PILOT_ROWS - self.n_pilot
            return (
                "How many are errors is not known before people look: decide on the first "
                f"{n_left}, which are drawn at random, and run this notebook again."
            )
        drawn = f"Of {self.n_pilot} flags drawn at random, {self.n_errors} were errors"
        if not self.n_errors:
            drawn = f"None of {self.n_pilot} flags drawn at random was an error: nothing points to"
            drawn += f" errors, and at most {self.share.high:.0%} of the flags are some"
        if not self.k:
            return f"{drawn}."
        low, high = round(self.errors.low), round(self.errors.high)
        return f"{drawn}: expect {self.errors.value:.0f} [{low}, {high}] in the queue."


def pilot_errors(decisions: pd.DataFrame) -> np.ndarray:
    """Return which of the flags drawn at random were errors.

    Those are the first by fingerprint, as `issues.review_queue` draws them.

    Parameters
    ----------
    decisions : people's decisions on flags, with `fingerprint` and `decision`; `unsure` ones do not
        count

    Returns
    -------
    ndarray of bool of shape (n,), n being `PILOT_ROWS` at most
    """
    sure = decisions[decisions["decision"] != "unsure"]
    drawn = sure.sort_values("fingerprint").head(PILOT_ROWS)
    return drawn["decision"].isin(["relabel", "drop"]).to_numpy()


def choose_budget(
    n_flags: int, decisions: pd.DataFrame, *, max_rows: int, min_hit_share: float = 0.2
) -> ReviewBudget:
    """Return how many flags to review next: at most `max_rows`, and none where it is not worth it.

    Parameters
    ----------
    n_flags : flags without a decision
    decisions : as `pilot_errors` takes them
    max_rows : rows that a person is willing to review
    min_hit_share : lowest share of errors that makes reviewing worthwhile, 0..1
    """
    is_error = pilot_errors(decisions)
    n_pilot = len(is_error)
    n_errors = int(is_error.sum())
    limits = {"flags": n_flags, "budget": max_rows}
    share = None
    if n_pilot == PILOT_ROWS:
        share = share_of_errors(n_errors, n_pilot)
        if share.high < min_hit_share:
            limits["worth"] = 0
    bound = min(limits, key=limits.__getitem__)
    k = limits[bound]
    errors = expected_errors(n_errors, n_pilot, k=k) if share else None
    return ReviewBudget(k, bound, n_pilot, n_errors, share, errors, min_hit_share)


def share_of_errors(n_errors: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Return the share of errors among flags of which n were drawn, by Jeffreys' interval."""
    posterior = stats.beta(n_errors + _PRIOR, n - n_errors + _PRIOR)
    low, high = posterior.interval(confidence)
    return Interval(float(posterior.mean()), float(low), float(high), n, confidence)


def expected_errors(n_errors: int, n: int, *, k: int, confidence: float = 0.95) -> Interval:
    """Return how many errors to expect among k more flags, where n drawn ones had `n_errors`.

    Source
    ------
    The beta-binomial predictive distribution with Jeffreys' prior: Brown, Cai and DasGupta 2001,
    "Interval Estimation for a Binomial Proportion", for the prior.

    Examples
    --------
    >>> str(expected_errors(10, 20, k=100))
    '50.000 [27.000, 73.000]'
    """
    posterior = stats.betabinom(k, n_errors + _PRIOR, n - n_errors + _PRIOR)
    low, high = posterior.interval(confidence)
    return Interval(float(posterior.mean()), float(low), float(high), k, confidence)


def minutes(n_rows: int) -> int:
    """Return the minutes that reviewing rows takes a person."""
    return max(1, round(n_rows * SECONDS_A_ROW / 60))
