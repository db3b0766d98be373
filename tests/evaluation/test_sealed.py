import json
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from lib import workspace
from lib.errors import WorkbookError
from lib.evaluation import sealed
from lib.workspace import Workspace

TEST = pd.DataFrame({"row_id": [3, 1, 2], "text": ["x", "y", "z"], "label": ["a", "b", "a"], "group": [0, 1, 2]})


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
    assert workspace.read_json(ws.path("seal.json")) == {"sha256": workspace.table_fingerprint(TEST)}


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
    with pytest.raises(WorkbookError, match=r"test\.parquet is not the test set that was sealed: run 03_review_labels again"):
        sealed.open_test(ws, model="m1", why="final")
    assert sealed.ledger(ws).empty


def test_without_a_seal_nothing_is_read(ws):
    ws.path("seal.json").unlink()
    with pytest.raises(WorkbookError, match=r"seal\.json is not there yet: run 03_review_labels first"):
        sealed.open_test(ws, model="m1", why="final")


def test_every_reading_is_a_line_of_the_ledger(ws, tmp_path):
    for model, why in (("m1", "first"), ("m1", "again\nand again"), ("m2", "größer")):
        sealed.open_test(ws, model=model, why=why)
    found = sealed.ledger(ws)
    assert list(found) == ["when", "run", "model", "why"]
    assert found[["run", "model", "why"]].to_numpy().tolist() == [["run1", "m1", "first"], ["run1", "m1", "again\nand again"], ["run1", "m2", "größer"]]
    assert all(abs(datetime.now(UTC) - datetime.fromisoformat(when)) < timedelta(minutes=5) for when in found["when"])
    lines = (tmp_path / "data" / "processed" / "data" / "sealed_ledger.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["model"] for line in lines] == ["m1", "m1", "m2"]


def test_looks_are_different_models_not_readings(ws):
    assert sealed.n_looks(sealed.ledger(ws)) == 0
    for model in ("m1", "m1", "m2", "m1"):
        sealed.open_test(ws, model=model, why="final")
    assert sealed.n_looks(sealed.ledger(ws)) == 2


def test_runs_on_the_same_test_set_share_a_ledger(ws):
    sealed.open_test(ws, model="m1", why="final")
    other = sealed_workspace("run2")
    sealed.open_test(other, model="m2", why="final")
    assert sealed.ledger(ws)["run"].tolist() == ["run1", "run2"]
    assert sealed.n_looks(sealed.ledger(other)) == 2


def test_looks_at_another_test_set_do_not_count(ws):
    sealed.open_test(ws, model="m1", why="final")
    other = sealed_workspace("run2", TEST.assign(label=["b", "b", "a"]))
    assert sealed.n_looks(sealed.ledger(other)) == 0
    sealed.open_test(other, model="m2", why="final")
    assert sealed.ledger(ws)["model"].tolist() == ["m1"]
    assert sealed.ledger(other)["model"].tolist() == ["m2"]


def test_the_same_rows_sealed_again_keep_their_looks(ws):
    sealed.open_test(ws, model="m1", why="final")
    sealed.seal(ws)
    assert sealed.n_looks(sealed.ledger(ws)) == 1
