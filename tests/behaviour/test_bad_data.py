"""Bad data, each with one clear error that says what was found and what to do, or with a right
result."""

import csv
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from lib import steps, workspace
from lib.config import Config
from lib.data import classes, cleaning, duplicates, sources, splits
from lib.delivery.cli import main
from lib.errors import WorkbookError
from lib.review import decisions

chain = pytest.mark.xdist_group("bad-data")
GOOD = [
    (f"the {kind} text number {i * 7} speaks of {kind} things and of the number {i}", kind)
    for i in range(30)
    for kind in ("red", "blue")
]
FAMILY = "\N{WOMAN}\u200d\N{WOMAN}\u200d\N{GIRL}\u200d\N{BOY}"
ODD = {
    "right to left": "\u202eevil reversed\u202c a \u200fשלום\u200f among marks of \u200eright to "
    "left",
    "surrogates": "a lone \ud83d surrogate and another \udc00 in one text",
    "emoji": f"a family {FAMILY} stands on this picture",
    "one token": "x" * 1_000_000,
    "open tags": '<div><b>never <i>closed <a href="http://x.org/ and <img src=x '
    "onerror=alert(1)> goes on for words",
    "open comment": "words before it <!-- a comment that never ends, <script>alert(2)</script> "
    "in it",
}
HOSTILE = [  # a class whose texts and name are code to a browser or a spreadsheet
    (
        "<img src=x onerror=alert(1)> &lt;script&gt;alert(2)&lt;/script&gt; =HYPERLINK(1) "
        f"vector<int> number {i} of the green texts {i * 7}",
        "<b>green</b>",
    )
    for i in range(20)
]
SHOWN = {  # what is left of them
    "right to left": "evil reversed a שלום among marks of right to left",
    "surrogates": "a lone ? surrogate and another ? in one text",
    "emoji": f"a family {FAMILY} stands on this picture",
}


def run(home, source, *words):
    """Run notebooks on a source in this process; return the exit status and what was said."""
    options = ["run", "--quiet", "--profile", "smoke", "--run", "bad", "--data", source, *words]
    result = CliRunner().invoke(main, list(map(str, options)), env={"WORKBOOK_HOME": str(home)})
    return result.exit_code, result.stderr


def refused(home, source, *words):
    """Return the first line of the error that a run ends in; the second says where the notebook
    is."""
    status, said = run(home, source, *words)
    lines = said.strip().splitlines()
    assert (
        status == 1
        and len(lines) == 2
        and lines[0].startswith("workbook: ")
        and lines[1].startswith("(the whole notebook: ")
    ), said
    return lines[0]


def table_file(path, rows):
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(path, index=False, quoting=csv.QUOTE_ALL)
    return path


def written(home, name):
    (path,) = home.glob(f"data/processed/*/bad/{name}.parquet")
    return workspace.read_table(path)


def test_a_million_equal_texts_under_two_labels_are_one_row_each_and_one_group():
    n = 1_000_000
    rows = pd.DataFrame(
        {
            "row_id": np.arange(n),
            "text": ["one and the same text for all"] * n,
            "label": ["red", "blue"] * (n // 2),
            "given": "",
        }
    )
    assert not duplicates.exact_duplicates(rows["text"].tolist()).any()
    assert splits.repeated_rows(rows).tolist() == [-1, -1] + [0, 1] * (n // 2 - 1)
    pairs = duplicates.near_duplicate_pairs(rows["text"].tolist())
    assert (
        len(pairs),
        set(pairs["i"]),
        pairs["j"].tolist() == list(range(1, n)),
        set(pairs["similarity"]),
    ) == (n - 1, {0}, True, {1.0})
    groups = duplicates.group_ids(n, pairs)
    assert not groups.any()
    assert len(duplicates.conflicting_rows(rows["label"].tolist(), groups)) == n


@chain
def test_equal_texts_under_two_labels_leave_too_few_rows_and_the_rule_is_named(tmp_path):
    source = table_file(
        tmp_path / "same.csv",
        [("one and the same text for all", kind) for _ in range(200) for kind in ("red", "blue")],
    )
    said = refused(tmp_path, source, "--from", "02", "--to", "02")
    assert "02_clean_and_split stopped under 'Are the splits the right size?'" in said
    assert (
        "same, after cleaning: classes with fewer than the 9 rows that three splits and 5 folds "
        "need: " in said
    )
    for kind in ("red", "blue"):
        assert f"'{kind}' (1 of 200 left: exact_duplicate took 199)" in said
    assert said.endswith("; add rows, or drop the class")


@chain
def test_a_class_that_cleaning_empties_is_named_with_the_rules_that_took_it(tmp_path):
    gone = (
        [("<p><br></p><!-- nothing -->", "green")] * 10
        + [(f"two {i}", "green") for i in range(20)]
        + [(None, "green")] * 3
    )
    source = table_file(tmp_path / "gone.csv", GOOD + gone)
    said = refused(tmp_path, source, "--from", "02", "--to", "02")
    assert (
        "gone, after cleaning: classes with fewer than the 9 rows that three splits and 5 folds "
        "need: 'green' (0 of 33 left: min_words took 33); " in said
    )
    assert said.endswith(
        "; add rows, drop the class, or keep more of its rows with other settings of cleaning"
    )
    assert not list(tmp_path.glob("data/processed/*/bad/*.parquet"))


@chain
def test_texts_that_all_have_a_copy_and_a_near_copy_keep_one_of_each_in_one_split(tmp_path):
    near = [(f"{text.upper()}!", kind) for text, kind in GOOD]
    source = table_file(tmp_path / "twice.csv", GOOD + near + GOOD)
    status, said = run(tmp_path, source, "--from", "02", "--to", "02")
    assert status == 0, said
    clean, dropped, pairs = (written(tmp_path, name) for name in ("clean", "dropped", "duplicates"))
    n = len(GOOD)
    assert clean["row_id"].tolist() == list(range(2 * n))
    assert dropped[["row_id", "rule", "same_as"]].values.tolist() == [
        [2 * n + i, "exact_duplicate", i] for i in range(n)
    ]
    assert {(i, i + n) for i in range(n)} <= set(zip(pairs["i"], pairs["j"]))
    assert (clean["split"][:n].to_numpy() == clean["split"][n:].to_numpy()).all()
    assert clean.groupby("group")["split"].nunique().max() == 1
    assert pd.crosstab(clean["label"], clean["split"]).to_numpy().min() >= 2


@pytest.fixture(scope="module")
def odd_home(tmp_path_factory):
    """A home with 01 to 03 run on a JSONL file of odd texts, each under both labels, so that the
    pages show them."""
    home = tmp_path_factory.mktemp("odd")
    rows = [
        {"text": text, "label": label}
        for text, label in [
            *GOOD,
            *((text, kind) for text in ODD.values() for kind in ("red", "blue")),
            *HOSTILE,
        ]
    ]
    (home / "odd.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    status, said = run(home, home / "odd.jsonl", "--to", "03")
    assert status == 0, said
    return home


@chain
def test_odd_texts_run_through_and_are_shown_whole_and_escaped(odd_home):
    clean, dropped = written(odd_home, "clean"), written(odd_home, "dropped")
    first = {name: len(GOOD) + 2 * place for place, name in enumerate(ODD)}
    texts = clean.set_index("row_id")["text"]
    assert {name: texts[first[name]] for name in SHOWN} == SHOWN
    assert dropped[["row_id", "rule"]].values.tolist() == [
        [first["one token"] + i, "min_words"] for i in (0, 1)
    ]
    queue = (odd_home / "reports/bad/review_queue.csv").read_text(encoding="utf-8-sig")
    assert all(text in queue for text in SHOWN.values())
    for step in steps.STEPS[:3]:
        html = (odd_home / f"reports/bad/{step.notebook}.html").read_text(encoding="utf-8")
        assert (
            "<img src=x" not in html
            and "<script>alert" not in html
            and "<!-- a comment" not in html
            and "<b>green</b>" not in html
        ), step.notebook
        assert "&lt;b&gt;green&lt;/b&gt;" in html, step.notebook
        assert "xx" * 1_000 not in html, "a text of a megabyte is cut short"
    assert SHOWN["emoji"] in html and SHOWN["right to left"] in html


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("open tags", ["never closed", "goes on for words"]),
        ("open comment", ["words before it", "that never ends", "in it"]),
    ],
)
def test_markup_that_never_closes_takes_no_word_with_it(name, kept):
    (text,) = cleaning.clean_texts([ODD[name]]).texts
    assert [part for part in kept if part not in text] == []
    assert not any(tag in text for tag in ("<div", "<b>", "<i>", "<img", "<script", "alert"))
    assert cleaning.clean_texts([text]).texts == [text]


@chain
@pytest.mark.parametrize(
    ("was", "now", "message"),
    [
        (
            '"drop"',
            '"dropp"',
            "decision 'dropp' (did you mean 'drop'?); it is one of keep, relabel, drop, unsure",
        ),
        (',"not a text"', "", "not 7 cells as in the header"),
    ],
    ids=["decision", "cell"],
)
def test_a_broken_line_of_the_decisions_is_named_and_the_file_stays(
    odd_home, tmp_path, was, now, message
):
    home = tmp_path / "home"
    shutil.copytree(odd_home, home)
    clean = written(home, "clean")
    path = home / "data/review/odd/decisions.csv"
    decisions.record_decisions(
        path,
        [
            (fingerprint, "drop", label, "", "not a text")
            for fingerprint, label in clean[["fingerprint", "label"]].values[:3]
        ],
    )
    whole = path.read_text(encoding="utf-8")
    lines = whole.splitlines(keepends=True)
    broken = "".join([*lines[:2], lines[2].replace(was, now), lines[3]])
    assert broken != whole
    path.write_text(broken, encoding="utf-8")
    queue = home / "reports/bad/review_queue.csv"
    asked = queue.read_bytes()
    with pytest.raises(WorkbookError) as caught:
        decisions.read_decisions(path)
    assert str(caught.value) == f"{path}, line 3: {message}"
    if now:  # once by the chain is enough
        said = refused(home, odd_home / "odd.jsonl", "--from", "03", "--to", "03")
        assert (
            "03_review_labels stopped under 'What have people decided so far?': "
            f"{caught.value}" in said
        )
    assert path.read_text(encoding="utf-8") == broken and queue.read_bytes() == asked
    path.write_text(whole, encoding="utf-8")
    assert decisions.apply_decisions(clean, decisions.read_decisions(path)).dropped[
        "row_id"
    ].tolist() == [0, 1, 2]


@chain
@pytest.mark.parametrize(
    ("decision", "new_label", "found"), [("drop", "", ""), ("relabel", "purple", "'purple' (5), ")]
)
def test_a_class_that_decisions_empty_is_named(odd_home, tmp_path, decision, new_label, found):
    home = tmp_path / "home"
    shutil.copytree(odd_home, home)
    blue = written(home, "clean").query("label == 'blue'")["fingerprint"]
    decided = [
        (fingerprint, "drop", "blue", "", "") for fingerprint in blue[5 if new_label else 0 :]
    ]
    decided += [
        (fingerprint, decision, "blue", new_label, "") for fingerprint in blue[:5] if new_label
    ]
    decisions.record_decisions(home / "data/review/odd/decisions.csv", decided)
    said = refused(home, odd_home / "odd.jsonl", "--from", "03", "--to", "03")
    assert (
        "stopped under 'What have people decided so far?': odd, after the "
        "decisions in decisions.csv: classes with fewer than the 9 rows" in said
    )
    took = f"drop took {len(blue) - 5}, relabel took 5" if new_label else f"drop took {len(blue)}"
    assert f"need: 'blue' (0 of {len(blue)} left: {took})" in said and found.strip(", ") in said
    assert said.endswith("; add rows, drop the class, or change decisions")


def test_a_column_with_one_label_once_rows_without_text_are_out_says_so(tmp_path):
    rows = [{"text": text if kind == "red" else None, "label": kind} for text, kind in GOOD]
    source = tmp_path / "one.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    config = Config.load("smoke", {"data.source": str(source)})
    with pytest.raises(
        WorkbookError,
        match=r"one.jsonl: all rows that have a text have the label 'red' \('blue' has none\); "
        r"at least two classes are needed",
    ):
        classes.check_labels(sources.load_table(str(source)), config)
