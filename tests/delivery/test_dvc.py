import shlex
from itertools import pairwise

import pytest
import yaml

from lib import workspace
from lib.config import parse_overrides
from lib.delivery.dvc import export_dvc
from lib.errors import WorkbookError
from lib.workspace import Workspace

OVERRIDES = {"data.text_column": "a body", "training.epochs": 2, "search.space": {"epochs": [1, 2]}}


@pytest.fixture
def run(home):
    """A run that has finished 02 and 03, of a table beside it."""
    (home / "my.csv").write_text("text,label\n")
    ws = Workspace("my", "one")
    for name in ("clean.parquet", "dropped.parquet", "train.parquet", "decisions.csv"):
        path = ws.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    record = {
        "profile": "smoke",
        "overrides": OVERRIDES,
        "data": {"dataset": "my", "source": str(home / "my.csv")},
        "steps": {
            "02_clean_and_split": {"state": "done"},
            "03_review_labels": {"state": "done"},
            "04_train_model": {"state": "started"},
        },
    }
    workspace.write_json(record, home / "reports/one/run.json")
    return home


def test_a_stage_reads_and_writes_what_its_notebook_does(run):
    path = export_dvc("one")
    assert path == run / "dvc.yaml"
    stages = yaml.safe_load(path.read_text())["stages"]
    assert list(stages) == ["one-02", "one-03"]
    second = stages["one-02"]
    assert second["deps"] == ["my.csv"]
    folder = "data/processed/my/one"
    assert second["outs"] == [
        {f"{folder}/clean.parquet": {"persist": True}},
        {f"{folder}/dropped.parquet": {"persist": True}},
    ]
    third = stages["one-03"]
    assert third["deps"] == [f"{folder}/clean.parquet", "data/review/my/decisions.csv"]
    assert third["outs"] == [{f"{folder}/train.parquet": {"persist": True}}]


def test_its_command_is_that_of_the_run(run):
    stages = yaml.safe_load(export_dvc("one").read_text())["stages"]
    words = shlex.split(stages["one-03"]["cmd"])
    assert words[:7] == ["workbook", "run", "--quiet", "--run", "one", "--profile", "smoke"]
    assert words[-4:] == ["--from", "03", "--to", "03"]
    assignments = [word for option, word in pairwise(words) if option == "--set"]
    assert parse_overrides(assignments) == OVERRIDES


def test_stages_of_others_stay(run):
    (run / "dvc.yaml").write_text("stages:\n  theirs: {cmd: ls}\n")
    stages = yaml.safe_load(export_dvc("one").read_text())["stages"]
    assert list(stages) == ["theirs", "one-02", "one-03"]
    assert stages["theirs"] == {"cmd": "ls"}


def test_a_file_that_is_no_dvc_yaml_is_left_alone(run):
    (run / "dvc.yaml").write_text("- not: [stages")
    with pytest.raises(WorkbookError, match=r"dvc\.yaml cannot be read as YAML with stages"):
        export_dvc("one")
    assert (run / "dvc.yaml").read_text() == "- not: [stages"


def test_a_run_that_is_not_there_is_named(run):
    with pytest.raises(WorkbookError, match=r"no run 'on'.*did you mean 'one'\?"):
        export_dvc("on")
