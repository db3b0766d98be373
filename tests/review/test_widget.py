"""The label reviewer, driven without a browser: what each button and key leaves on disk, and what a
page shows of it."""

import csv
import getpass
import html
from html.parser import HTMLParser

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

from lib.delivery import kernels, pages
from lib.errors import WorkbookError
from lib.review import widget
from lib.review.decisions import DECISION_COLUMNS, read_decisions, record_decisions
from lib.review.issues import QUEUE_COLUMNS

CLASSES = ["art", "news", "sport"]
VIEW = "application/vnd.jupyter.widget-view+json"


def queue_of(*texts, labels=None, suggestion="news", score=0.9):
    labels = labels or ["art"] * len(texts)
    rows = [
        [f"f{i}", 10 + i, "train", label, suggestion, score, "why not", text, "", "", ""]
        for i, (text, label) in enumerate(zip(texts, labels))
    ]
    return pd.DataFrame(rows, columns=QUEUE_COLUMNS)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "review" / "decisions.csv"


@pytest.fixture
def open_review(path):
    """Open a review of three rows (or of another queue) on the one file."""

    def opened(queue=None, **words):
        found = widget.review(
            queue_of("one", "two", "three") if queue is None else queue,
            decisions_path=path,
            class_names=words.pop("class_names", CLASSES),
            **words,
        )
        assert found.panel
        return found

    return opened


def press(found, *actions):
    for action in actions:
        found.buttons[action].click()


def key(found, pressed, *, row=None):
    found._keys._handle_custom_msg(
        {"key": pressed, "row": found.position if row is None else row}, []
    )


def on_disk(path):
    return (
        read_decisions(path)[["fingerprint", "decision", "old_label", "new_label"]]
        .to_numpy()
        .tolist()
    )


def shown(found):
    """All HTML of the widget, joined."""
    return " ".join(child.value for child in found.panel.children if hasattr(child, "value"))


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.words += data


def words(found):
    return Tags(shown(found)).words


def test_each_button_appends_its_decision_at_once_and_shows_the_next_row(
    open_review, path, monkeypatch
):
    monkeypatch.setattr(getpass, "getuser", lambda: "ann")
    found = open_review(queue_of("one", "two", "three", "four"))
    lines = []
    for action, new_label in (("keep", ""), ("relabel", "news"), ("drop", ""), ("unsure", "")):
        lines.append([f"f{len(lines)}", action, "art", new_label])
        press(found, action)
        assert on_disk(path) == lines
    assert "last row; run this notebook again" in shown(found)
    assert set(read_decisions(path)["who"]) == {"ann"}


@pytest.mark.parametrize(
    ("pressed", "decision"), [("k", "keep"), ("r", "relabel"), ("d", "drop"), ("u", "unsure")]
)
def test_keys_decide(open_review, path, pressed, decision):
    found = open_review()
    key(found, pressed)
    assert on_disk(path) == [["f0", decision, "art", "news" if decision == "relabel" else ""]]
    assert found.position == 1


def test_any_string_is_a_class_that_can_be_chosen(open_review, path, odd_name):
    labels = ["art", odd_name, "art"]
    queue = queue_of("one", "two", "three", labels=labels, suggestion=odd_name)
    found = open_review(queue, class_names=["art", odd_name])
    press(found, "relabel", "keep")
    assert on_disk(path) == [["f0", "relabel", "art", odd_name], ["f1", "keep", odd_name, ""]]
    found._choice.value = odd_name
    press(found, "relabel", "undo")
    assert len(on_disk(path)) == 2


def test_keys_move_and_undo(open_review, path):
    found = open_review()
    positions = []
    for pressed in (
        "ArrowRight",
        "ArrowRight",
        "ArrowRight",
        "ArrowLeft",
        "d",
        "z",
        "ArrowLeft",
        "ArrowLeft",
    ):
        key(found, pressed)
        positions.append(found.position)
    assert positions == [1, 2, 2, 1, 2, 1, 0, 0]
    assert on_disk(path) == []


def test_a_key_that_is_unknown_or_was_pressed_at_a_row_that_is_gone_does_nothing(open_review, path):
    found = open_review()
    key(found, "k")
    key(found, "d", row=0)
    key(found, "x")
    found._keys._handle_custom_msg({}, [])
    assert on_disk(path) == [["f0", "keep", "art", ""]]
    assert (found.position, found._keys.row) == (1, 1)


def test_relabel_takes_the_chosen_label_and_starts_at_the_suggestion(open_review, path):
    found = open_review()
    assert found._choice.value == "news"
    found._choice.value = "sport"
    press(found, "relabel")
    assert on_disk(path) == [["f0", "relabel", "art", "sport"]]
    assert found._choice.value == "news"


@pytest.mark.parametrize(
    ("suggestion", "message"),
    [
        (float("nan"), "Choose another label first"),
        ("gone", "Choose another"),
        ("art", "Choose another"),
    ],
)
def test_relabel_without_a_choice_records_nothing(open_review, path, suggestion, message):
    found = open_review(queue_of("one", suggestion=suggestion, score=float("nan")))
    press(found, "relabel")
    assert message in shown(found)
    assert "nan" not in shown(found)
    found._choice.value = "art"
    press(found, "relabel")
    assert "It has this label already" in shown(found)
    assert not path.exists()


def test_why_is_recorded_and_cleared_for_the_next_row(open_review, path):
    found = open_review()
    found._why.value = "  a\x00b\ud800c\nd "
    press(found, "drop")
    assert read_decisions(path)["why"].tolist() == ["a b c d"]
    assert found._why.value == ""


def test_why_stays_where_nothing_was_recorded(open_review, path):
    found = open_review()
    found._why.value = "because"
    path.parent.mkdir()
    path.write_text("broken", encoding="utf-8")
    press(found, "keep")
    assert (found._why.value, found.position, path.read_text(encoding="utf-8")) == (
        "because",
        0,
        "broken",
    )
    assert "Nothing was recorded. " in shown(
        found
    ) and "no column &#x27;fingerprint&#x27;" in shown(found)


def test_deciding_twice_about_a_row_appends_a_second_line(open_review, path):
    found = open_review()
    press(found, "drop", "previous")
    assert "decided: drop" in words(found)
    press(found, "keep")
    assert on_disk(path) == [["f0", "drop", "art", ""], ["f0", "keep", "art", ""]]
    press(found, "previous")
    assert "decided: keep" in words(found)


def test_undo_takes_back_one_line_after_the_other_and_returns_to_the_row(open_review, path):
    record_decisions(path, [("before", "keep", "art", "", "=1")])
    before = path.read_bytes()
    found = open_review()
    press(found, "keep", "relabel", "previous", "previous", "undo")
    assert (found.position, on_disk(path)[1:]) == (1, [["f0", "keep", "art", ""]])
    press(found, "undo")
    assert (found.position, path.read_bytes()) == (0, before)
    press(found, "undo")
    assert "Nothing was decided in this session yet" in shown(found)
    assert path.read_bytes() == before


@pytest.mark.parametrize("why", ["=1+1", "'=x", "'", 'a "b", c', "-", "plain"])
def test_a_decision_with_any_why_can_be_taken_back(open_review, path, why):
    found = open_review()
    found._why.value = why
    press(found, "keep", "undo")
    assert on_disk(path) == []


def test_two_people_on_one_file_lose_no_line_and_undo_no_line_of_each_other(open_review, path):
    ann, ben = open_review(), open_review()
    press(ann, "keep")
    press(ben, "next", "drop")
    press(ann, "undo")
    assert on_disk(path) == [["f0", "keep", "art", ""], ["f1", "drop", "art", ""]]
    assert "Somebody else has decided since" in shown(ann)
    assert ann.position == 1
    press(ben, "undo")
    press(ann, "undo")
    assert (on_disk(path), ann.position) == ([], 0)


def test_a_decision_of_another_person_is_seen_after_the_next_one(open_review):
    ann, ben = open_review(), open_review()
    press(ben, "next", "drop")
    press(ann, "keep")
    assert "2 of 3, 2 decided" in shown(ann)


def test_a_review_goes_on_at_the_first_row_without_a_decision(open_review):
    press(open_review(), "keep", "unsure")
    assert open_review().position == 2


def test_one_text_under_two_labels_is_decided_row_by_row(open_review, path):
    found = open_review(queue_of("same", "same", labels=["art", "sport"]).assign(fingerprint="f"))
    press(found, "keep")
    assert "2 of 2, 1 decided" in shown(found)
    press(found, "drop")
    assert on_disk(path) == [["f", "keep", "art", ""], ["f", "drop", "sport", ""]]


def test_progress_gives_the_median_seconds_and_the_minutes_left(path):
    ticks = iter([0, 0, 10, 10, 40, 40, 1040, 1040])
    found = widget.Reviewer(
        queue_of(*"abcdefghi"),
        decisions_path=path,
        class_names=CLASSES,
        neighbours={},
        clock=lambda: next(ticks),
    )
    assert found.progress() == "1 of 9, 0 decided"
    found.move(0)
    for _ in range(3):
        found.decide("keep")
    assert found.progress() == "4 of 9, 3 decided; 30 s a row, about 3 min left"


HOSTILE = [
    "<script>alert(1)</script>",
    "=cmd()|' /C calc'!A0",
    "a \ud800 b",
    "\u202egnirts\u2066",
    "</div><img src=x onerror=alert(1)>",
    "a &lt; b\n  c",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_labels_and_neighbours_are_shown_as_text(open_review, text):
    queue = queue_of(text, labels=[text], suggestion=text)
    plain = shown(open_review(queue_of("x"), neighbours={10: [("y", "art")]}))
    found = open_review(
        queue.assign(reason=text), neighbours={10: [(text, text)]}, class_names=["art", text]
    )
    assert Tags(shown(found)).tags == [*Tags(plain).tags]
    assert words(found).count(text.replace("\ud800", "\ufffd")) == 6
    shown(found).encode("utf-8")


def test_no_cell_of_the_file_is_a_formula(open_review, path):
    found = open_review(
        queue_of("x", labels=["=1+1"], suggestion="@sum"), class_names=["=1+1", "@sum"]
    )
    found._why.value = "-2"
    press(found, "relabel")
    with path.open(encoding="utf-8", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t"))]
    assert on_disk(path) == [["f0", "relabel", "=1+1", "@sum"]]


def test_class_names_with_html_are_options_as_they_are(open_review):
    found = open_review(queue_of("x", suggestion="<b>bold</b>"), class_names=["art", "<b>bold</b>"])
    assert found._choice.options == ("art", "<b>bold</b>")
    assert "<b>bold</b>" not in shown(found) and html.escape("<b>bold</b>") in shown(found)


def test_three_neighbours_are_shown_nearest_first(open_review):
    near = [("near", "art"), ("next", "sport"), ("third", "art"), ("fourth", "art")]
    found = open_review(neighbours={10: near, 11: [("other", "news")]})
    assert "Nearest texts:nearlabelled artnextlabelled sportthirdlabelled art" in words(found)
    assert "fourth" not in words(found) and "other" not in words(found)
    press(found, "next", "next")
    assert "Nearest" not in words(found)


def test_the_legend_names_each_key():
    arrows = {"ArrowLeft": "left arrow", "ArrowRight": "right arrow"}
    for key_name, action in widget.KEYS.items():
        assert f"<kbd>{arrows.get(key_name, key_name)}</kbd> {action}" in widget.LEGEND


def test_the_frame_has_its_script_and_its_style(open_review):
    keys = open_review()._keys
    assert "export default" in keys._esm
    assert ".label-reviewer {" in keys._css


def test_an_empty_queue_is_a_sentence(path):
    found = widget.review(queue_of(), decisions_path=path, class_names=CLASSES)
    bundle = found._repr_mimebundle_()
    assert [child.value for child in found.panel.children] == [
        "<p>Nothing is queued for review.</p>"
    ]
    assert (bundle["text/plain"], bundle["text/html"]) == (
        "Nothing is queued for review.",
        "<p>Nothing is queued for review.</p>",
    )
    assert not path.exists()


def test_a_broken_line_of_the_decisions_is_named_and_nothing_changes(open_review, path):
    found = open_review()
    press(found, "keep")
    path.write_text(path.read_text(encoding="utf-8") + "f9,kepp,a,,ann,2026,\n", encoding="utf-8")
    before = path.read_bytes()
    message = r"decisions.csv, line 3: decision 'kepp' \(did you mean 'keep'\?\)"
    for attempt in (
        open_review,
        found.undo,
        lambda: found.decide("drop"),
        lambda: read_decisions(path),
    ):
        with pytest.raises(WorkbookError, match=message):
            attempt()
    press(found, "drop", "undo")
    assert (path.read_bytes(), found.position) == (before, 1)
    assert "line 3: decision" in shown(found)


SETUP = f"""
import pandas as pd
from pathlib import Path
from lib.review import widget
row = ["f0", 1, "train", "art", "news", 0.9, "r", "the only text", "", "", ""]
queue = pd.DataFrame([row][:ROWS], columns={QUEUE_COLUMNS!r})
"""
SHOW = "widget.review(queue, decisions_path=Path('decisions.csv'), class_names=['art', 'news'])"


def executed(tmp_path, *, rows=1, before=""):
    cells = [
        nbformat.v4.new_code_cell(SETUP.replace("ROWS", str(rows)) + before),
        nbformat.v4.new_code_cell(SHOW),
    ]
    document = nbformat.v4.new_notebook(
        cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )
    folder = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(
        document, timeout=120, resources=folder, kernel_manager_class=kernels.OwnKernel
    ).execute()
    return document


@pytest.fixture
def kernel_finds_lib(monkeypatch, request):
    monkeypatch.setenv("PYTHONPATH", str(request.config.rootpath))


@pytest.mark.parametrize(("rows", "sentence"), [(1, widget.ELSEWHERE), (0, widget.EMPTY)])
def test_a_batch_run_shows_the_sentence_and_its_page_asks_for_no_widget(
    tmp_path, kernel_finds_lib, rows, sentence
):
    document = executed(tmp_path, rows=rows)
    (output,) = document.cells[1].outputs
    assert dict(output.data) == {"text/plain": sentence, "text/html": f"<p>{sentence}</p>"}
    assert "widgets" not in document.metadata
    nbformat.write(document, tmp_path / "note.ipynb")
    pages.export_notebook(tmp_path / "note.ipynb", tmp_path / "note.html", run="r")
    page = (tmp_path / "note.html").read_text(encoding="utf-8")
    assert page.count(f"<p>{sentence}</p>") == 1
    assert "widget-view" not in page and "html-manager" not in page and "VBox" not in page


def test_a_notebook_saved_with_the_widget_shows_the_sentence_on_a_page_too(
    tmp_path, kernel_finds_lib
):
    document = executed(tmp_path, before="widget._is_interactive = lambda: True")
    (output,) = document.cells[1].outputs
    assert set(output.data) == {"text/plain", "text/html", VIEW}
    assert "widgets" in document.metadata  # saved with its state
    nbformat.write(document, tmp_path / "note.ipynb")
    pages.export_notebook(tmp_path / "note.ipynb", tmp_path / "note.html", run="r")
    page = (tmp_path / "note.html").read_text(encoding="utf-8")
    assert page.count(f"<p>{widget.ELSEWHERE}</p>") == 1
    assert "html-manager" not in page and "VBox" not in page


def test_outside_a_batch_run_the_widget_is_shown_with_the_sentence_beside_it(open_review):
    found = open_review()
    bundle = found._repr_mimebundle_()
    assert bundle[VIEW]["model_id"] == found.panel.model_id
    still = (bundle["text/plain"], bundle["text/html"])
    assert still == (widget.ELSEWHERE, f"<p>{widget.ELSEWHERE}</p>")


def test_recorded_columns_are_the_ones_that_are_replayed(open_review, path):
    press(open_review(), "keep")
    assert (
        path.read_text(encoding="utf-8").splitlines()[0].replace('"', "").split(",")
        == DECISION_COLUMNS
    )
