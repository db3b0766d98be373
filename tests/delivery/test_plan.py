"""What a run would do, and why: nothing of it is written."""

import json

import pytest

from lib import provenance, workspace
from lib.config import Config
from lib.delivery import plan, runner
from lib.errors import WorkbookError
from lib.steps import STEPS
from lib.workspace import Workspace

ROWS = [(f"the {kind} text number {i} of its kind", kind) for i in range(30) for kind in ("a", "b")]
NAMES = [step.notebook for step in STEPS]


@pytest.fixture
def finished(tmp_path, home):
    """A run whose record says that all notebooks are done, each in ten seconds a number."""
    source = tmp_path / "t.csv"
    source.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS))
    config = Config.load("smoke", {"data.source": str(source)})
    runner.sources.raw_table(config)
    ws = Workspace("t", "t")
    session = runner.Session(config, ws, {}, {"steps": {}}, progress=False)
    for step in STEPS:
        for name in step.writes:
            workspace.write_text(name, ws.path(name))
        for ending in (".ipynb", ".html"):
            workspace.write_text("", ws.folder(workspace.REPORTS) / f"{step.notebook}{ending}")
    for step in STEPS:
        session.record["steps"][step.notebook] = {
            "state": "done",
            "key": runner.step_key(step, config, ws),
            "settings": json.loads(json.dumps(runner.step_settings(step, config))),
            "reads": runner.files_read(step, config, ws),
            "seconds": 10.0 * int(step.number),
            "writes": session._written(step),
        }
    session._save_record()
    return source, ws, session.record


def planned(source, overrides=None, **options):
    plans = plan.plan_workbook("smoke", data=str(source), overrides=overrides, **options)
    return {each.notebook[:2]: each.why for each in plans}


def tree(home):
    return {str(path): provenance.path_fingerprint(path) for path in home.rglob("*")}


def test_nothing_is_to_run_where_all_is_done_and_nothing_is_written(finished, home):
    source, *_ = finished
    before = tree(home)
    assert planned(source) == {name[:2]: "" for name in NAMES}
    assert tree(home) == before


def test_a_new_table_is_read_but_not_imported(tmp_path, home):
    source = tmp_path / "t.csv"
    source.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS))
    assert set(planned(source).values()) == {"new"}
    assert list(home.iterdir()) == []
    source.write_text("text,label\na b c,x\n")
    with pytest.raises(WorkbookError, match="at least two classes are needed"):
        planned(source)


def test_changed_settings_are_named_and_what_reads_their_files_may_follow(finished):
    source, *_ = finished
    found = planned(source, {"labels.queue_rows": 7})
    assert found["03"] == "settings changed: labels.queue_rows"
    assert found["04"] == ("if a file of 03_review_labels changes")
    assert found["01"] == found["02"] == ""
    assert found["07"].startswith("if a file of 03_review_labels, 04_train_model, ")


def test_a_setting_that_a_notebook_does_not_use_changes_nothing(finished):
    source, *_ = finished
    assert set(planned(source, {"compute.workers": 2}).values()) == {""}


def test_changed_files_are_named_on_both_sides(finished):
    source, ws, _ = finished
    ws.path("audit.json").write_text("other")
    found = planned(source, first="01", last="07")
    assert found["01"] == "what it wrote has changed: audit.json"
    assert found["07"] == "files changed: audit.json"
    assert {found[number] for number in ("02", "03", "04", "05", "06")} == {""}


def test_what_failed_was_stopped_or_lost_its_page_is_said(finished):
    source, ws, record = finished
    record["steps"]["08_test_robustness"] = {"state": "failed", "error": "x", "seconds": None}
    record["steps"]["09_export_and_serve"] = {"state": "started"}
    record["steps"]["03_review_labels"]["key"] = "of other code"
    folder = ws.folder(workspace.REPORTS)
    workspace.write_json(record, folder / "run.json")
    (folder / "10_monitor.html").unlink()
    found = planned(source)
    assert found["08"] == "failed before"
    assert found["09"] == "started before"
    assert found["10"] == "its page is gone"
    assert found["03"] == "its cells or the code changed"


def test_a_line_says_what_why_and_how_long(finished):
    source, *_ = finished
    lines = [each.describe() for each in plan.plan_workbook("smoke", data=str(source), first="09")]
    assert lines == ["09_export_and_serve  up to date", "10_monitor  up to date"]
    forced = plan.plan_workbook("smoke", data=str(source), first="10", force=True)
    assert forced[0].describe() == "10_monitor  to run: --force (the last time 100 s)"
    new = plan.Planned("01_profile_data", "new", None)
    assert new.describe() == "01_profile_data  to run: new"


def test_what_a_run_refuses_is_refused(finished, tmp_path):
    source, ws, _ = finished
    with pytest.raises(WorkbookError, match=r"no setting 'labels\.queue_row'"):
        planned(source, {"labels.queue_row": 7})
    ws.path("clean.parquet").unlink()
    with pytest.raises(WorkbookError, match="run 02_clean_and_split first"):
        planned(source, first="03")
