import json
import random
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from lib import provenance, workspace
from lib.config import ComputeConfig, Config, TrackingConfig, TrainingConfig
from lib.errors import WorkbookError
from lib.training import cached_training, finetune, mlflow_store, tracking
from lib.training.finetune import callbacks, fine_tuning, launching
from lib.workspace import Workspace

sys.path.insert(0, str(Path(__file__).parent / "finetune"))
from tiny_runs import TRAIN, VAL, configured, differences, home_of_its_own, place

DEAD = "http://127.0.0.1:9"  # nobody listens on the discard port


@pytest.fixture
def home(tmp_path, mlflow_template, monkeypatch):
    monkeypatch.setattr(tracking, "_dead_servers", set())
    with home_of_its_own(tmp_path):
        (tmp_path / "models" / "mlflow").mkdir(parents=True)
        shutil.copy(mlflow_template, tmp_path / "models" / "mlflow")
        yield tmp_path


def tracked(seed=42, learning=None, **settings):
    return configured(seed, **(learning or {})).model_copy(
        update={"tracking": TrackingConfig(**{"system_metrics": False, **settings})}
    )


def train(run="r", name="", config=None, watch=None):
    return finetune.train(
        TRAIN,
        VAL,
        config=config or tracked(),
        ws=place(run),
        progress=False,
        watch=watch,
        name=name,
    )


def recorded(uri=""):
    """Every run of the store, oldest first."""
    client = mlflow_store.connect(uri)
    found = client.get_experiment_by_name("data")
    return (
        client.search_runs([found.experiment_id], order_by=["attributes.start_time"])
        if found
        else []
    )


def points(run, metric, uri=""):
    return sorted(
        (each.step, each.value)
        for each in mlflow_store.connect(uri).get_metric_history(run.info.run_id, metric)
    )


def of_history(result, metric):
    rows = result.history.dropna(subset=metric)
    return list(zip(rows["step"].astype(int), rows[metric]))


def of_kind(kind, uri=""):
    return [run for run in recorded(uri) if run.data.tags["workbook.kind"] == kind]


def assert_holds(run, result):
    for metric in tracking.SERIES:
        assert points(run, metric) == of_history(result, metric) != [], metric


def test_a_training_is_recorded_with_settings_steps_data_and_machine(home):
    result = train()
    parent, child = recorded()
    assert (parent.info.run_name, child.info.run_name) == ("r", "training/seed 42")
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    settings = tracked().flat()
    assert child.data.params == {
        key: str(value)
        for key, value in settings.items()
        if key == "seed" or key.startswith("training.")
    }
    assert parent.data.params.keys() == {
        "profile",
        *(key for key in settings if not key.startswith("tracking.")),
    }
    assert_holds(child, result)
    assert child.data.metrics["weights"] == result.facts["weights"]
    assert child.data.metrics["val_macro_f1"] == pytest.approx(
        result.history["eval_macro_f1"].max()
    )
    tags = child.data.tags
    assert (
        tags["data.train"] == provenance.table_fingerprint(TRAIN)
        and tags["data.train_rows"] == "60"
    )
    assert (tags["device"], tags["precision"], tags["kept"]) == ("cpu", "fp32", "best checkpoint")
    assert tags.get("commit") == provenance.commit() and tags[
        "version.torch"
    ] == provenance.package_version("torch")
    assert (
        parent.data.tags["machine.cores"]
        == tags["machine.cores"]
        == str(provenance.machine_facts()["cores"])
    )


def test_records_stay_inside_a_home_of_any_name(tmp_path, mlflow_template, monkeypatch):
    home = tmp_path / "homes" / "a b%20?x=1#é"
    monkeypatch.setenv("WORKBOOK_HOME", str(home))
    mlflow_store.local_folder().mkdir(parents=True)
    shutil.copy(mlflow_template, mlflow_store.local_folder())
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "page.html").write_text("page")
    with tracking.workbook_run(tracked(), place("r")) as record:
        record.start()
        record.artifacts(pages, "report")
    assert record.notes == []
    (run,) = recorded()
    assert [path.name for path in (tmp_path / "homes").iterdir()] == [home.name]
    artifacts = home / "models" / "mlflow" / "artifacts" / run.info.run_id / "artifacts"
    assert (artifacts / "report" / "page.html").read_text() == "page"


def test_trials_are_children_of_their_series_run_and_a_run_is_not_doubled(home):
    with tracking.workbook_run(tracked(), place("r")) as record:
        record.start()
        train("r/folds", name="transformer-0-1", config=tracked(seed=43))
    with tracking.workbook_run(tracked(), place("r")) as again:
        again.start()
        train("r/ledger", name="R-Drop")
    parent, first, second = recorded()
    assert (parent.data.tags["workbook.kind"], parent.info.status) == ("run", "FINISHED")
    assert [run.info.run_name for run in (first, second)] == [
        "folds/transformer-0-1/seed 43",
        "ledger/R-Drop/seed 42",
    ]
    assert {run.data.tags["mlflow.parentRunId"] for run in (first, second)} == {parent.info.run_id}
    assert [run.data.tags["workbook.series"] for run in (first, second)] == ["folds", "ledger"]
    assert first.data.params["seed"] == "43" and parent.data.params["seed"] == "42"


def test_other_settings_are_another_run_and_other_tracking_or_workers_are_not(home):
    four = tracked().model_copy(update={"compute": ComputeConfig(workers=4)})
    for config in (tracked(), tracked(system_metrics=True), four, tracked(learning={"epochs": 3})):
        with tracking.workbook_run(config, place("r")) as record:
            record.start()
    assert [run.data.params["training.epochs"] for run in recorded()] == ["2.0", "3.0"]


def test_a_run_in_which_nothing_is_done_leaves_nothing(home):
    with tracking.workbook_run(tracked(), place("r")):
        pass
    assert recorded() == []


def test_a_training_that_was_stopped_goes_on_in_the_same_record(home):
    whole = train("whole")

    def stop(history):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(watch=stop)
    (stopped,) = [run for run in of_kind("training") if run.data.tags["workbook.run"] == "r"]
    assert (stopped.info.status, stopped.data.tags["error"]) == ("KILLED", "KeyboardInterrupt: ")
    resumed = train()
    (run,) = [run for run in of_kind("training") if run.data.tags["workbook.run"] == "r"]
    assert (run.info.run_id, run.info.status) == (stopped.info.run_id, "FINISHED")
    assert_holds(run, resumed)
    assert "val_probs" not in differences(whole, resumed)


def test_a_training_whose_process_died_goes_on_in_the_same_record(home):
    opening = tracking._training_opening(TRAIN, VAL, config=tracked(), ws=place("r"), name="")
    tracking.Record(tracked(), opening).start()
    while tracking_stack():
        tracking_stack().pop()  # its process is no more: nobody closed it
    train()
    assert [run.info.status for run in of_kind("training")] == ["FINISHED"]


def tracking_stack():
    from mlflow.tracking import fluent

    return fluent._active_run_stack.get()


def test_a_training_that_fails_is_marked_with_its_error(home):
    with pytest.raises(WorkbookError):
        train(config=tracked(learning={"reinit_layers": 5}))
    parent, child = recorded()
    assert (parent.info.status, child.info.status) == ("FAILED", "FAILED")
    assert (
        child.data.tags["error"]
        == "WorkbookError: training.reinit_layers=5, but the backbone has 2 layers"
    )


def test_a_search_that_stops_a_trial_has_not_failed(home):
    class TrialPruned(Exception):  # noqa: N818 - Optuna's
        pass

    with (
        pytest.raises(TrialPruned),
        tracking.training(TRAIN, VAL, config=tracked(), ws=place("r/search")),
    ):
        raise TrialPruned
    assert of_kind("training")[0].info.status == "KILLED"


def test_a_second_try_is_a_record_of_its_own(home, monkeypatch):
    attempts = []

    def diverge(self, args, state, control, logs, **_):
        attempts.append(state.global_step)
        if len(attempts) == 3:
            raise callbacks.Diverged("loss is nan")

    monkeypatch.setattr(callbacks.DivergenceGuard, "on_log", diverge)
    result = train()
    first, second = of_kind("training")
    assert (first.info.status, second.info.status) == ("FAILED", "FINISHED")
    assert first.data.tags["error"] == "Diverged: loss is nan"
    assert second.info.run_name == "training/seed 42, second try"
    assert_holds(second, result)


def test_several_processes_are_recorded_once(home, monkeypatch):
    def launch(job):
        alone = job.settings.model_copy(update={"processes": 1})
        return fine_tuning.train_in_this_process(
            replace(job.with_settings(alone), progress=False, watch=None, record=None)
        )

    monkeypatch.setattr(launching, "launch", launch)
    result = train(config=tracked(learning={"processes": 2}))
    (child,) = of_kind("training")
    assert_holds(child, result)


def test_a_server_that_is_down_is_named_in_one_line_and_all_is_recorded_here(home, capsys):
    started = time.perf_counter()
    first, second = train(config=tracked(uri=DEAD)), train("other", config=tracked(uri=DEAD))
    assert time.perf_counter() - started < 30
    line = (
        f"tracking: the MLflow server {DEAD} cannot be used, recorded in "
        f"{mlflow_store.local_uri()} instead: [Errno 111] Connection refused"
    )
    assert capsys.readouterr().err == f"workbook: {line}\n"
    assert (first.facts["messages"], second.facts["messages"]) == ([line], [])
    assert [run.info.run_name for run in recorded()] == [
        "r",
        "training/seed 42",
        "other",
        "training/seed 42",
    ]
    assert_holds(of_kind("training")[0], first)
    assert {run.info.status for run in recorded()} == {"FINISHED"}


def test_a_server_that_never_answers_is_given_up_soon(home, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.perf_counter()
        with tracking.training(
            TRAIN,
            VAL,
            config=tracked(uri=f"http://127.0.0.1:{silent.getsockname()[1]}"),
            ws=place("r"),
        ) as record:
            record.metrics({"loss": 1.0}, step=1)
    assert time.perf_counter() - started < 10
    assert [note.split(": ")[-1] for note in record.notes] == ["timed out"]
    assert points(of_kind("training")[0], "loss") == [(1, 1.0)]


@pytest.fixture
def server(mlflow_template, tmp_path, monkeypatch):
    """A store in place of a server, that dies when it has taken `n` batches of numbers."""
    import mlflow

    path, log_metrics = tmp_path / "server.db", mlflow.log_metrics
    shutil.copy(mlflow_template, path)
    server = SimpleNamespace(uri=f"sqlite:///{path}", n=100)

    def metrics(values, step=None):
        if mlflow.get_tracking_uri() == server.uri:
            server.n -= 1
            if server.n < 0:
                raise ConnectionError("[Errno 104] Connection reset by peer")
        log_metrics(values, step=step)

    monkeypatch.setattr(mlflow, "log_metrics", metrics)
    return server


def test_of_a_server_that_dies_midway_nothing_more_is_recorded(home, server):
    server.n = 5
    result = train(config=tracked(uri=server.uri))
    line = f"tracking: nothing more goes to the MLflow server {server.uri}"
    assert result.facts["messages"] == [f"{line}: [Errno 104] Connection reset by peer"]
    (child,) = of_kind("training", server.uri)
    assert points(child, "loss", server.uri) == of_history(result, "loss")[:5]
    assert recorded() == [] and tracking_stack() == []
    after = train("after", config=tracked(uri=server.uri))
    assert_holds(of_kind("training")[0], after)
    assert after.facts["messages"] == []


def test_a_password_in_a_servers_address_is_not_told(home, capsys):
    result = train(config=tracked(uri="http://someone:secret@127.0.0.1:9"))
    assert "the MLflow server http://127.0.0.1:9 cannot" in result.facts["messages"][0]
    assert "secret" not in str(result.facts) + capsys.readouterr().err


def test_where_nothing_can_be_recorded_the_training_goes_on(home, monkeypatch, capsys):
    def full(uri=""):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mlflow_store, "connect", full)
    result = train()
    store = mlflow_store.local_uri()
    assert result.facts["messages"] == [
        f"tracking: nothing more goes to {store}: [Errno 28] No space left on device"
    ]
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_result_is_the_same_with_and_without_a_record(home):
    with_record, without = (
        train("a", config=tracked(system_metrics=True)),
        train("b", config=tracked(backend="none")),
    )
    assert with_record.val_probs.tobytes() == without.val_probs.tobytes()
    assert differences(with_record, without) == []
    assert {run.data.tags["workbook.run"] for run in recorded()} == {"a"}


def test_what_a_record_draws_at_random_moves_nothing_of_a_training(home, monkeypatch):
    import mlflow

    monkeypatch.setattr(mlflow, "set_tags", lambda *_: (random.random(), np.random.rand()))
    random.seed(1)
    np.random.seed(1)
    expected = random.Random(1).random(), np.random.RandomState(1).rand()
    with tracking.training(TRAIN, VAL, config=tracked(), ws=place("r")) as record:
        record.tags({"a": "b"})
    assert (random.random(), np.random.rand()) == expected


def test_without_tracking_nothing_is_imported_or_written(tmp_path):
    words = (
        "import sys; from lib.training import finetune, tracking, cached_training; "
        "print([name for name in ('mlflow', 'wandb') if name in sys.modules])"
    )
    said = subprocess.run(
        [sys.executable, "-c", words], capture_output=True, text=True, cwd=workspace.REPOSITORY
    )
    assert said.stdout.strip() == "[]", said.stderr
    with home_of_its_own(tmp_path):
        assert (
            Config.load("smoke").tracking.backend == "none"
            and Config.load("quick").tracking.backend == "mlflow"
        )
        with tracking.training(TRAIN, VAL, config=tracked(backend="none"), ws=place("r")) as record:
            assert record is None
    assert list(tmp_path.iterdir()) == []


def test_the_load_of_the_machine_is_recorded_beside_a_training(home, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
    with tracking.training(TRAIN, VAL, config=tracked(system_metrics=True), ws=place("r")):
        time.sleep(1.5)
    (child,) = of_kind("training")
    assert 0 <= child.data.metrics["system/cpu_utilization_percentage"] <= 100
    assert child.data.metrics["system/system_memory_usage_megabytes"] > 0


def test_settings_of_tracking_train_no_trial_again(home, monkeypatch):
    calls = []

    def once(train, stop, *, config, ws, progress, watch, name):
        calls.append(name)
        return SimpleNamespace(
            val_probs=np.eye(3)[[0] * len(stop)], facts={"training_seconds": 1.0}
        )

    monkeypatch.setattr(finetune, "train", once)
    for config in (tracked(), tracked(backend="none"), tracked(uri=DEAD)):
        cached_training.train_and_predict(
            TRAIN, VAL, config=config, ws=place("r/folds"), name="one"
        )
    assert calls == ["one"]


def test_a_missing_wandb_is_named_before_anything_starts(tmp_path, monkeypatch):
    from lib.delivery.cli import main

    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    said = CliRunner().invoke(
        main, ["run", "--quiet", "--profile", "smoke", "--set", "tracking.wandb=true"]
    )
    assert said.exit_code == 1
    assert (
        said.stderr == "workbook: tracking.wandb=true needs the package wandb: pip install -c "
        "constraints.txt wandb, or set tracking.wandb=false\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_wandb_has_what_mlflow_has(home, monkeypatch):
    pytest.importorskip(
        "wandb", reason="W&B is an optional package: pip install -c constraints.txt wandb"
    )
    monkeypatch.setenv("WANDB_MODE", "offline")
    result = train(config=tracked(wandb=True))
    (child,) = of_kind("training")
    config, history, _ = wandb_content(home)
    assert {key: str(config[key]) for key in ("seed", "training.epochs")} == {
        "seed": "42",
        "training.epochs": child.data.params["training.epochs"],
    }
    assert config["data.train"] == child.data.tags["data.train"]
    for metric in tracking.SERIES:
        name = f"eval/{metric[5:]}" if metric.startswith("eval_") else f"train/{metric}"
        live = [
            (values["train/global_step"], values[name]) for _, values in history if name in values
        ]
        assert live == of_history(result, metric) != [], metric
    without = train("plain", config=tracked(backend="none"))
    assert without.val_probs.tobytes() == result.val_probs.tobytes()


def test_without_an_answer_of_wandb_a_training_goes_on(home, monkeypatch):
    wandb = pytest.importorskip("wandb")

    def down(**_):
        raise ConnectionError("[Errno 111] Connection refused")

    monkeypatch.setattr(wandb, "init", down)
    result = train(config=tracked(wandb=True))
    line = "tracking: nothing goes to W&B: [Errno 111] Connection refused"
    assert result.facts["messages"] == [line]
    assert_holds(of_kind("training")[0], result)


def wandb_content(home):
    """Read the file that W&B leaves offline: config, history by step, summary."""
    from wandb.proto import wandb_internal_pb2

    (path,) = (home / "models" / "wandb").glob("wandb/offline-run-*/*.wandb")
    config, history, summary = {}, [], {}

    def values_of(items):
        return {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}

    for data in leveldb_records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        config |= values_of(record.run.config.update) | values_of(record.config.update)
        summary |= values_of(record.summary.update)
        if record.history.item:
            history.append((record.history.step.num, values_of(record.history.item)))
    return config, history, summary


def leveldb_records(content, header=7, block=32_768):
    """Yield the records of a log in LevelDB's format: checksum (4 bytes), length (2), kind (1; 1
    whole, 2 first, 3 middle, 4 last), data."""
    place, parts = header, []
    while place + 7 <= len(content):
        if block - place % block < 7:  # padding
            place += block - place % block
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        parts.append(content[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):
            yield b"".join(parts)
            parts = []


def test_a_config_refuses_another_backend():
    with pytest.raises(
        WorkbookError, match=r"tracking\.backend: Input should be 'mlflow' or 'none'"
    ):
        Config.load("smoke", {"tracking.backend": "mlfow"})


def test_a_record_of_a_run_holds_data_and_settings_of_the_whole_run(home):
    config = Config(profile="test", training=TrainingConfig(), tracking=TrackingConfig())
    path = tracking.sources.raw_path(config)
    workspace.write_table(TRAIN, path, facts={"fingerprint": "abc", "rows": 60})
    with (
        pytest.raises(WorkbookError),
        tracking.workbook_run(config, Workspace("data", "r")) as record,
    ):
        record.start()
        raise WorkbookError("02 stopped")
    (run,) = recorded()
    assert (run.data.tags["data.fingerprint"], run.data.tags["data.rows"]) == ("abc", "60")
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "WorkbookError: 02 stopped")
