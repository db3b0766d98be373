import ast
import json
import tomllib
from datetime import UTC, datetime, timedelta

import nbformat
import pandas as pd
import pytest

from lib import provenance, steps, workspace
from lib.errors import WorkbookError
from lib.evaluation import sealed
from lib.evaluation.significance import Interval
from lib.workspace import Workspace

TEST = pd.DataFrame(
    {"row_id": [3, 1, 2], "text": ["x", "y", "z"], "label": ["a", "b", "a"], "group": [0, 1, 2]}
)


@pytest.fixture
def ws(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))
    return sealed_workspace("run1")


def sealed_workspace(run, test=TEST):
    ws = Workspace(dataset="data", run=run)
    workspace.write_table(test, ws.path("test.parquet"))
    sealed.seal(ws)
    return ws


def test_the_test_set_is_given_as_it_was_sealed(ws):
    pd.testing.assert_frame_equal(sealed.open_test(ws, model="m1", why="final"), TEST)
    assert workspace.read_json(ws.path("seal.json")) == {
        "sha256": provenance.table_fingerprint(TEST)
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.assign(label=["a", "b", "b"]),
        lambda t: t.assign(text=["x", "y", "z "]),
        lambda t: t[::-1],
        lambda t: t[:2],
        lambda t: t.rename(columns={"label": "Label"}),
    ],
    ids=["label", "text", "order", "row gone", "column"],
)
def test_a_changed_test_set_is_refused_and_not_counted(ws, change):
    workspace.write_table(change(TEST), ws.path("test.parquet"))
    with pytest.raises(
        WorkbookError,
        match=r"test\.parquet is not the test set that was sealed: run 03_review_labels again",
    ):
        sealed.open_test(ws, model="m1", why="final")
    assert sealed.ledger(ws).empty


def test_without_a_seal_nothing_is_read(ws):
    ws.path("seal.json").unlink()
    with pytest.raises(
        WorkbookError, match=r"seal\.json is not there yet: run 03_review_labels first"
    ):
        sealed.open_test(ws, model="m1", why="final")


def test_every_reading_is_a_line_of_the_ledger(ws, tmp_path):
    for model, why in (("m1", "first"), ("m1", "again\nand again"), ("m2", "größer")):
        sealed.open_test(ws, model=model, why=why)
    found = sealed.ledger(ws)
    assert list(found) == ["read at", "run", "model", "why"]
    assert found[["run", "model", "why"]].to_numpy().tolist() == [
        ["run1", "m1", "first"],
        ["run1", "m1", "again\nand again"],
        ["run1", "m2", "größer"],
    ]
    assert all(
        abs(datetime.now(UTC) - datetime.fromisoformat(when)) < timedelta(minutes=5)
        for when in found["read at"]
    )
    lines = (
        (tmp_path / "data" / "processed" / "data" / "sealed_ledger.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()
    )
    assert [json.loads(line)["model"] for line in lines] == ["m1", "m1", "m2"]


def test_evaluations_are_different_models_not_readings(ws):
    assert sealed.n_evaluations(sealed.ledger(ws)) == 0
    for model in ("m1", "m1", "m2", "m1"):
        sealed.open_test(ws, model=model, why="final")
    assert sealed.n_evaluations(sealed.ledger(ws)) == 2


def test_runs_on_the_same_test_set_share_a_ledger(ws):
    sealed.open_test(ws, model="m1", why="final")
    other = sealed_workspace("run2")
    sealed.open_test(other, model="m2", why="final")
    assert sealed.ledger(ws)["run"].tolist() == ["run1", "run2"]
    assert sealed.n_evaluations(sealed.ledger(other)) == 2


def test_evaluations_on_another_test_set_do_not_count(ws):
    sealed.open_test(ws, model="m1", why="final")
    other = sealed_workspace("run2", TEST.assign(label=["b", "b", "a"]))
    assert sealed.n_evaluations(sealed.ledger(other)) == 0
    sealed.open_test(other, model="m2", why="final")
    assert sealed.ledger(ws)["model"].tolist() == ["m1"]
    assert sealed.ledger(other)["model"].tolist() == ["m2"]


def test_the_same_rows_sealed_again_keep_their_evaluations(ws):
    sealed.open_test(ws, model="m1", why="final")
    sealed.seal(ws)
    assert sealed.n_evaluations(sealed.ledger(ws)) == 1


def test_after_the_first_evaluation_intervals_widen_so_that_those_of_all_hold(ws):
    assert sealed.caution(sealed.ledger(ws), confidence=0.95) == ("", 0.95)
    sealed.open_test(ws, model="m1", why="final")
    assert sealed.caution(sealed.ledger(ws), confidence=0.95) == ("", 0.95)
    for model in ("m2", "m3", "m4", "m4"):
        sealed.open_test(ws, model=model, why="final")
    words, strict = sealed.caution(sealed.ledger(ws), confidence=0.95)
    assert words.startswith("4 different models have been evaluated on this test set")
    assert strict == pytest.approx(0.9875)


WARNING = (
    "2 different models have been evaluated on this test set: where one is chosen by these scores, "
    "they are too high and their intervals too narrow."
)


def readings(*models):
    return pd.DataFrame({"model": models})


def test_the_ledger_says_whether_scores_can_be_taken_at_face_value():
    assert sealed.describe_ledger(readings("m1", "m1")) == (
        "The labels have been read for one model only: the scores below are unbiased."
    )
    assert sealed.describe_ledger(readings("m1", "m2", "m1")) == WARNING


def test_the_warning_gives_the_intervals_that_hold_for_all_evaluations():
    macro_f1 = {
        "baseline": Interval(0.7, 0.68, 0.72, n=10, confidence=0.975),
        "ensemble": Interval(0.8, 0.78, 0.82, n=10, confidence=0.975),
    }
    assert sealed.describe_corrected(readings("m1"), macro_f1) == ""
    assert sealed.describe_corrected(readings("m1", "m2"), macro_f1) == (
        f"{WARNING} Intervals that hold for all evaluations together (97.5%): "
        "macro F1 baseline 0.700 [0.680, 0.720], ensemble 0.800 [0.780, 0.820]."
    )


def test_nothing_that_trains_or_chooses_models_can_reach_the_test_labels():
    """The import of `sealed` is forbidden to it by a contract of import-linter (pyproject.toml);
    the file itself is named nowhere else."""
    contracts = tomllib.loads(
        (workspace.REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    )["tool"]["importlinter"]["contracts"]
    forbidding = [
        each
        for each in contracts
        if each["type"] == "forbidden" and each["forbidden_modules"] == ["lib.evaluation.sealed"]
    ]
    assert [each["source_modules"] for each in forbidding] == [["lib.training", "lib.data"]]
    holders = {
        path.relative_to(workspace.REPOSITORY).as_posix()
        for path in (workspace.REPOSITORY / "lib").rglob("*.py")
        if any(
            isinstance(node, ast.Constant) and node.value == "test.parquet"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        )
    }
    tables_of_files = {"lib/workspace.py", "lib/steps.py"}
    assert holders == tables_of_files | {"lib/evaluation/sealed.py"}  # the one door
    assert [step.number for step in steps.STEPS if "test.parquet" in step.reads] == ["07"]


def test_notebooks_that_train_or_choose_models_read_no_label_of_a_test_row():
    for step in steps.STEPS:
        cells = nbformat.read(workspace.NOTEBOOKS / f"{step.notebook}.ipynb", as_version=4).cells
        code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        if step.number == "07":
            assert "sealed.open_test(ws" in code
        if step.number in ("04", "05", "06"):
            assert "test.parquet" not in code and "sealed" not in code
            for line in code.splitlines():
                # it holds all rows, before the seal: texts may be read, to keep copies away
                if "clean.parquet" in line:
                    assert line.endswith('[["split", "text"]]')
        elif step.number > "04":
            assert "test.parquet" not in code
