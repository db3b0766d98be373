import csv
import getpass
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from lib.errors import WorkbookError
from lib.review import labels
from lib.review.labels import (
    DECISION_COLUMNS,
    QUEUE_COLUMNS,
    apply_decisions,
    collect_decisions,
    rank_label_issues,
    read_decisions,
    review_queue,
    save_queue,
)

CLASSES = ["art", "news", "sport"]


@pytest.fixture
def files(tmp_path):
    """Where the queue and the decisions live."""
    return tmp_path / "reports" / "review_queue.csv", tmp_path / "review" / "decisions.csv"


def planted(flips):
    """30 rows of 3 classes that the model knows well, with some labels changed: {row: (given label, its probability)}."""
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


def test_nothing_to_review_is_an_empty_queue(files):
    queue = review_queue(UNDECIDED, ISSUES.assign(is_issue=False), [], n_rows=10)
    save_queue(queue, files[0])
    assert read(files[0]) == []
    assert collect_decisions(*files, class_names=CLASSES) == 0


def read(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def fill(path, **answers):
    """Answer rows of the queue as a person would: f1={"decision": "drop"}."""
    rows = read(path)
    for row in rows:
        row.update(answers.get(row["fingerprint"], {}))
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, QUEUE_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def queued(files):
    """A saved queue of the texts f4, f1, f5, f0, in this order."""
    save_queue(review_queue(UNDECIDED, ISSUES, [], n_rows=10), files[0])
    return files


NASTY = [
    "=1+1",
    "+49 30",
    "-5",
    "@cmd",
    "\tx",
    '=HYPERLINK("http://a.org", "b")',
    "'=x",
    "'",
    'a, "b"\nc',
    "ä😀",
    "plain",
]


def nasty_queue():
    rows = {
        column: NASTY if column in ("label", "suggestion", "text", "reason") else [""] * len(NASTY)
        for column in QUEUE_COLUMNS
    }
    return pd.DataFrame(rows).assign(
        fingerprint=[f"f{i}" for i in range(len(NASTY))], row_id=range(len(NASTY)), score=0.123456
    )


def test_no_cell_of_a_saved_queue_is_a_formula(files):
    save_queue(nasty_queue(), files[0])
    assert files[0].read_bytes().startswith(b"\xef\xbb\xbf")
    rows = read(files[0])
    assert not [
        cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@", "\t"))
    ]
    assert [row["text"] for row in rows] == [
        f"'{text}" if text[0] in "=+-@\t" else text for text in NASTY
    ]
    assert {row["score"] for row in rows} == {"0.1235"}


def test_a_carriage_return_in_a_text_does_not_break_the_queue(files):
    texts = ["one\rtwo", "\r=1+1", "three"]
    queue = pd.DataFrame(
        [
            [f"f{i}", i, "train", "art", "news", 0.5, "", text, "", "", ""]
            for i, text in enumerate(texts)
        ],
        columns=QUEUE_COLUMNS,
    )
    save_queue(queue, files[0])
    assert collect_decisions(*files, class_names=CLASSES) == 0
    assert [row["text"] for row in read(files[0])] == ["one\rtwo", "'\r=1+1", "three"]


def test_a_queue_of_nasty_cells_comes_back_as_it_was(files):
    keep = [i for i, text in enumerate(NASTY) if text != "'=x"]
    save_queue(nasty_queue().iloc[keep], files[0])
    fill(files[0], **{f"f{i}": {"decision": "keep", "why": NASTY[i]} for i in keep})
    assert collect_decisions(*files, class_names=CLASSES) == len(keep)
    decisions = read_decisions(files[1])
    assert decisions["old_label"].tolist() == [NASTY[i] for i in keep]
    assert decisions["why"].tolist() == [NASTY[i] for i in keep]
    assert not [
        cell
        for row in read(files[1])
        for cell in row.values()
        if cell.startswith(("=", "+", "-", "@", "\t"))
    ]


def test_answers_are_recorded_with_who_and_when(queued, monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "ann")
    before = datetime.now(UTC) - timedelta(seconds=1)
    fill(
        queued[0],
        f4={"decision": " Relabel ", "new_label": " sport ", "why": "about a match"},
        f1={"decision": "drop"},
        f5={"decision": "unsure", "why": "both, really"},
        f0={"decision": "keep"},
    )
    assert collect_decisions(*queued, class_names=CLASSES) == 4
    decisions = read_decisions(queued[1])
    assert decisions.columns.tolist() == DECISION_COLUMNS
    assert decisions.drop(columns=["who", "when"]).to_numpy().tolist() == [
        ["f4", "relabel", "news", "sport", "about a match"],
        ["f1", "drop", "news", "", ""],
        ["f5", "unsure", "sport", "", "both, really"],
        ["f0", "keep", "art", "", ""],
    ]
    assert set(decisions["who"]) == {"ann"}
    assert all(
        before <= datetime.fromisoformat(when) <= datetime.now(UTC) for when in decisions["when"]
    )


def test_a_new_label_alone_means_relabel(queued):
    fill(queued[0], f4={"new_label": "sport"})
    assert collect_decisions(*queued, class_names=CLASSES) == 1
    assert read_decisions(queued[1])[["decision", "new_label"]].to_numpy().tolist() == [
        ["relabel", "sport"]
    ]


def test_the_same_answers_are_recorded_once(queued):
    fill(queued[0], f4={"decision": "drop"}, f1={"new_label": "sport"})
    assert [collect_decisions(*queued, class_names=CLASSES) for _ in range(3)] == [2, 0, 0]
    assert read_decisions(queued[1])["fingerprint"].tolist() == ["f4", "f1"]


def test_later_answers_are_added_after_the_earlier(queued):
    fill(queued[0], f4={"decision": "drop"})
    collect_decisions(*queued, class_names=CLASSES)
    recorded = queued[1].read_text(encoding="utf-8")
    fill(queued[0], f4={"decision": "keep"}, f1={"decision": "drop"})
    assert collect_decisions(*queued, class_names=CLASSES) == 2
    assert queued[1].read_text(encoding="utf-8").startswith(recorded)
    assert read_decisions(queued[1])[["fingerprint", "decision"]].to_numpy().tolist() == [
        ["f4", "drop"],
        ["f4", "keep"],
        ["f1", "drop"],
    ]


def test_a_mind_that_is_changed_twice_counts_twice(queued):
    for decision in ("drop", "keep", "drop"):
        fill(queued[0], f4={"decision": decision})
        assert collect_decisions(*queued, class_names=CLASSES) == 1
    assert read_decisions(queued[1])["decision"].tolist()[-1] == "drop"


def test_two_rows_of_one_text_may_be_answered_apart_and_are_recorded_once(files):
    rows = pd.DataFrame(
        [
            ["f0", i, "train", label, "", 0.5, "", "same", "", "", ""]
            for i, label in enumerate(["art", "news"])
        ],
        columns=QUEUE_COLUMNS,
    )
    save_queue(rows, files[0])
    answered = read(files[0])
    answered[0]["decision"], answered[1]["new_label"] = "keep", "art"
    save_queue(pd.DataFrame(answered), files[0])
    assert [collect_decisions(*files, class_names=CLASSES) for _ in range(2)] == [2, 0]
    assert read_decisions(files[1])[["decision", "old_label", "new_label"]].to_numpy().tolist() == [
        ["keep", "art", ""],
        ["relabel", "news", "art"],
    ]


def test_without_a_queue_or_answers_nothing_is_recorded(queued, tmp_path):
    assert collect_decisions(tmp_path / "none.csv", queued[1], class_names=CLASSES) == 0
    assert collect_decisions(*queued, class_names=CLASSES) == 0
    assert not queued[1].exists()
    assert read_decisions(queued[1]).columns.tolist() == DECISION_COLUMNS


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            {"decision": "dorp"},
            r"line 3: decision 'dorp' \(did you mean 'drop'\?\); it is one of keep, relabel, drop, unsure",
        ),
        ({"decision": "relabel"}, "line 3: `relabel` needs a new_label"),
        (
            {"new_label": "sports"},
            r"line 3: 'sports' is no label of the data \(did you mean 'sport'\?\); there are art, news, sport",
        ),
    ],
)
def test_a_broken_answer_is_named_by_its_line_and_nothing_is_recorded(queued, answer, message):
    fill(queued[0], f4={"decision": "drop"}, f1=answer)
    with pytest.raises(WorkbookError, match=rf"review_queue.csv, {message}"):
        collect_decisions(*queued, class_names=CLASSES)
    assert not queued[1].exists()


def test_a_broken_answer_leaves_what_was_recorded(queued):
    fill(queued[0], f4={"decision": "drop"})
    collect_decisions(*queued, class_names=CLASSES)
    recorded = queued[1].read_bytes()
    fill(queued[0], f1={"decision": "keep"}, f5={"decision": "x"})
    with pytest.raises(WorkbookError, match="line 4: decision 'x'"):
        collect_decisions(*queued, class_names=CLASSES)
    assert queued[1].read_bytes() == recorded


def test_a_row_with_a_cell_too_few_is_named(queued):
    lines = queued[0].read_text(encoding="utf-8").splitlines(keepends=True)
    queued[0].write_text(
        "".join([*lines[:2], lines[2].replace(",", "", 1), *lines[3:]]), encoding="utf-8"
    )
    with pytest.raises(
        WorkbookError, match=r"review_queue.csv, line 3: not 11 cells as in the header"
    ):
        collect_decisions(*queued, class_names=CLASSES)


def test_a_queue_without_its_columns_names_the_first_that_lacks(queued):
    queued[0].write_text(
        queued[0].read_text(encoding="utf-8").replace("new_label", "label2", 1), encoding="utf-8"
    )
    with pytest.raises(
        WorkbookError,
        match=r"review_queue.csv: no column 'new_label'; it needs fingerprint, row_id",
    ):
        collect_decisions(*queued, class_names=CLASSES)


def test_a_broken_line_of_the_recorded_decisions_is_named(tmp_path):
    path = tmp_path / "decisions.csv"
    path.write_text(
        ",".join(DECISION_COLUMNS) + "\nf1,keep,a,,ann,2026,\nf2,kepp,a,,ann,2026,\n",
        encoding="utf-8",
    )
    with pytest.raises(
        WorkbookError, match=r"decisions.csv, line 3: decision 'kepp' \(did you mean 'keep'\?\)"
    ):
        read_decisions(path)


def test_a_queue_that_a_spreadsheet_saved_in_its_own_encoding_is_read(queued):
    fill(queued[0], f4={"decision": "drop", "why": "größer"})
    queued[0].write_bytes(queued[0].read_text(encoding="utf-8-sig").encode("cp1252"))
    collect_decisions(*queued, class_names=CLASSES)
    assert read_decisions(queued[1])["why"].tolist() == ["größer"]


def test_a_user_without_a_name_is_unknown(queued, monkeypatch):
    def nobody():
        raise OSError("no user")

    monkeypatch.setattr(getpass, "getuser", nobody)
    fill(queued[0], f4={"decision": "drop"})
    collect_decisions(*queued, class_names=CLASSES)
    assert read_decisions(queued[1])["who"].tolist() == ["unknown"]


def decided(*rows):
    """Decisions from (fingerprint, decision, new label) about the labels in ROWS."""
    given = ROWS.set_index("fingerprint")["label"]
    return pd.DataFrame(
        [[f, decision, given.get(f, "old"), new, "ann", "2026", ""] for f, decision, new in rows],
        columns=DECISION_COLUMNS,
        dtype=object,
    )


def test_decisions_relabel_drop_and_leave():
    replay = apply_decisions(
        ROWS,
        decided(
            ("f1", "relabel", "art"), ("f3", "drop", ""), ("f4", "keep", ""), ("f5", "unsure", "")
        ),
    )
    assert replay.rows[["fingerprint", "label"]].to_numpy().tolist() == [
        ["f0", "art"],
        ["f1", "art"],
        ["f2", "sport"],
        ["f4", "news"],
        ["f5", "sport"],
    ]
    assert replay.rows.index.tolist() == list(range(5))
    assert replay.rows["decided"].tolist() == [False, True, False, True, True]
    assert replay.dropped[["fingerprint", "label", "row_id"]].to_numpy().tolist() == [
        ["f3", "art", 13]
    ]
    assert replay.applied["fingerprint"].tolist() == ["f1", "f3", "f4", "f5"]
    assert replay.unmatched.empty


def test_the_rows_that_are_given_stay_as_they_were():
    before = ROWS.copy()
    apply_decisions(ROWS, decided(("f1", "relabel", "art"), ("f3", "drop", "")))
    pd.testing.assert_frame_equal(ROWS, before)


@pytest.mark.parametrize(
    ("history", "label"),
    [
        ([("drop", ""), ("relabel", "sport")], "sport"),
        ([("relabel", "sport"), ("relabel", "art")], "art"),
        ([("relabel", "sport"), ("keep", "")], "news"),
        ([("relabel", "sport"), ("drop", "")], None),
    ],
)
def test_the_last_decision_on_a_text_counts(history, label):
    replay = apply_decisions(ROWS, decided(*[("f1", *one) for one in history]))
    assert replay.rows.loc[replay.rows["fingerprint"] == "f1", "label"].tolist() == (
        [label] if label else []
    )
    assert replay.dropped["fingerprint"].tolist() == ([] if label else ["f1"])
    assert replay.applied["decision"].tolist() == [history[-1][0]]


def test_one_text_under_two_labels_is_decided_row_by_row():
    twice = pd.concat([ROWS, ROWS.assign(label="sport")], ignore_index=True)
    decisions = decided(("f1", "relabel", "sport"), ("f3", "drop", ""))
    keep = pd.DataFrame(
        [["f1", "keep", "sport", "", "ann", "2026", ""]], columns=DECISION_COLUMNS, dtype=object
    )
    replay = apply_decisions(twice, pd.concat([decisions, keep]))
    assert replay.rows.loc[replay.rows["fingerprint"] == "f1", "label"].tolist() == [
        "sport",
        "sport",
    ]
    assert replay.dropped[["fingerprint", "label"]].to_numpy().tolist() == [["f3", "art"]]


def test_a_decision_about_a_label_that_the_source_has_changed_is_listed():
    replay = apply_decisions(ROWS.assign(label="news"), decided(("f0", "relabel", "sport")))
    assert replay.unmatched["fingerprint"].tolist() == ["f0"]
    assert replay.rows["label"].tolist() == ["news"] * 6


def test_decisions_on_texts_that_are_gone_are_listed():
    replay = apply_decisions(
        ROWS, decided(("gone", "relabel", "art"), ("f1", "drop", ""), ("gone", "drop", ""))
    )
    assert replay.unmatched[["fingerprint", "decision"]].to_numpy().tolist() == [["gone", "drop"]]
    assert replay.applied["fingerprint"].tolist() == ["f1"]
    assert len(replay.rows) == 5


def test_decisions_survive_another_order_of_the_rows():
    decisions = decided(("f1", "relabel", "art"), ("f3", "drop", ""), ("f5", "relabel", "news"))
    turned = apply_decisions(ROWS.iloc[[5, 3, 0, 1, 4, 2]].assign(row_id=range(6)), decisions)
    straight = apply_decisions(ROWS, decisions)
    assert (
        turned.rows.set_index("fingerprint")["label"].to_dict()
        == straight.rows.set_index("fingerprint")["label"].to_dict()
    )
    assert turned.rows["fingerprint"].tolist() == ["f5", "f0", "f1", "f4", "f2"]
    assert turned.dropped["fingerprint"].tolist() == ["f3"]


def test_without_decisions_nothing_changes(tmp_path):
    replay = apply_decisions(ROWS, read_decisions(tmp_path / "none.csv"))
    pd.testing.assert_frame_equal(replay.rows, UNDECIDED)
    assert (len(replay.dropped), len(replay.applied), len(replay.unmatched)) == (0, 0, 0)


# --- planted noise ---


def test_planted_noise_changes_as_many_labels_as_it_says_and_each_of_them():
    clean = np.arange(1_000) % 4
    noisy, planted = labels.inject_label_noise(clean, rate=0.1, n_classes=4, seed=3)
    assert planted.sum() == 100
    assert (noisy[planted] != clean[planted]).all() and (noisy[~planted] == clean[~planted]).all()
    assert np.array_equal(labels.inject_label_noise(clean, rate=0.1, n_classes=4, seed=3)[0], noisy)
    assert not np.array_equal(
        labels.inject_label_noise(clean, rate=0.1, n_classes=4, seed=4)[1], planted
    )
    assert clean.tolist() == [0, 1, 2, 3] * 250


def test_planted_noise_goes_where_the_confusion_says_and_else_anywhere():
    clean = np.zeros(4_000, dtype=int)
    confusion = np.array([[0, 0.8, 0.2], [1, 0, 0], [0.5, 0.5, 0]])
    noisy, _ = labels.inject_label_noise(clean, rate=0.5, n_classes=3, confusion=confusion)
    assert (noisy == 1).sum() / 2_000 == pytest.approx(0.8, abs=0.04)
    noisy, _ = labels.inject_label_noise(clean, rate=0.5, n_classes=3)
    assert (noisy == 1).sum() / 2_000 == pytest.approx(0.5, abs=0.05)
    assert set(
        labels.inject_label_noise(np.full(500, 2), rate=1.0, n_classes=3, confusion=confusion)[0]
    ) == {0, 1}


def test_one_label_at_least_is_made_wrong():
    assert labels.inject_label_noise(np.zeros(10, dtype=int), rate=0.001, n_classes=2)[1].sum() == 1


def test_confusion_rates_are_shares_of_the_other_classes():
    probs = np.array([[0.6, 0.3, 0.1], [0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.0, 0.0, 1.0]])
    rates = labels.confusion_rates(np.array([0, 0, 1, 2]), probs)
    np.testing.assert_allclose(rates, [[0, 2 / 3, 1 / 3], [0.4, 0, 0.6], [0.5, 0.5, 0]], atol=1e-6)
    np.testing.assert_allclose(
        labels.confusion_rates(np.zeros(4, dtype=int), probs)[1:], [[0.5, 0, 0.5], [0.5, 0.5, 0]]
    )
