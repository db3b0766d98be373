"""Each example run once by the real engine, in the environment that `make engines` makes for it."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import REPOSITORY

from lib import workspace
from lib.delivery.dvc import export_dvc

EXAMPLES = REPOSITORY / "examples"
ROWS = 60


def engine(name, program="python"):
    path = REPOSITORY / ".engines" / name / "bin" / program
    if not path.exists():
        pytest.skip(f"{name} is not installed: make engines")
    return path


@pytest.fixture
def table(tmp_path):
    rows = [(f"the {word} number {i} is here", label) for i in range(ROWS // 2)
            for word, label in (("owl", "bird"), ("saw", "tool"))]  # fmt: skip
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(tmp_path / "my.csv", index=False)
    return tmp_path / "my.csv"


def environment(home, table, **more):
    return {
        **os.environ,
        "WORKBOOK_HOME": str(home),
        "WORKBOOK": str(Path(sys.executable).with_name("workbook")),
        "WORKBOOK_ARGS": f"--profile smoke --data {table} --to 01",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DO_NOT_TRACK": "1",
        **more,
    }


def run(command, **options):
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=540, **options
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4_000:]
    return done.stdout


def finished(home, name):
    record = workspace.read_json(home / "reports" / name / "run.json")
    return record["steps"]["01_profile_data"]["state"] == "done"


@pytest.mark.timeout(600)
def test_an_airflow_dag_runs_the_notebooks_and_asks_for_the_registration(home, table, tmp_path):
    python = engine("apache-airflow")
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "airflow_dag.py").write_text((EXAMPLES / "airflow_dag.py").read_text())
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from airflow_dag import workbook_dag\n"
        "found = workbook_dag.test()\n"
        "for task in found.get_task_instances(): print('TASK', task.task_id, task.state)"
    )
    env = environment(
        home,
        table,
        AIRFLOW_HOME=str(tmp_path / "airflow"),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__CORE__DAGS_FOLDER=str(dags),
    )
    run([python.with_name("airflow"), "db", "migrate"], env=env)
    said = run([python, "-c", script, dags], env=env)
    (name,) = [path.name for path in (home / "reports").iterdir()]
    assert name.startswith("week-20")
    assert finished(home, name)
    assert "TASK run success" in said
    assert "TASK register failed" in said  # a run of 01 alone has no classifier


@pytest.mark.timeout(600)
def test_a_prefect_flow_runs_the_notebooks(home, table, tmp_path):
    python = engine("prefect")
    env = environment(
        home,
        table,
        PREFECT_HOME=str(tmp_path / "prefect"),
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="240",
    )
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from prefect_flow import workbook_flow\n"
        "print('DONE', workbook_flow('by-prefect', register_it=False))"
    )
    assert "DONE by-prefect" in run([python, "-c", script, EXAMPLES], env=env)
    assert finished(home, "by-prefect")


@pytest.mark.timeout(600)
def test_dvc_makes_again_what_has_changed_and_nothing_else(home, table):
    dvc = engine("dvc", "dvc")
    env = environment(home, table, DVC_NO_ANALYTICS="1")
    words = ["run", "--quiet", "--run", "one", "--profile", "smoke", "--data", table, "--to", "02"]
    run([env["WORKBOOK"], *words], env=env)
    path = export_dvc("one")
    stages = yaml.safe_load(path.read_text())["stages"]
    assert list(stages) == ["one-01", "one-02"]
    run([dvc, "init", "-q", "--no-scm"], cwd=home, env=env)
    run([dvc, "repro"], cwd=home, env=env)
    assert "Data and pipelines are up to date" in run([dvc, "repro"], cwd=home, env=env)
    table.write_text(table.read_text() + "one more owl is over there,bird\n")
    said = run([dvc, "repro"], cwd=home, env=env)
    assert "Running stage 'one-02'" in said


def test_kubernetes_manifests_fit_their_schemas(tmp_path):
    validate = engine("kubernetes-validate", "kubernetes-validate")
    paths = sorted((EXAMPLES / "kubernetes").glob("*.yaml"))
    assert [path.name for path in paths] == ["serve_deployment.yaml", "train_job.yaml"]
    run([validate, "--strict", *paths])
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(paths[1].read_text().replace("restartPolicy", "restartPolice"))
    assert subprocess.run([validate, "--strict", wrong], capture_output=True).returncode != 0


def test_the_kubeflow_pipeline_compiles_to_two_steps(tmp_path):
    python = engine("kfp")
    target = tmp_path / "pipeline.yaml"
    run([python, EXAMPLES / "kubeflow_pipeline.py", target])
    tasks = yaml.safe_load(target.read_text())["root"]["dag"]["tasks"]
    assert sorted(tasks) == ["register", "train"]
    assert tasks["register"]["dependentTasks"] == ["train"]
