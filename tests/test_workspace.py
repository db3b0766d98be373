import errno
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from lib import workspace
from lib.errors import WorkbookError
from lib.workspace import FILES, Workspace, atomic_path

NOBODY = 65534


@contextmanager
def read_only(folder):
    """Take the right to write into a folder away, also from root."""
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


def test_home_is_the_environments_else_the_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))
    assert workspace.home() == tmp_path.resolve()
    monkeypatch.setenv("WORKBOOK_HOME", "")
    assert workspace.home() == Path(workspace.__file__).resolve().parents[1]


@pytest.mark.parametrize("given", ["out", "./out", "~/out"])
def test_a_relative_home_stays_where_it_was_first_meant(tmp_path, monkeypatch, given):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WORKBOOK_HOME", given)
    monkeypatch.chdir(tmp_path)
    workspace.anchor_home()
    monkeypatch.chdir("/")
    assert workspace.home() == (tmp_path / "out").resolve()
    assert os.environ["WORKBOOK_HOME"] == str(tmp_path / "out")
    monkeypatch.delenv("WORKBOOK_HOME")
    workspace.anchor_home()
    assert "WORKBOOK_HOME" not in os.environ


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("docstrings", "docstrings"),
        ("reviews.csv", "reviews"),
        ("deep/er/My table.csv.gz", "My-table"),
        ("hub:ag_news", "hub-ag_news"),
        ("hub:org/name:config:train", "hub-org-name-config-train"),
        ("größe.jsonl", "größe"),
        (".hidden", "data"),
        ("***.csv", "data"),
        ("..", "data"),
    ],
)
def test_a_data_set_is_named_after_its_source(source, name):
    assert workspace.dataset_name(source) == name


def test_a_folder_keeps_the_dots_of_its_name(tmp_path):
    (tmp_path / "v1.2").mkdir()
    assert workspace.dataset_name(str(tmp_path / "v1.2")) == "v1.2"


def test_each_file_lives_in_the_folder_of_its_kind(home):
    ws = Workspace(dataset="news", run="first")
    assert ws.path("clean.parquet") == home / "data/processed/news/first/clean.parquet"
    assert ws.path("decisions.csv") == home / "data/review/news/decisions.csv"
    assert ws.path("transformer") == home / "models/first/transformer"
    assert ws.path("metrics.json") == home / "reports/first/metrics.json"


def test_two_runs_share_decisions_and_nothing_else(home):
    one, other = Workspace(dataset="news", run="one"), Workspace(dataset="news", run="other")
    assert {name for name in FILES if one.path(name) == other.path(name)} == {
        name for name, (place, _) in FILES.items() if place == workspace.REVIEW
    }


def test_a_missing_file_names_the_notebook_that_writes_it(home):
    with pytest.raises(
        WorkbookError,
        match=r"clean.parquet is not there yet: run 02_clean_and_split first "
        r"\(run 'first', data 'news'\)",
    ):
        Workspace(dataset="news", run="first").existing("clean.parquet")


def test_an_existing_file_is_found(home):
    ws = Workspace(dataset="news", run="first")
    workspace.write_text("x", ws.path("metrics.json"))
    assert ws.existing("metrics.json").read_text(encoding="utf-8") == "x"


def test_a_run_is_named_after_the_profile_or_the_data():
    config, ws = workspace.open_run(
        profile="smoke", run="", data="", settings={"training.epochs": 3}
    )
    assert (config.training.epochs, config.data.source, ws) == (
        3.0,
        "docstrings",
        Workspace("docstrings", "smoke"),
    )
    config, ws = workspace.open_run(profile="smoke", run="", data="my/reviews.csv", settings={})
    source = str(Path.cwd() / "my" / "reviews.csv")
    assert (config.data.source, ws) == (source, Workspace("reviews", "reviews"))
    assert workspace.open_run(profile="smoke", run="v1.0-b_2", data="my/reviews.csv", settings={})[
        1
    ] == Workspace("reviews", "v1.0-b_2")


def test_a_source_given_by_name_beats_the_one_in_the_settings():
    given = {"data.source": "/b.csv"}
    config, _ = workspace.open_run(profile="smoke", run="", data="/a.csv", settings=given)
    assert config.data.source == "/a.csv"


@pytest.mark.parametrize("run", ["../up", "a/b", ".hidden", "-x", "a b", "x" * 101, "a\n"])
def test_a_run_name_that_fits_no_folder_is_refused(run):
    with pytest.raises(WorkbookError, match="a run's name is letters"):
        workspace.open_run(profile="smoke", run=run, data="", settings={})


def test_an_unknown_setting_of_a_notebook_is_refused():
    with pytest.raises(
        WorkbookError, match=r"no setting 'training.epoch' \(did you mean 'training.epochs'\?\)"
    ):
        workspace.open_run(profile="smoke", run="", data="", settings={"training.epoch": 1})


def test_a_file_appears_under_its_name_when_the_block_ends_and_nothing_else_stays(tmp_path):
    path = tmp_path / "new" / "folder" / "note.txt"
    with atomic_path(path) as scratch:
        scratch.write_text("whole", encoding="utf-8")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "whole"
    assert [entry.name for entry in path.parent.iterdir()] == ["note.txt"]


def test_a_block_that_fails_keeps_the_old_file(tmp_path):
    path = tmp_path / "note.txt"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as scratch:
        scratch.write_text("half", encoding="utf-8")
        1 / 0  # noqa: B018
    assert path.read_text(encoding="utf-8") == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["note.txt"]


def test_an_interrupt_keeps_the_old_file(tmp_path):
    path = tmp_path / "note.txt"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as scratch:
        scratch.write_text("half", encoding="utf-8")
        raise KeyboardInterrupt
    assert [(entry.name, entry.read_text(encoding="utf-8")) for entry in tmp_path.iterdir()] == [
        ("note.txt", "old")
    ]


def write_folder(folder, **files):
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def contents(folder):
    return {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()}


def test_a_folder_is_replaced_whole(tmp_path):
    path = tmp_path / "model"
    write_folder(path, weights="1", leftover="x")
    with atomic_path(path) as scratch:
        write_folder(scratch, weights="2")
        assert contents(path) == {"weights": "1", "leftover": "x"}
    assert contents(path) == {"weights": "2"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_block_that_fails_keeps_the_old_folder(tmp_path):
    path = tmp_path / "model"
    write_folder(path, weights="1")
    with pytest.raises(RuntimeError, match="out of memory"), atomic_path(path) as scratch:
        write_folder(scratch, weights="half")
        raise RuntimeError("out of memory")
    assert contents(path) == {"weights": "1"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_block_that_writes_nothing_keeps_the_old_folder(tmp_path):
    path = tmp_path / "model"
    write_folder(path, weights="1")
    with pytest.raises(WorkbookError, match="cannot write"), atomic_path(path):
        pass
    assert path.exists(), "the old folder is gone"
    assert contents(path) == {"weights": "1"}


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "model"
    write_folder(path, weights="1")

    def refuse(new, old):
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(WorkbookError, match="cannot write"), atomic_path(path) as scratch:
        write_folder(scratch, weights="2")
        monkeypatch.setattr(workspace.os, "replace", refuse)
    assert path.exists(), "the old folder is gone"
    assert contents(path) == {"weights": "1"}


def test_a_folder_may_be_called_old(tmp_path):
    path = tmp_path / "old"
    write_folder(path, weights="1")
    with atomic_path(path) as scratch:
        write_folder(scratch, weights="2")
    assert contents(path) == {"weights": "2"}


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Quota"),
        OSError("Arrow: No space left on device"),
    ],
)
def test_a_full_disk_keeps_the_old_table_and_says_so(tmp_path, monkeypatch, error):
    path = tmp_path / "table.parquet"
    workspace.write_table(pd.DataFrame({"x": [1]}), path)

    def full(table, where, **options):
        Path(where).write_bytes(b"half")
        raise error

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(
        WorkbookError,
        match=r"table.parquet: the disk is full \(\d+ MB free\); nothing was changed, make room "
        r"and run again",
    ):
        workspace.write_table(pd.DataFrame({"x": [2]}), path)
    assert workspace.read_table(path)["x"].tolist() == [1]
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.parquet"]


def test_a_full_disk_keeps_the_old_text(tmp_path, monkeypatch):
    path = tmp_path / "note.txt"
    path.write_text("old", encoding="utf-8")

    def full(self, text, encoding):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(WorkbookError, match="the disk is full"):
            workspace.write_text("new", path)
    assert path.read_text(encoding="utf-8") == "old"


def test_another_failure_of_the_disk_names_the_file_and_the_reason(tmp_path):
    with (
        pytest.raises(WorkbookError, match=r"cannot write .*note.txt: .*Input/output error"),
        atomic_path(tmp_path / "note.txt"),
    ):
        raise OSError(errno.EIO, "Input/output error")


def test_a_folder_without_permission_keeps_the_old_file_and_says_so():
    with (
        tempfile.TemporaryDirectory() as name
    ):  # outside tmp_path, whose parents are closed to others
        path = Path(name) / "note.txt"
        path.write_text("old", encoding="utf-8")
        with (
            read_only(path.parent),
            pytest.raises(WorkbookError, match=r"cannot write .*note.txt: no permission for "),
        ):
            workspace.write_text("new", path)
        assert path.read_text(encoding="utf-8") == "old"
        assert [entry.name for entry in path.parent.iterdir()] == ["note.txt"]


def test_a_file_where_a_folder_must_be_is_named(tmp_path):
    (tmp_path / "data").write_text("", encoding="utf-8")
    with pytest.raises(WorkbookError, match=r"cannot write .*note.txt"):
        workspace.write_text("x", tmp_path / "data" / "note.txt")


def test_a_table_and_its_facts_come_back_as_written(tmp_path):
    table = pd.DataFrame({"text": ["a\nb", None, "ä😀"], "n": [1, 2, 3]}, index=[7, 8, 9])
    facts = {"rows": 3, "source": "größe.csv", "nested": {"packages": ["a", 1.5, None]}}
    workspace.write_table(table, tmp_path / "t.parquet", facts=facts)
    pd.testing.assert_frame_equal(
        workspace.read_table(tmp_path / "t.parquet"), table.reset_index(drop=True)
    )
    assert workspace.read_facts(tmp_path / "t.parquet") == facts


def test_a_table_without_facts_has_none(tmp_path):
    workspace.write_table(pd.DataFrame({"x": [1]}), tmp_path / "ours.parquet")
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "theirs.parquet")
    assert workspace.read_facts(tmp_path / "ours.parquet") == {}
    assert workspace.read_facts(tmp_path / "theirs.parquet") == {}


def test_json_comes_back_with_plain_numbers(tmp_path):
    value = {
        "score": np.float64(0.25),
        "n": np.int64(3),
        "right": np.bool_(True),
        "where": Path("a"),
        "name": "ä",
    }
    workspace.write_json(value, tmp_path / "v.json")
    assert workspace.read_json(tmp_path / "v.json") == {
        "score": 0.25,
        "n": 3,
        "right": True,
        "where": "a",
        "name": "ä",
    }
    assert '"ä"' in (tmp_path / "v.json").read_text(encoding="utf-8")
