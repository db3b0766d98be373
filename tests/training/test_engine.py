import importlib.util
import multiprocessing.context
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import joblib
import pandas as pd
import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import engine_tasks

from lib import provenance, workspace
from lib.config import ComputeConfig, Config, CrossValidationConfig, SearchConfig, TrainingConfig
from lib.errors import WorkbookError
from lib.training import engine, search
from lib.workspace import Workspace

RUN = Workspace(dataset="data", run="run")
NODE = {"object_store_memory": 80_000_000, "include_dashboard": False}
ROWS = pd.DataFrame({"number": [10, 20, 30, 40]})


def config(**compute):
    return Config(
        profile="test", training=TrainingConfig(backbone="minilm"), compute=ComputeConfig(**compute)
    )


def run_tasks(task, jobs, *, tables=None, **compute):
    return engine.run_tasks(
        task,
        jobs,
        tables={"rows": ROWS} if tables is None else tables,
        config=config(**compute),
        ws=RUN,
        progress=False,
    )


@pytest.fixture
def importable(monkeypatch):
    """Worker processes find the tasks of this test."""
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), str(workspace.REPOSITORY)])
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_jobs(home, importable, tmp_path, workers):
    (folder := tmp_path / "processes").mkdir()
    jobs = [{"row": row, "folder": str(folder), "workers": workers} for row in (0, 3, 1)]
    found = run_tasks(engine_tasks.add_up, jobs, workers=workers)
    assert [(number, ws) for number, ws, _ in found] == [(52, "run"), (82, "run"), (62, "run")]
    processes = {process for *_, process in found}
    assert (os.getpid() in processes) == (workers == 1)
    assert len(processes) == workers
    kept = sorted(path.name for path in RUN.folder(workspace.MODELS).rglob("*.parquet"))
    assert kept == ([] if workers == 1 else [f"{provenance.table_fingerprint(ROWS)}.parquet"])


def test_workers_share_the_cores(home, importable):
    n_cores = joblib.cpu_count()
    assert run_tasks(engine_tasks.threads, [{}, {}], workers=2) == [(max(1, n_cores // 2),) * 2] * 2


def test_workers_see_the_environment_as_it_is_now(home, importable, monkeypatch):
    for value in ("one", "two"):
        monkeypatch.setenv("WORKBOOK_TEST", value)
        assert (
            run_tasks(engine_tasks.variable, [{"name": "WORKBOOK_TEST"}] * 2, workers=2)
            == [value] * 2
        )


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
def test_the_module_of_a_task_is_imported_before_the_first_fork(home, importable, monkeypatch):
    preloaded = []
    monkeypatch.setattr(
        multiprocessing.context.BaseContext,
        "set_forkserver_preload",
        lambda _context, modules: preloaded.append(modules),
    )
    run_tasks(engine_tasks.variable, [{"name": "HOME"}], workers=2)
    assert preloaded == [["lib.training.engine", "engine_tasks"]]


ORPHANING = """
import sys
sys.path.insert(0, {tests!r})
import engine_tasks, test_engine
test_engine.run_tasks(engine_tasks.sleep, [{{"folder": {folder!r}}}] * 2, workers=2)
"""


def test_workers_end_with_the_process_that_began_them(home, tmp_path):
    code = ORPHANING.format(
        tests=str(Path(__file__).parent), folder=str(marks := tmp_path / "marks")
    )
    marks.mkdir()
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "PYTHONPATH": f"{workspace.REPOSITORY}:{workspace.REPOSITORY / 'tests'}",
        },
    )
    while len(workers := [int(path.name) for path in marks.iterdir()]) < 2:
        assert parent.poll() is None
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    left = [psutil.Process(worker) for worker in workers if psutil.pid_exists(worker)]
    _, alive = psutil.wait_procs(left, timeout=10)
    assert [
        process for process in alive if process.status() != psutil.STATUS_ZOMBIE
    ] == []  # an ended one that nobody has asked after yet


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_task_is_raised_as_it_is(home, importable, workers):
    with pytest.raises(WorkbookError, match=r"^row 1 cannot be used$"):
        run_tasks(engine_tasks.fail, [{"row": 0}, {"row": 1}], workers=workers)


def test_an_error_ends_what_has_not_begun_and_what_is_at_work(home, importable):
    begun = []

    def task(tables, *, config, ws, row):
        begun.append(row)
        engine_tasks.fail(tables, config=config, ws=ws, row=row)

    with pytest.raises(WorkbookError, match="row 1"):
        run_tasks(task, [{"row": row} for row in range(4)])
    assert begun == [0, 1]
    started = time.monotonic()
    with pytest.raises(WorkbookError, match="nothing to wait for"):
        run_tasks(engine_tasks.fail_or_sleep, [{"seconds": 120}, {"seconds": 0}], workers=2)
    assert time.monotonic() - started < 60


def test_a_worker_that_is_killed_is_named_with_the_remedy(home, importable):
    with pytest.raises(
        WorkbookError,
        match=r"a worker was killed, .* set compute\.workers lower; the next run goes on",
    ):
        run_tasks(engine_tasks.die, [{}, {}], workers=2)


def test_a_table_that_is_not_there_or_not_what_its_name_says_is_refused(home):
    path = engine._save_table(ROWS, RUN)
    assert engine._load_table(str(path)).equals(ROWS)
    engine._load_table.cache_clear()
    workspace.write_table(ROWS + 1, path)
    with pytest.raises(
        WorkbookError, match="does not hold the rows of its name: delete it and run again"
    ):
        engine._load_table(str(path))
    path.unlink()
    with pytest.raises(
        WorkbookError, match="WORKBOOK_HOME must be on a disk that all nodes of the cluster share"
    ):
        engine._load_table(str(path))


def test_cross_validation_in_two_processes_is_that_in_one(home, monkeypatch):
    words = {"birds": "crow finch heron", "tools": "saw drill plane", "fruit": "plum pear quince"}
    labels = [list(words)[i % 3] for i in range(60)]
    rows = pd.DataFrame(
        {
            "row_id": range(60),
            "text": [f"{words[label]} row {i}" for i, label in enumerate(labels)],
            "label": labels,
            "group": range(60),
        }
    )
    training = TrainingConfig(
        backbone="tiny",
        max_length=16,
        epochs=1,
        batch_size=8,
        unfreeze=(),
        averaging="none",
        precision="fp32",
        threads=1,
    )
    base = Config(
        profile="test",
        training=training,
        cross_validation=CrossValidationConfig(folds=2),
        tracking={"backend": "none"},
    )
    found = []
    for workers in (1, 2):
        place = Workspace(dataset="data", run=f"with-{workers}")
        settings = base.model_copy(update={"compute": ComputeConfig(workers=workers)})
        found.append(search.cross_validate(rows, config=settings, ws=place, progress=False))
    for name in found[0].probs:
        assert (found[0].probs[name] == found[1].probs[name]).all(), name
    assert found[0].scores.drop(columns="seconds").equals(found[1].scores.drop(columns="seconds"))


def test_ray_that_is_not_installed_is_named_before_anything_starts(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        WorkbookError,
        match=r"compute\.engine=ray needs the package ray: pip install -c constraints\.txt ray, "
        r"or set compute\.engine=local",
    ):
        engine.check(config(engine="ray"))
    engine.check(config())


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:9", "127.0.0.1:99999", "ray://127.0.0.1:9", "no host:6379", "127.0.0.1:port"],
)
def test_an_address_without_a_cluster_is_named_before_anything_starts(monkeypatch, address):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "ray is there")
    with pytest.raises(
        WorkbookError,
        match=rf"^compute\.address: no Ray cluster answers at '{re.escape(address)}': .*ray "
        r"start --head",
    ):
        engine.check(config(engine="ray", address=address))


@pytest.fixture(scope="module")
def head():
    """A head that works on nothing."""
    pytest.importorskip("ray", reason="the optional package ray is not installed")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    try:
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **NODE})
        made.workers = []
    except Exception as error:  # no shared memory, no free port: what a machine may lack
        pytest.skip(f"no Ray cluster can be begun on this machine: {error}")
    yield made
    made.shutdown()


@pytest.fixture
def cluster(head, monkeypatch):
    """Two nodes with a core each, beside the head."""
    monkeypatch.setattr(
        engine,
        "PYTHONPATH",
        os.pathsep.join([str(Path(__file__).parent), str(workspace.REPOSITORY)]),
    )
    while len(head.workers) < 2:
        head.workers.append(head.add_node(num_cpus=1, **NODE))
    return head


@contextmanager
def one_lost(cluster, folder):
    """Kill the node that first says in this folder that it is at work; give the list that its id is
    written to."""
    lost = []

    def kill():
        while not (
            at_work := [text for path in folder.rglob("began-*") if (text := path.read_text())]
        ):
            time.sleep(0.05)
        lost.append(at_work[0])
        (node,) = (node for node in cluster.workers if node.node_id == lost[0])
        cluster.workers.remove(node)
        cluster.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    yield lost
    killer.join()


@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(300)
def test_a_node_that_is_killed_midway_costs_its_task_alone(home, tmp_path, cluster):
    jobs = [{"row": row, "folder": str(tmp_path), "seconds": 2.0} for row in (0, 1, 2, 3)]
    with one_lost(cluster, tmp_path) as lost:
        found = run_tasks(engine_tasks.leave_a_mark, jobs, engine="ray", address=cluster.address)
    assert [number for number, _ in found] == [10, 20, 30, 40]
    began = [path.name.split("-")[1] for path in tmp_path.glob("began-*")]
    assert sorted(set(began)) == ["0", "1", "2", "3"]
    assert len(began) == 5, "the task of the lost node was begun twice, no other"
    assert lost[0] not in {node for _, node in found}


@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(300)
def test_a_search_on_ray_comes_to_its_budget_though_a_node_is_killed(home, cluster):
    rows = pd.DataFrame(
        {
            "row_id": range(40),
            "text": [f"row {i}" for i in range(40)],
            "label": ["a", "b"] * 20,
            "group": range(40),
        }
    )
    space = SearchConfig(
        trials=4, rows=None, pruner="none", space={"learning_rate": {"low": 0.1, "high": 0.2}}
    )
    settings = config(engine="ray", address=cluster.address, workers=2).model_copy(
        update={"search": space}
    )
    with one_lost(cluster, home) as lost:
        result = search.search(
            rows, config=settings, ws=RUN, objective=engine_tasks.mark_trial, progress=False
        )
    assert len(lost) == 1
    assert result.trials["state"].tolist() == ["COMPLETE"] * 4
    assert result.trials["value"].tolist() == result.trials["learning_rate"].tolist()
    folder = result.task.folder
    assert len(list(folder.glob("began-*"))) == 5, (
        "the trial of the lost node was begun twice, no other"
    )
    tables = {
        f"{provenance.table_fingerprint(table)}.parquet"
        for table in (result.task.fit, result.task.stop, result.task.scored)
    }
    assert {path.name for path in (folder / "tables").iterdir()} == tables


@pytest.mark.xdist_group("ray")
def test_an_error_on_ray_is_raised_as_it_is(home, cluster):
    with pytest.raises(WorkbookError, match=r"^row 1 cannot be used$"):
        run_tasks(
            engine_tasks.fail, [{"row": 0}, {"row": 1}], engine="ray", address=cluster.address
        )
