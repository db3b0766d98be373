import csv
import getpass
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from lib.errors import WorkbookError
from lib.review.decisions import (
    DECISION_COLUMNS,
    apply_decisions,
    collect_decisions,
    read_decisions,
    save_queue,
)
from lib.review.issues import QUEUE_COLUMNS, review_queue

CLASSES = ["art", "news", "sport"]


@pytest.fixture
def files(tmp_path):
    """Where the queue and the decisions live."""
    return tmp_path / "reports" / "review_queue.csv", tmp_path / "review" / "decisions.csv"


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
        f"'{text}" if text.lstrip("'").startswith((*"=+-@\t",)) else text for text in NASTY
    ]
    assert {row["score"] for row in rows} == {"0.1235"}


def test_any_string_is_a_class_that_can_be_decided_about_and_chosen(files, odd_name):
    rows = ROWS.assign(label=[odd_name, "news", "sport"] * 2, decided=False)
    save_queue(review_queue(rows, ISSUES, [], n_rows=10), files[0])
    (cell,) = {row["label"] for row in read(files[0]) if row["fingerprint"] == "f0"}
    fill(files[0], f0={"decision": "drop"}, f1={"new_label": cell})
    assert collect_decisions(*files, class_names=[odd_name, "news", "sport"]) == 2
    assert collect_decisions(*files, class_names=[odd_name, "news", "sport"]) == 0
    decided = read_decisions(files[1]).set_index("fingerprint")
    assert decided.loc["f0", ["old_label", "new_label"]].tolist() == [odd_name, ""]
    assert decided.loc["f1", ["old_label", "new_label"]].tolist() == ["news", odd_name]
    replay = apply_decisions(rows, read_decisions(files[1]))
    assert replay.rows["label"].tolist() == [odd_name, "sport", odd_name, "news", "sport"]
    assert replay.dropped["fingerprint"].tolist() == ["f0"] and replay.unmatched.empty


@pytest.mark.parametrize("written", ["neg", " neg", "neg ", "neg  "])
def test_blanks_around_a_new_label_need_not_be_right(queued, written):
    fill(queued[0], f1={"new_label": written})
    assert collect_decisions(*queued, class_names=["neg ", "news"]) == 1
    assert read_decisions(queued[1])["new_label"].tolist() == ["neg "]


def test_of_many_labels_that_can_be_chosen_a_line_is_listed(queued):
    fill(queued[0], f1={"new_label": "x" * 300})
    names = [f"class {i} {'y' * 200}" for i in range(150)]
    with pytest.raises(WorkbookError) as caught:
        collect_decisions(*queued, class_names=names)
    message = str(caught.value).removeprefix(str(queued[0]))
    assert message.endswith("'class 1 " + "y" * 30 + "…' and 148 more") and len(message) < 250


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
            r"line 3: decision 'dorp' \(did you mean 'drop'\?\); it is one of keep, relabel, "
            r"drop, unsure",
        ),
        ({"decision": "relabel"}, "line 3: `relabel` needs a new_label"),
        (
            {"new_label": "sports"},
            r"line 3: 'sports' is not a label of the data \(did you mean 'sport'\?\); the labels "
            r"are 'art', 'news', 'sport'",
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


def test_the_replay_names_the_decisions_that_take_a_row_from_its_class_and_counts_the_rest():
    decisions = decided(
        ("f1", "relabel", "art"), ("f3", "keep", ""), ("f3", "drop", ""), ("gone", "drop", "")
    )
    replay = apply_decisions(ROWS, decisions)
    assert replay.class_losses()[["label", "rule"]].to_numpy().tolist() == [
        ["news", "relabel"],
        ["art", "drop"],
    ]
    assert replay.describe(n_new=2) == (
        "2 new decisions; 4 recorded. 2 apply to texts of this data; 1 match no text here (listed "
        "above). 1 rows are dropped by decision."
    )
