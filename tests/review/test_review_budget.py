import numpy as np
import pandas as pd
import pytest

from lib.review import review_budget
from lib.review.review_budget import (
    choose_budget,
    describe,
    expected_yield,
    hits_by_depth,
    nearest_rate,
)

STEPS = [
    (0.05, 1.0),
    (0.10, 0.5),
    (0.50, 0.05),
    (1.00, 0.0),
]  # down to this share of the rows, this share of those passed is wrong


def depths(*, steps=STEPS, factors=(1.0, 1.0), rate=0.1, detector="combined"):
    """Return a table of the laboratory: one seed for each factor that the hits are multiplied
    by."""
    rows = []
    for seed, factor in enumerate(factors):
        ends, marginal = (np.array(each) for each in zip(*steps))
        hits = (np.diff(ends, prepend=0) * marginal).cumsum() * factor
        rows += [
            ("confusable", rate, seed, detector, end, found / end, found / hits[-1])
            for end, found in zip(ends, hits)
        ]
    return pd.DataFrame(
        rows, columns=["kind", "rate", "seed", "detector", "depth", "precision", "recall"]
    )


def issues(n=1_000, *, n_flagged=120):
    return pd.DataFrame({"is_issue": np.arange(n) < n_flagged})


def test_hits_are_counted_in_the_order_of_doubt():
    planted = np.zeros(100, dtype=bool)
    planted[[0, 1, 7, 50]] = True
    table = hits_by_depth(np.linspace(1, 0, 100), planted)
    assert (
        table["depth"].iloc[0] == 0.05
        and table["depth"].iloc[-1] == 1
        and table["depth"].is_monotonic_increasing
    )
    by_rows = table.set_index((table["depth"] * 100).round().astype(int))
    assert by_rows.loc[5, ["precision", "recall"]].tolist() == [2 / 5, 2 / 4]
    assert by_rows.loc[8, ["precision", "recall"]].tolist() == [3 / 8, 3 / 4]
    assert by_rows.loc[100, ["precision", "recall"]].tolist() == [4 / 100, 1]
    assert (
        hits_by_depth(np.linspace(0, 1, 100), planted)["recall"].iloc[0] == 0
    )  # the last rows are the doubtful ones now


def test_hits_of_very_few_rows_have_one_depth():
    assert hits_by_depth(np.array([0.9, 0.1]), np.array([False, True])).to_numpy().tolist() == [
        [1, 0.5, 1]
    ]


def test_looking_ends_where_fewer_than_one_in_five_of_the_next_rows_are_errors():
    found = choose_budget(depths(), issues(), detector="combined", max_rows=200)
    assert (found.k, found.bound, found.worthwhile, found.rate) == (100, "worth", 100, 0.1)
    assert found.errors.value == pytest.approx(50 + 25) and found.recall.value == pytest.approx(
        75 / 95
    )
    assert found.flagged_share == pytest.approx(0.12)


@pytest.mark.parametrize(("share", "worthwhile"), [(0.9, 50), (0.5, 100), (0.05, 500), (0.04, 500)])
def test_the_share_of_errors_that_is_worth_a_look_is_the_callers(share, worthwhile):
    assert (
        choose_budget(
            depths(), issues(), detector="combined", max_rows=200, min_hit_share=share
        ).worthwhile
        == worthwhile
    )


def test_the_budget_and_the_flags_end_the_queue_too():
    short = choose_budget(depths(), issues(), detector="combined", max_rows=60)
    assert (short.k, short.bound, short.worthwhile) == (60, "budget", 100)
    assert short.errors.value == pytest.approx(50 + 5) and short.recall.value == pytest.approx(
        55 / 95
    )
    unflagged = choose_budget(depths(), issues(n_flagged=30), detector="combined", max_rows=60)
    assert (unflagged.k, unflagged.bound, unflagged.errors.value) == (
        30,
        "flags",
        pytest.approx(30),
    )


def test_a_stretch_without_hits_does_not_end_the_queue_if_more_hits_follow():
    bumpy = depths(steps=[(0.05, 0.8), (0.10, 0.0), (0.15, 0.5), (1.0, 0.0)])  # 0 and 0.5 make 0.25
    assert choose_budget(bumpy, issues(), detector="combined", max_rows=500).worthwhile == 150
    assert (
        choose_budget(
            bumpy, issues(), detector="combined", max_rows=500, min_hit_share=0.3
        ).worthwhile
        == 50
    )


def test_decided_rows_are_the_first_of_the_ranking():
    found = choose_budget(
        depths(), issues(), detector="combined", max_rows=200, decided=np.arange(1_000) < 40
    )
    assert (found.k, found.bound, found.n_decided) == (60, "worth", 40)
    assert found.errors.value == pytest.approx(10 + 25) and found.recall.value == pytest.approx(
        75 / 95
    )
    rest = choose_budget(
        depths(), issues(), detector="combined", max_rows=200, decided=np.arange(1_000) < 110
    )
    assert (rest.k, rest.errors.value) == (0, 0)
    open_flags = choose_budget(
        depths(),
        issues(n_flagged=50),
        detector="combined",
        max_rows=200,
        decided=np.arange(1_000) < 40,
    )
    assert (open_flags.k, open_flags.bound) == (10, "flags")


def test_intervals_are_students_over_seeds():
    found = choose_budget(
        depths(factors=(0.8, 1.0, 1.2)), issues(), detector="combined", max_rows=50
    )
    reach = 4.302653 * 10 / np.sqrt(3)
    assert found.errors.value == pytest.approx(50) and found.errors.low == pytest.approx(50 - reach)
    assert found.errors.high == 50  # no more errors than rows
    assert (found.recall.low, found.recall.high) == (pytest.approx(50 / 95), pytest.approx(50 / 95))


def test_the_rate_is_the_nearest_to_the_share_of_flags_and_the_detector_the_one_that_ranked():
    table = pd.concat(
        [
            depths(rate=0.02, steps=[(0.1, 0.0), (1.0, 0.01)]),
            depths(rate=0.1),
            depths(rate=0.1, detector="TF-IDF", steps=[(0.2, 1.0), (1.0, 0.0)]),
        ]
    )
    assert nearest_rate(table, 0.05) == 0.02 and nearest_rate(table, 0.07) == 0.1
    assert (
        choose_budget(table, issues(n_flagged=30), detector="combined", max_rows=200).worthwhile
        == 0
    )
    assert choose_budget(table, issues(), detector="combined", max_rows=200).worthwhile == 100
    assert choose_budget(table, issues(), detector="TF-IDF", max_rows=200).worthwhile == 200


def test_the_outlook_says_what_the_first_rows_bring():
    table = expected_yield(
        depths(), detector="combined", rate=0.1, n_rows=1_000, at=(50, 100, 25, 2_000)
    )
    assert table.index.tolist() == [25, 50, 100]
    assert table["errors"].tolist() == pytest.approx([25, 50, 75]) and table[
        "recall"
    ].tolist() == pytest.approx([25 / 95, 50 / 95, 75 / 95])
    assert table["minutes"].tolist() == [6, 12, 25]


def test_the_description_says_what_to_expect_and_what_ends_the_queue():
    description = choose_budget(depths(), issues(), detector="combined", max_rows=200).describe()
    assert description == (
        "Of the first 100 flags expect about 75 [75, 75] real errors; 79% [79%, 79%] of all errors "
        "are found then. Reviewing them takes about 25 minutes at 15 s a row. Beyond 100 rows "
        "there is fewer than one error in 5 texts. Measured at 10% of injected errors, the rate "
        "nearest to the 12.0% of labels flagged here."
    )
    decided = np.arange(1_000) < 20
    limited = choose_budget(
        depths(), issues(), detector="combined", max_rows=60, decided=decided
    ).describe()
    assert "Of the next 60 flags expect about 45" in limited
    assert "The budget (labels.queue_rows) ends the queue there. Beyond 100 rows" in limited
    assert limited.endswith("Decided already: 20.")
    few_flags = choose_budget(depths(), issues(n_flagged=30), detector="combined", max_rows=60)
    assert "flags no more rows. Beyond" in few_flags.describe()


def test_the_description_says_why_nothing_is_queued():
    worthless = choose_budget(
        depths(),
        issues(),
        detector="combined",
        max_rows=200,
        min_hit_share=1.0,
        decided=np.arange(1_000) < 50,
    )
    assert worthless.describe().startswith(
        "No flagged row is queued: beyond 50 rows there is fewer than one error in 1 texts."
    )
    unflagged = choose_budget(depths(), issues(n_flagged=0), detector="combined", max_rows=200)
    assert unflagged.describe().startswith(
        "No flagged row is queued: confident learning flags none."
    )
    no_room = choose_budget(depths(), issues(), detector="combined", max_rows=0)
    assert "has no room for one" in no_room.describe()
    assert review_budget.minutes(1) == 1


def test_a_budget_without_a_laboratory_says_so():
    assert describe(None, max_rows=1_200) == "Not measured: the queue takes the first 1,200 flags."
    budget = choose_budget(depths(), issues(), detector="combined", max_rows=60)
    assert describe(budget, max_rows=60) == budget.describe()
