"""What the runner and the command line refuse, each with one line and nothing written; and what
makes a step stale."""

import gzip
import json
import logging
import os
import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
from click.testing import CliRunner

from lib import provenance, workspace
from lib.config import Config
from lib.delivery import execution, kernels, preloading, runner
from lib.delivery.cli import main
from lib.errors import WorkbookError
from lib.steps import STEPS, Step
from lib.workspace import Workspace

GOOD = "text,label\n" + "".join(
    f"the {kind} text number {i} speaks of {kind} things,{kind}\n"
    for i in range(30)
    for kind in ("red", "blue")
)

BAD_DATA = {
    "empty.csv": (b"", "empty.csv is empty"),
    "header.csv": (b"text,label\n", "has a header but no rows"),
    "columns.csv": (
        b"body,label\na b c,x\n",
        "no column 'text'.*'body', 'label': name it with --text-column",
    ),
    "unlabelled.csv": (b"text,label\na b c,\nd e f,\n", "no row has both a text and a label"),
    "one.csv": (GOOD.replace("blue", "red").encode(), "all rows have the label 'red'"),
    "few.csv": (
        GOOD.encode() + b"a green thing here,green\n",
        r"classes with fewer than the 9 rows that three splits and 5 folds need: 'green' \(1\)",
    ),
    "case.csv": (
        GOOD.encode() + b"one more text,Red \n",
        "labels that differ in case or blanks alone: 'Red ' and 'red'.*"
        "--set data.merge_labels=true",
    ),
    "nul.csv": (GOOD.encode() + b"a\x00b c d,red\n", "line 62: a NUL byte"),
    "ragged.csv": (
        GOOD.encode() + b'"two\nlines",red\none,two,red\n',
        "line 64: 3 cells where the header has 2",
    ),
    "broken.jsonl": (b'{"text": "a", "label": "x"}\n{"text": \n', "line 2:"),
    "half.csv.gz": (gzip.compress(GOOD.encode())[:-9], "not a whole gzip file"),
    "picture.png": (b"\x89PNG", "use .csv"),
}
# the first word of what to do, which ends every error
REMEDIES = "export name check add drop set Merge mend quote fetch use fix".split()


def call(*words):
    return CliRunner().invoke(main, ["run", "--quiet", *map(str, words)])


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_is_refused_in_one_line_with_nothing_written(name, tmp_path, home):
    content, message = BAD_DATA[name]
    (tmp_path / name).write_bytes(content)
    result = call("--data", tmp_path / name)
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1 and result.stderr.startswith("workbook: ")
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(result.stderr)
    last_words = re.split("[;:.] |, or ", result.stderr.strip())[-1].split()
    assert last_words[0] in REMEDIES, result.stderr
    assert files(home) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "nowhere.csv"], "no such file or folder"),
        (["--data", "hub:nobody/nothing"], "HF_HUB_OFFLINE is set"),
        (["--profile", "base"], "backbone 'microsoft/deberta-v3-base' could not be loaded"),
        (["--set", "training.backbone=/nowhere"], "backbone '/nowhere' could not be loaded"),
        (["--set", "labels.encoder=/nowhere"], "labels.encoder: '/nowhere' could not be loaded"),
        (
            ["--set", "augmentation.methods=[contextual]"],
            "augmentation: the method contextual needs augmentation.masked_model",
        ),
        (
            [
                "--set",
                "augmentation.methods=[contextual]",
                "--set",
                "augmentation.masked_model=/nowhere",
            ],
            "augmentation.masked_model: '/nowhere' could not be loaded",
        ),
        (
            ["--set", "cross_validation.members={x: {backbone: /nowhere}}"],
            "cross_validation.members: 'x': backbone: '/nowhere' could not be loaded",
        ),
        (
            ["--set", "search.space={backbone: [tiny, /nowhere]}"],
            "search.space.backbone[1]: '/nowhere' could not be loaded",
        ),
        (
            ["--set", "compute.engine=ray", "--set", "compute.address=10.0.0.1"],
            "compute.address: no Ray cluster answers at '10.0.0.1'",
        ),
        (
            ["--set", "labels.lab_rates=[0.7]"],
            "lab_rates are shares of the labels, above 0 and at most 0.5",
        ),
        (
            ["--set", "data.split_column=a", "--set", "data.time_column=b"],
            "split_column='a' or by time_column='b', not by both: unset one",
        ),
        (["--profile", "qick"], "no profile 'qick' (did you mean 'quick'?)"),
        (
            ["--set", "training.epoch=3"],
            "no setting 'training.epoch' (did you mean 'training.epochs'?)",
        ),
        (["--set", "training.epochs"], "--set takes key=value"),
        (
            ["--set", "training.epochs=-1"],
            "training.epochs: Input should be greater than 0 (found -1)",
        ),
        (["--set", "split.shares=[0.5, 0.1, 0.1]"], "shares must be positive and sum to 1"),
        (["--from", "99"], "--from 99: no notebook has this number; there are 01, 02, 03, 04, 05"),
        (["--from", "04", "--to", "02"], "--from 04 comes after --to 02"),
        (["--run", "../up"], "a run's name is letters"),
    ],
)
def test_bad_words_are_refused_before_anything_starts(words, message, home):
    result = call(*words)
    assert result.exit_code == 1 and message in result.stderr
    assert files(home) == []


def test_merge_labels_takes_the_data_that_was_refused(tmp_path, home):
    source = tmp_path / "case.csv"
    source.write_bytes(BAD_DATA["case.csv"][0])
    config = Config.load("smoke", {"data.source": str(source), "data.merge_labels": True})
    assert runner.sources.raw_table(config)["label"].value_counts().to_dict() == {
        "red": 31,
        "blue": 30,
    }


def test_an_output_folder_without_permission_is_named(tmp_path, monkeypatch):
    source, locked = tmp_path / "good.csv", tmp_path / "locked"
    source.write_text(GOOD)
    locked.mkdir(mode=0o555)
    monkeypatch.setenv("WORKBOOK_HOME", str(locked))
    is_root = os.geteuid() == 0
    import_module("pyarrow.parquet")
    call(
        "--data", tmp_path / "nowhere.csv"
    )  # imports the rest: nobody may not read Python where it is root's own
    if is_root:  # root may write anywhere: be nobody for the call
        for folder in (tmp_path, *tmp_path.parents):
            folder.chmod(folder.stat().st_mode | 0o055)
        os.seteuid(65534)
    try:
        result = call("--data", source)
    finally:
        if is_root:
            os.seteuid(0)
    assert (
        result.exit_code == 1 and "no permission" in result.stderr and str(locked) in result.stderr
    )
    assert files(locked) == []


def test_too_little_disk_is_refused_before_anything_starts(home, monkeypatch):
    monkeypatch.setattr(runner, "NEEDED_DISK_BYTES", 1e18)
    result = call("--profile", "smoke")
    assert result.exit_code == 1 and "GB free" in result.stderr and "WORKBOOK_HOME" in result.stderr
    assert files(home) == []


def test_a_home_that_does_not_exist_yet_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "new" / "home"))
    result = call("--data", "nowhere.csv")
    assert result.exit_code == 1 and "no such file or folder" in result.stderr
    assert workspace.free_disk() > 0


def test_a_disk_that_fills_up_leaves_no_half_written_table(tmp_path, home, monkeypatch):
    import pyarrow.parquet

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    source = tmp_path / "good.csv"
    source.write_text(GOOD)
    monkeypatch.setattr(pyarrow.parquet, "write_table", full)
    result = call("--data", source)
    assert (
        result.exit_code == 1 and "the disk is full" in result.stderr and "good-" in result.stderr
    )
    assert files(home) == []


def test_the_second_of_two_runs_with_one_name_refuses(home):
    ws = Workspace(dataset="d", run="r")
    with (
        runner._lock(ws),
        pytest.raises(WorkbookError, match="run 'r' is in use by another process"),
        runner._lock(ws),
    ):
        pass
    with runner._lock(ws):
        pass


def executed(folder, source, monkeypatch):
    """Execute a notebook of one cell; return what it printed."""
    monkeypatch.setattr(workspace, "NOTEBOOKS", folder)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    nbformat.write(notebook, folder / "one.ipynb")
    output = folder / "one.out.ipynb"
    assert execution.execute("one", output, {}, progress=False) is None
    return nbformat.read(output, as_version=4).cells[-1].outputs[0].text.split()


def test_the_kernel_is_this_python_whatever_jupyter_path_has(tmp_path, monkeypatch):
    foreign = tmp_path / "share" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    kernel = {"argv": ["false", "{connection_file}"], "display_name": "x", "language": "python"}
    (foreign / "kernel.json").write_text(json.dumps(kernel))
    monkeypatch.setenv("JUPYTER_PATH", str(foreign.parents[1]))
    assert executed(tmp_path, "import sys\nprint(sys.executable)", monkeypatch) == [sys.executable]
    assert list(kernels.OwnKernels().find_kernel_specs()) == ["python3"]


WHERE = (
    "from ipykernel.connect import get_connection_file, get_connection_info\n"
    "info = get_connection_info(unpack=True)\nprint(info['transport'], info['ip'])"
)


def test_a_kernel_in_a_folder_too_deep_for_sockets_is_talked_to_over_the_loopback(
    tmp_path, monkeypatch
):
    deep = tmp_path / ("x" * 60) / ("y" * 60)
    deep.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    assert executed(tmp_path, WHERE, monkeypatch) == ["tcp", "127.0.0.1"]
    assert list(deep.iterdir()) == []


def test_sockets_are_taken_up_to_the_longest_path_of_one():
    assert kernels.connection("x" * 90)["transport"] == "ipc"
    assert kernels.connection("x" * 91)["transport"] == "tcp"
    assert kernels.connection("é" * 45)["transport"] == "ipc"
    assert kernels.connection("é" * 46)["transport"] == "tcp"


def test_relative_paths_mean_the_same_in_the_notebooks(tmp_path, monkeypatch):
    """Notebooks run in a folder of their own."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.csv").write_text(GOOD)
    (tmp_path / "bert").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORKBOOK_HOME", "out/here")
    monkeypatch.setattr(runner, "check", lambda *_: None)
    sessions = []

    def capture(session, *_, **__):
        sessions.append(session)
        return []

    monkeypatch.setattr(runner.Session, "run", capture)
    backbone = {"training.backbone": "bert"}
    result = runner.run_workbook(
        "smoke", data="in/good.csv", overrides={**backbone, "seed": 1}, progress=False
    )
    source = str(tmp_path / "in" / "good.csv")
    absolute = {"training.backbone": str(tmp_path / "bert"), "seed": 1}
    runner.run_workbook("smoke", overrides={"data.source": "in/good.csv", **backbone})
    first, second = sessions
    assert (first.parameters["data"], first.parameters["settings"]) == (source, absolute)
    assert (second.parameters["data"], second.parameters["settings"]) == (
        "",
        {"training.backbone": str(tmp_path / "bert"), "data.source": source},
    )
    assert first.record["settings"]["data.source"] == source
    assert first.record["settings"]["training.backbone"] == str(tmp_path / "bert")
    assert first.record["overrides"] == absolute
    assert os.environ["WORKBOOK_HOME"] == str(tmp_path / "out" / "here")
    assert result.folder == tmp_path / "out" / "here" / "reports" / "good"


@pytest.mark.parametrize(
    "span, started", [(("03", "08"), True), (("06", "08"), True), (("01", "05"), False)]
)
def test_kernels_are_preloaded_where_three_notebooks_with_models_are_left(
    span, started, tmp_path, monkeypatch
):
    calls = []
    monkeypatch.setattr(preloading.KernelServer, "start", lambda _: calls.append(True))
    monkeypatch.setattr(runner.Session, "why_stale", lambda *_: "new")
    monkeypatch.setattr(runner.Session, "execute", lambda *_: None)
    monkeypatch.setattr(runner.Session, "_save_record", lambda _: None)
    steps = [step for step in STEPS if span[0] <= step.number <= span[1]]
    session = runner.Session(None, None, {}, {}, progress=False)
    session.run(steps, None, force=False)
    assert bool(calls) == started


@pytest.mark.parametrize("force", [False, True])
def test_what_is_up_to_date_is_executed_by_force_alone(force, monkeypatch):
    monkeypatch.setattr(runner.Session, "why_stale", lambda *_: "")
    monkeypatch.setattr(runner.Session, "execute", lambda *_: None)
    monkeypatch.setattr(runner.Session, "_save_record", lambda _: None)
    session = runner.Session(None, None, {}, {}, progress=False)
    executed = session.run(STEPS[1:2], None, force=force)
    assert executed == ([STEPS[1].notebook] if force else [])


def test_kernels_side_by_side_share_no_socket_and_leave_none(tmp_path, monkeypatch):
    monkeypatch.setattr(workspace, "NOTEBOOKS", tmp_path)
    cell = (
        "from pathlib import Path\nfrom ipykernel.connect import "
        "get_connection_file\nprint(Path(get_connection_file()).parent)"
    )
    steps = [Step(name, question="", settings=(), reads=()) for name in ("one", "two")]
    for step in steps:
        nbformat.write(
            nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)]),
            tmp_path / f"{step.notebook}.ipynb",
        )

    def execute(step):
        assert (
            execution.execute(
                step.notebook, tmp_path / f"{step.notebook}.out.ipynb", {}, progress=False
            )
            is None
        )
        return (
            nbformat.read(tmp_path / f"{step.notebook}.out.ipynb", as_version=4)
            .cells[-1]
            .outputs[0]
            .text.strip()
        )

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(execute, steps)
    assert first != second and tmp_path not in (Path(first), Path(second))
    assert not Path(first).exists() and not Path(second).exists()
    assert [path for path in tmp_path.iterdir() if path.is_socket()] == []


SLOW_ANSWER = """
import time

handlers = get_ipython().kernel.shell_handlers
answer = handlers["kernel_info_request"]


# the notebook's last request: the answer is out, the kernel is not done with it
async def slowly(*request):
    await answer(*request)
    time.sleep(0.1)


handlers["kernel_info_request"] = slowly
raise ValueError("here it ends")
"""


def test_a_kernel_may_finish_its_last_answer_before_it_is_ended(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(workspace, "NOTEBOOKS", tmp_path)
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SLOW_ANSWER)]),
        tmp_path / "slow.ipynb",
    )
    said = execution.execute("slow", tmp_path / "slow.out.ipynb", {}, progress=False)
    assert said == "slow stopped under '': ValueError: here it ends"
    assert "KeyboardInterrupt" not in capfd.readouterr().err


def test_a_step_is_stale_when_what_it_depends_on_changes_and_only_then(tmp_path, home, monkeypatch):
    source = tmp_path / "good.csv"
    source.write_text(GOOD)

    def keys(overrides=None):
        config = Config.load("smoke", {"data.source": str(source), **(overrides or {})})
        return [runner.step_key(step, config, Workspace("good", "r")) for step in STEPS]

    def changed(overrides=None):
        return [step.number for step, a, b in zip(STEPS, base, keys(overrides)) if a != b]

    runner.sources.raw_table(Config.load("smoke", {"data.source": str(source)}))
    base = keys()
    assert changed() == []
    assert changed({"training.epochs": 7}) == ["04", "05", "06", "07", "08"]
    assert changed({"training.max_length": 50}) == ["01", "04", "05", "06", "07", "08"]
    assert changed({"evaluation.n_mistakes": 3}) == ["07"]
    assert changed({"robustness.rows": 30}) == ["08"]
    assert changed({"export.rows": 30}) == ["09"]
    assert changed({"monitoring.batches": 3}) == ["10"]
    assert changed({"cleaning.min_words": 4}) == ["02", "06"]  # the classifier holds the rules
    assert changed({"labels.queue_rows": 4}) == ["03"]
    assert (
        changed(
            {
                "tracking.backend": "mlflow",
                "tracking.uri": "http://elsewhere",
                "tracking.wandb": True,
                "compute.workers": 2,
            }
        )
        == []
    )
    assert changed({"seed": 1}) == [step.number for step in STEPS]
    log = tmp_path / "log"
    log.mkdir()
    before = keys({"monitoring.log": str(log)})
    (log / "a.jsonl").write_text("a prediction\n")
    after = keys({"monitoring.log": str(log)})
    assert [step.number for step, a, b in zip(STEPS, before, after) if a != b] == ["10"]
    workspace.write_table(pd.DataFrame({"text": ["a"]}), Workspace("good", "r").path("val.parquet"))
    assert changed() == ["04", "06", "07", "08", "09", "10"]
    monkeypatch.setattr(provenance, "code_fingerprint", lambda *_: "other")
    assert changed() == [step.number for step in STEPS]


@pytest.mark.parametrize(
    ("terminal", "shown"), [(True, ["step 1", "step 2", "step 3"]), (False, ["step 1"])]
)
def test_a_log_file_gets_few_lines_of_what_a_terminal_shows_live(monkeypatch, terminal, shown):
    told = []
    bar = SimpleNamespace(set_postfix_str=told.append)
    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: terminal))
    with execution.live_output(bar):
        for step in (1, 2, 3):
            logging.getLogger("papermill").warning("\rstep %d", step)
    assert told == shown
