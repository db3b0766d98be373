import importlib.util
import os
import sys
import threading
import time
from pathlib import Path

import joblib
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import engine_tasks

from lib import workspace
from lib.config import ComputeConfig, Config, CrossValidationConfig, TrainingConfig
from lib.errors import WorkbookError
from lib.training import cross_validation, engine
from lib.workspace import Workspace

RUN = Workspace(dataset="data", run="run")
ROWS = pd.DataFrame({"number": [10, 20, 30, 40]})


def config(**compute):
    return Config(profile="test", training=TrainingConfig(backbone="minilm"), compute=ComputeConfig(**compute))


def run_tasks(task, jobs, *, tables=None, **compute):
    return engine.run_tasks(task, jobs, tables={"rows": ROWS} if tables is None else tables, config=config(**compute), run=RUN, progress=False)


@pytest.fixture
def importable(monkeypatch):
    """Worker processes find the tasks of this test."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), str(workspace.REPOSITORY)]))


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_jobs(home, importable, workers):
    jobs = [{"row": row, "seconds": 0.3 * (row == 0)} for row in (0, 3, 1)]
    found = run_tasks(engine_tasks.add_up, jobs, workers=workers)
    assert [(number, run) for number, run, _ in found] == [(52, "run"), (82, "run"), (62, "run")]
    processes = {process for *_, process in found}
    assert (os.getpid() in processes) == (workers == 1)
    assert len(processes) == workers
    kept = sorted(path.name for path in RUN.folder(workspace.MODELS).rglob("*.parquet"))
    assert kept == ([] if workers == 1 else [f"{workspace.table_fingerprint(ROWS)}.parquet"])


def test_workers_share_the_cores(home, importable):
    n_cores = joblib.cpu_count()
    assert run_tasks(engine_tasks.threads, [{}, {}], workers=2) == [max(1, n_cores // 2)] * 2


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_task_is_raised_as_it_is(home, importable, workers):
    with pytest.raises(WorkbookError, match=r"^row 1 cannot be used$"):
        run_tasks(engine_tasks.fail, [{"row": 0}, {"row": 1}], workers=workers)


def test_a_worker_that_is_killed_is_named_with_the_remedy(home, importable):
    with pytest.raises(WorkbookError, match=r"a worker was killed, .* set compute\.workers lower; the next run goes on"):
        run_tasks(engine_tasks.die, [{}, {}], workers=2)


def test_a_table_that_is_not_there_or_not_what_its_name_says_is_refused(home):
    path = engine._keep(ROWS, RUN)
    assert engine._table(str(path)).equals(ROWS)
    engine._table.cache_clear()
    workspace.write_table(ROWS + 1, path)
    with pytest.raises(WorkbookError, match="does not hold the rows of its name: delete it and run again"):
        engine._table(str(path))
    path.unlink()
    with pytest.raises(WorkbookError, match="WORKBOOK_HOME must be on a disk that all nodes of the cluster share"):
        engine._table(str(path))


def test_cross_validation_in_two_processes_is_that_in_one(home, monkeypatch):
    words = {"birds": "crow finch heron", "tools": "saw drill plane", "fruit": "plum pear quince"}
    labels = [list(words)[i % 3] for i in range(60)]
    rows = pd.DataFrame({"row_id": range(60), "text": [f"{words[label]} row {i}" for i, label in enumerate(labels)], "label": labels, "group": range(60)})
    training = TrainingConfig(backbone="tiny", max_length=16, epochs=1, batch_size=8, unfreeze=(), averaging="none", precision="fp32", threads=1)
    base = Config(profile="test", training=training, cross_validation=CrossValidationConfig(folds=2), tracking={"backend": "none"})
    found = []
    for workers in (1, 2):
        place = Workspace(dataset="data", run=f"with-{workers}")
        settings = base.model_copy(update={"compute": ComputeConfig(workers=workers)})
        found.append(cross_validation.cross_validate(rows, config=settings, run=place, progress=False))
    for name in found[0].probs:
        assert (found[0].probs[name] == found[1].probs[name]).all(), name
    assert found[0].scores.drop(columns="seconds").equals(found[1].scores.drop(columns="seconds"))


def test_ray_that_is_not_installed_is_named_before_anything_starts(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WorkbookError, match=r"compute\.engine=ray needs the package ray: pip install -c constraints\.txt ray, or set compute\.engine=local"):
        engine.check(config(engine="ray"))
    engine.check(config())


@pytest.fixture(scope="module")
def cluster():
    """A head that works on nothing, and two nodes with a core each."""
    pytest.importorskip("ray", reason="the optional package ray is not installed")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    options = {"object_store_memory": 80_000_000, "include_dashboard": False}
    try:
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **options})
        made.nodes = [made.add_node(num_cpus=1, **options) for _ in range(2)]
    except Exception as error:  # no shared memory, no free port: what a machine may lack
        pytest.skip(f"no Ray cluster can be begun on this machine: {error}")
    yield made
    made.shutdown()


@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(300)
def test_a_node_that_is_killed_midway_costs_its_task_alone(home, tmp_path, cluster, monkeypatch):
    monkeypatch.setattr(engine, "PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), str(workspace.REPOSITORY)]))
    jobs = [{"row": row, "folder": str(tmp_path), "seconds": 2.0} for row in (0, 1, 2, 3)]

    lost = []

    def kill():
        while not (at_work := [text for path in tmp_path.glob("began-*") if (text := path.read_text())]):
            time.sleep(0.05)
        lost.append(at_work[0])
        cluster.remove_node(next(node for node in cluster.nodes if node.node_id == lost[0]), allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    found = run_tasks(engine_tasks.leave_a_mark, jobs, engine="ray", address=cluster.address)
    killer.join()
    assert [number for number, _ in found] == [10, 20, 30, 40]
    began = [path.name.split("-")[1] for path in tmp_path.glob("began-*")]
    assert sorted(set(began)) == ["0", "1", "2", "3"]
    assert len(began) == 5, "the task of the lost node was begun twice, no other"
    assert lost[0] not in {node for _, node in found}


@pytest.mark.xdist_group("ray")
def test_an_error_on_ray_is_raised_as_it_is_and_an_address_without_a_cluster_is_named(home, cluster, monkeypatch):
    monkeypatch.setattr(engine, "PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), str(workspace.REPOSITORY)]))
    with pytest.raises(WorkbookError, match=r"^row 1 cannot be used$"):
        run_tasks(engine_tasks.fail, [{"row": 0}, {"row": 1}], engine="ray", address=cluster.address)
    with pytest.raises(WorkbookError, match=r"compute\.address: no Ray cluster answers at '127\.0\.0\.1:9'"):
        run_tasks(engine_tasks.fail, [{"row": 0}], engine="ray", address="127.0.0.1:9")
