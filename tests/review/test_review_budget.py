import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.review.issues import DRAWN, review_queue
from lib.review.review_budget import (
    PILOT_ROWS,
    choose_budget,
    expected_errors,
    minutes,
    pilot_errors,
    share_of_errors,
)


def decided(n_errors, n_right, n_unsure=0):
    decisions = ["drop", "relabel"] * n_errors + ["keep"] * n_right + ["unsure"] * n_unsure
    decisions = decisions[n_errors:]
    fingerprints = [f"{i:03}" for i in range(len(decisions))]
    return pd.DataFrame({"fingerprint": fingerprints, "decision": decisions})


def queue_of(is_error, seed):
    """Return rows and their ranking, the first the worst; fingerprints are random."""
    n = len(is_error)
    fingerprints = np.random.default_rng(seed).permutation(n)
    rows = pd.DataFrame(
        {
            "row_id": range(n),
            "fingerprint": [f"{number:05}" for number in fingerprints],
            "split": "train",
            "label": np.where(is_error, "wrong", "right"),
            "text": "a text",
            "decided": False,
        }
    )
    ranking = pd.DataFrame(
        {
            "row_id": range(n),
            "score": np.linspace(1, 0, n),
            "suggestion": "right",
            "is_issue": True,
        }
    )
    return rows, ranking


@pytest.mark.parametrize("n_wrong", [0, 2, 10, 40, 100, 180, 200])
def test_the_interval_holds_what_is_found_in_the_rest_of_the_queue(n_wrong):
    """Errors crowd at the top of a ranking: the worst case for whoever looks at the top alone."""
    is_error = np.arange(300) < n_wrong
    held = []
    for seed in range(60):
        rows, ranking = queue_of(is_error, seed)
        queue = review_queue(rows, ranking, [], n_rows=200, n_drawn=PILOT_ROWS)
        wrong = queue["label"].eq("wrong").to_numpy()
        decision = np.where(wrong, "drop", "keep")
        decisions = queue.assign(decision=decision).head(PILOT_ROWS)
        budget = choose_budget(180, decisions, max_rows=180, min_hit_share=1e-9)
        assert budget.k == 180
        held.append(budget.errors.low <= wrong[PILOT_ROWS:].sum() <= budget.errors.high)
    assert np.mean(held) >= 0.9


def test_the_pilot_is_drawn_from_the_queue_alone_and_comes_first():
    rows, ranking = queue_of(np.zeros(100, dtype=bool), 3)
    queue = review_queue(rows, ranking, [5], n_rows=51, n_drawn=PILOT_ROWS)
    assert queue["row_id"].iloc[0] == 5  # the conflict
    pilot = queue[queue["reason"] == DRAWN]
    assert pilot.index.tolist() == list(range(1, 21))
    assert pilot["row_id"].max() <= 50
    in_queue = rows[rows["row_id"].isin(range(51)) & (rows["row_id"] != 5)]
    assert pilot["fingerprint"].tolist() == sorted(in_queue["fingerprint"])[:20]
    assert queue["row_id"].iloc[21:].is_monotonic_increasing  # then the worst first


def test_the_pilot_is_the_first_twenty_sure_decisions_by_fingerprint():
    decisions = decided(3, 30, n_unsure=2)
    shuffled = decisions.sample(frac=1, random_state=1)
    assert pilot_errors(shuffled).tolist() == [True] * 3 + [False] * 17
    assert pilot_errors(decided(0, 4, n_unsure=5)).tolist() == [False] * 4


def test_nothing_is_promised_before_people_have_looked():
    budget = choose_budget(300, decided(3, 9), max_rows=200)
    assert (budget.k, budget.bound, budget.share, budget.errors) == (200, "budget", None, None)
    assert budget.describe() == (
        "200 flags are queued (the budget (labels.queue_rows) ends there), some 50 minutes at 15 s "
        "each. How many are errors is not known before people look: decide on the first 8, which "
        "are drawn at random, and run this notebook again."
    )


def test_after_the_pilot_the_rest_is_estimated_by_it():
    budget = choose_budget(100, decided(10, 10), max_rows=200)
    assert (budget.k, budget.bound) == (100, "flags")
    assert budget.describe() == (
        "100 flags are queued (confident learning flags no more), some 25 minutes at 15 s each. Of "
        "20 flags drawn at random, 10 were errors: expect 50 [27, 73] in the queue."
    )


def test_the_review_is_a_step_that_wins_what_is_surely_wrong():
    unknown = choose_budget(300, decided(3, 9), max_rows=200).next_steps(1_000)
    [(step, points)] = unknown.items()
    assert step.startswith("Review the 200 queued labels. How many are errors is not known before")
    assert np.isnan(points)
    known = choose_budget(100, decided(10, 10), max_rows=200).next_steps(1_000)
    assert list(known.values()) == [pytest.approx(100 * 27 / 1_000, abs=0.05)]
    assert choose_budget(0, decided(0, 0), max_rows=9).next_steps(1_000) == {}


def test_a_pilot_without_an_error_says_that_nothing_points_to_any_and_ends_the_queue():
    budget = choose_budget(100, decided(0, 20), max_rows=200)
    high = stats.beta(0.5, 20.5).ppf(0.975)
    assert (budget.k, budget.bound) == (0, "worth")
    assert budget.describe() == (
        "No flag is queued: fewer than 20% of the flags are errors. None of 20 flags drawn at "
        f"random was an error: nothing points to errors, and at most {high:.0%} of the flags are "
        "some."
    )
    goes_on = choose_budget(100, decided(0, 20), max_rows=200, min_hit_share=0.1)
    assert (goes_on.k, goes_on.bound) == (100, "flags")


def test_without_flags_or_room_nothing_is_queued():
    assert (
        choose_budget(0, decided(0, 0), max_rows=9)
        .describe()
        .startswith("No flag is queued: confident learning flags no more.")
    )
    assert choose_budget(9, decided(0, 0), max_rows=0).bound == "budget"


def test_an_interval_never_has_no_width():
    for n_errors in (0, 7, 20):
        share = share_of_errors(n_errors, 20)
        errors = expected_errors(n_errors, 20, k=50)
        assert 0 < share.high - share.low < 0.5
        assert errors.high - errors.low >= 3


def test_minutes_are_at_least_one():
    assert (minutes(1), minutes(200)) == (1, 50)
