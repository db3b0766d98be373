import numpy as np
import pandas as pd
import pytest

from lib.review.issues import (
    QUEUE_COLUMNS,
    describe,
    describe_queue,
    inject_label_noise,
    rank_by_split,
    rank_label_issues,
    review_queue,
)

CLASSES = ["art", "news", "sport"]


def planted(flips):
    """30 rows of 3 classes that the model knows well, with some labels changed: {row: (given label,
    its probability)}."""
    truth = np.arange(30) % 3
    probs = np.full((30, 3), 0.05)
    probs[np.arange(30), truth] = 0.9
    labels = [CLASSES[code] for code in truth]
    for row, (label, p) in flips.items():
        labels[row] = label
        probs[row] = (1 - p) * 0.02
        probs[row, CLASSES.index(label)] = p
        probs[row, truth[row]] = (1 - p) * 0.98
    return labels, probs / probs.sum(axis=1, keepdims=True)


FLIPS = {4: ("art", 0.02), 9: ("sport", 0.01), 20: ("news", 0.03)}


@pytest.mark.parametrize(
    "method", ["self_confidence", "normalized_margin", "confidence_weighted_entropy"]
)
def test_planted_flips_are_ranked_first_and_flagged(method):
    labels, probs = planted(FLIPS)
    issues = rank_label_issues(labels, probs, class_names=CLASSES, method=method)
    assert issues["row"].tolist()[:3] == [9, 4, 20]
    assert issues["suggestion"].tolist()[:3] == ["art", "news", "sport"]
    assert issues["is_issue"].tolist() == [True] * 3 + [False] * 27
    assert sorted(issues["row"]) == list(range(30))
    assert issues["score"].is_monotonic_decreasing


def test_the_score_is_one_less_the_probability_of_the_label():
    labels, probs = planted(FLIPS)
    issues = rank_label_issues(labels, probs, class_names=CLASSES)
    given = probs[np.arange(30), [CLASSES.index(label) for label in labels]]
    assert issues["score"].tolist() == pytest.approx((1 - given)[issues["row"]].tolist())


def test_the_score_of_the_margin_is_the_distance_to_the_likeliest_other_class():
    labels, probs = planted(FLIPS)
    worst = rank_label_issues(labels, probs, class_names=CLASSES, method="normalized_margin").iloc[
        0
    ]
    assert worst["score"] == pytest.approx(1 - (probs[9, 2] - probs[9, 0] + 1) / 2)


def test_equal_scores_stay_in_the_order_of_the_rows():
    labels, probs = planted({})
    issues = rank_label_issues(labels, probs, class_names=CLASSES)
    assert issues["row"].tolist() == list(range(30))
    assert not issues["is_issue"].any()


def test_the_columns_of_probs_follow_the_class_names():
    labels, probs = planted(FLIPS)
    turned = rank_label_issues(labels, probs[:, ::-1], class_names=CLASSES[::-1])
    pd.testing.assert_frame_equal(turned, rank_label_issues(labels, probs, class_names=CLASSES))


def test_a_label_outside_the_class_names_is_named():
    labels, probs = planted({})
    labels[7] = "Sport"
    with pytest.raises(ValueError, match="row 7 has 'Sport'"):
        rank_label_issues(labels, probs, class_names=CLASSES)


ROWS = pd.DataFrame(
    {
        "fingerprint": [f"f{i}" for i in range(6)],
        "row_id": [10, 11, 12, 13, 14, 15],
        "split": ["train", "val", "train", "test", "train", "val"],
        "label": ["art", "news", "sport", "art", "news", "sport"],
        "text": [f"text {i}" for i in range(6)],
    }
)


UNDECIDED = ROWS.assign(decided=False)


ISSUES = pd.DataFrame(
    {
        "row_id": [11, 10, 14, 12, 15],
        "score": [0.9, 0.8, 0.95, 0.2, 0.85],
        "suggestion": ["sport", "news", "art", "sport", "art"],
        "is_issue": [True, True, True, False, True],
    }
)


def test_the_queue_has_conflicts_first_then_flags_worst_first():
    queue = review_queue(UNDECIDED, ISSUES, [15, 13], n_rows=10)
    assert queue["row_id"].tolist() == [13, 15, 14, 11, 10]
    assert (
        queue["reason"].tolist()
        == ["same text, several labels"] * 2 + ["the detectors contradict the label"] * 3
    )
    assert queue.columns.tolist() == QUEUE_COLUMNS
    assert queue[["decision", "new_label", "why"]].eq("").all(axis=None)
    row = queue.loc[2]
    assert (
        row["fingerprint"],
        row["split"],
        row["label"],
        row["suggestion"],
        row["score"],
        row["text"],
    ) == ("f4", "train", "news", "art", 0.95, "text 4")


@pytest.mark.parametrize(("n_rows", "expected"), [(1, [14]), (2, [14, 11]), (10, [14, 11, 15, 10])])
def test_the_queue_is_cut_after_the_worst(n_rows, expected):
    assert review_queue(UNDECIDED, ISSUES, [], n_rows=n_rows)["row_id"].tolist() == expected


@pytest.mark.parametrize(("n_rows", "expected"), [(1, [12, 13]), (2, [12, 13]), (3, [12, 13, 14])])
def test_conflicts_are_queued_beyond_the_length_too(n_rows, expected):
    assert review_queue(UNDECIDED, ISSUES, [12, 13], n_rows=n_rows)["row_id"].tolist() == expected


def test_texts_that_have_a_decision_are_not_queued_again():
    rows = ROWS.assign(decided=ROWS["fingerprint"].isin(["f4", "f5"]))
    assert review_queue(rows, ISSUES, [13, 15], n_rows=10)["row_id"].tolist() == [13, 11, 10]


def test_planted_noise_changes_as_many_labels_as_it_says_and_each_of_them():
    clean = np.arange(1_000) % 4
    noisy, planted = inject_label_noise(clean, rate=0.1, n_classes=4, seed=3)
    assert planted.sum() == 100
    assert (noisy[planted] != clean[planted]).all() and (noisy[~planted] == clean[~planted]).all()
    assert np.array_equal(inject_label_noise(clean, rate=0.1, n_classes=4, seed=3)[0], noisy)
    assert not np.array_equal(inject_label_noise(clean, rate=0.1, n_classes=4, seed=4)[1], planted)
    assert clean.tolist() == [0, 1, 2, 3] * 250


def test_planted_noise_goes_where_a_model_is_in_doubt_and_to_what_it_thinks():
    clean = np.zeros(4_000, dtype=int)
    in_doubt = np.arange(4_000) < 2_000
    probs = np.where(in_doubt[:, None], [[0.1, 0.72, 0.18]], [[0.9, 0.08, 0.02]])
    noisy, is_wrong = inject_label_noise(clean, rate=0.1, n_classes=3, probs=probs)
    assert is_wrong[in_doubt].sum() / 400 == pytest.approx(0.9, abs=0.04)
    assert (noisy == 1).sum() / 400 == pytest.approx(0.8, abs=0.05)


def test_a_small_class_that_a_model_cannot_see_keeps_most_of_its_labels():
    clean = np.repeat([0, 1], [900, 100])
    probs = np.tile([0.95, 0.05], (1_000, 1))
    _, is_wrong = inject_label_noise(clean, rate=0.2, n_classes=2, probs=probs)
    assert is_wrong[900:].sum() == pytest.approx(20, abs=10)


def test_planted_noise_goes_anywhere_without_a_model():
    clean = np.zeros(4_000, dtype=int)
    noisy, is_wrong = inject_label_noise(clean, rate=0.5, n_classes=3)
    assert is_wrong[:2_000].sum() / 2_000 == pytest.approx(0.5, abs=0.05)
    assert (noisy == 1).sum() / 2_000 == pytest.approx(0.5, abs=0.05)


def test_one_label_at_least_is_made_wrong():
    assert inject_label_noise(np.zeros(10, dtype=int), rate=0.001, n_classes=2)[1].sum() == 1


def test_rows_are_ranked_over_all_splits_with_thresholds_of_their_own():
    table = pd.DataFrame({"label": list("ab") * 40, "split": ["train", "train", "val", "val"] * 20})
    table = table.assign(row_id=100 + table.index)
    given = (table["label"] == "b").to_numpy().astype(int)
    sure = np.where(
        table["split"] == "train", 0.95, 0.6
    )  # validation rows are judged by a less certain model
    trained, held_out = (
        int(np.flatnonzero(table["split"] == split)[7]) for split in ("train", "val")
    )
    right = np.where(np.isin(np.arange(80), (trained, held_out)), 0.3, sure)
    probs = np.where(np.arange(2) == given[:, None], right[:, None], 1 - right[:, None])
    issues = rank_by_split(table, probs, class_names=["a", "b"])
    assert issues.columns.tolist() == ["row_id", "score", "suggestion", "is_issue"]
    assert (
        sorted(issues["row_id"]) == table["row_id"].tolist()
        and issues["score"].is_monotonic_decreasing
    )
    assert issues["row_id"].head(2).tolist() == [100 + trained, 100 + held_out]
    assert issues.loc[issues["is_issue"], "row_id"].tolist() == [
        100 + held_out
    ]  # 0.7 for the other label is much among validation rows alone
    first = issues.iloc[0]
    assert first["score"] == pytest.approx(0.7) and first["suggestion"] == (
        "a" if given[trained] else "b"
    )


def test_the_descriptions_count_flags_and_conflicts():
    assert describe(ISSUES, detector="topics") == (
        "4 of 5 labels look wrong (confident learning on the detector 'topics')."
    )
    assert describe_queue(review_queue(UNDECIDED, ISSUES, [15, 13], n_rows=10)) == (
        "5 rows are queued in review_queue.csv next to this page: 2 in label conflicts and 3 with "
        "a flagged label."
    )
