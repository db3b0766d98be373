import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from finished_runs import CLASSES, answers, finished_run, sealed_rows

from lib import workspace
from lib.config import Config
from lib.delivery import pyfunc_model, recording, registry
from lib.delivery.cli import main
from lib.errors import WorkbookError
from lib.evaluation import sealed
from lib.training import classifier_folder, mlflow_store, tracking
from lib.workspace import Workspace

ROWS = sealed_rows()
OLD = {
    "dataset": "d",
    "classes": "c",
    "training_data": "t",
    "recipe": "r",
    "backbone": "b",
    "seed": "1",
    "commit": "x",
}
FIRST, SECOND = "deberta-v3-base-v1.0.0", "deberta-v3-base-v1.1.0"


@pytest.fixture
def home(tmp_path, mlflow_template, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))
    monkeypatch.setattr(pyfunc_model, "requirements", lambda folder: ["numpy"])  # no real models
    (tmp_path / "models" / "mlflow").mkdir(parents=True)
    shutil.copy(mlflow_template, tmp_path / "models" / "mlflow")
    return tmp_path


def registered(name, ensemble, **more):
    finished_run(name, ensemble, **more)
    return registry.register(name)[0].label


def refused(call, *words, **more):
    with pytest.raises(WorkbookError) as caught:
        call(*words, **more)
    return str(caught.value)


def aliases():
    return {
        alias: row.model
        for row in registry.models().itertuples()
        for alias in row.alias.split(", ")
        if alias
    }


@pytest.mark.parametrize(
    ("last", "changed", "version"),
    [
        ("", {}, "1.0.0"),
        ("1.2.3", {}, "1.2.4"),
        ("1.2.3", {"seed": "2", "commit": "y"}, "1.2.4"),
        ("1.2.3", {"training_data": "T"}, "1.3.0"),
        ("1.2.3", {"recipe": "R"}, "1.3.0"),
        ("1.2.3", {"backbone": "B"}, "1.3.0"),
        ("1.2.3", {"classes": "C"}, "2.0.0"),
        ("1.2.3", {"dataset": "D"}, "2.0.0"),
        ("1.2.3", {"dataset": "D", "recipe": "R"}, "2.0.0"),
        ("1.9.9", {"recipe": "R"}, "1.10.0"),
    ],
)
def test_the_rule_of_versions(last, changed, version):
    assert registry.next_version(last, OLD, OLD | changed) == version


def test_a_version_says_what_it_was_made_from(home):
    ws = finished_run("one", answers(ROWS, 20))
    workspace.write_text("# card\n", ws.path("README.md"))
    version, new = registry.register("one")
    assert (version.label, new, version.aliases) == (FIRST, True, ("challenger",))
    tags = version.tags
    assert (tags["run"], tags["dataset"], tags["data"], tags["commit"], tags["version"]) == (
        "one",
        "data",
        "f" * 64,
        "c" * 40,
        "1.0.0",
    )
    assert tags["model"] == classifier_folder.fingerprint(ws.path("classifier"))
    accuracy = workspace.read_json(ws.path("metrics.json"))["models"]["ensemble"]["intervals"][
        "accuracy"
    ]
    assert tags["metric.accuracy"] == f"0.917 [{accuracy['low']:.3f}, {accuracy['high']:.3f}]"
    client = mlflow_store.connect()
    stored = client.get_model_version(version.name, version.number)
    assert (
        stored.source == f"runs:/{version.run_id}/{FIRST}/model"
        and client.get_run(version.run_id).info.run_name == "one"
    )
    loaded = client.download_artifacts(version.run_id, f"{FIRST}/model", str(home))
    folder = pyfunc_model.classifier_in(home / loaded)
    assert classifier_folder.fingerprint(folder) == tags["model"]
    assert (folder / "README.md").read_text() == "# card\n"


def test_versions_follow_what_was_changed(home):
    labels = [
        registered("one", answers(ROWS)),
        registered("seed", answers(ROWS), seed=7),
        registered("rate", answers(ROWS), **{"training.learning_rate": 0.5}),
        registered("rows", answers(ROWS), train="b", **{"training.learning_rate": 0.5}),
        registered(
            "noted",
            answers(ROWS),
            train="b",
            **{"training.learning_rate": 0.5, "evaluation.n_mistakes": 3, "augmentation.rows": 50},
        ),
        registered(
            "taught",
            answers(ROWS),
            train="b",
            **{"training.learning_rate": 0.5, "augmentation.train": True, "augmentation.rows": 50},
        ),
        registered("data", answers(ROWS), dataset="other"),
        registered("large", answers(ROWS), **{"training.backbone": "microsoft/deberta-v3-large"}),
    ]
    versions = ["v1.0.0", "v1.0.1", "v1.1.0", "v1.2.0", "v1.2.1", "v1.3.0", "v2.0.0"]
    assert labels == [
        *(f"deberta-v3-base-{version}" for version in versions),
        "deberta-v3-large-v1.0.0",
    ]


def test_the_same_model_is_registered_once(home):
    finished_run("one", answers(ROWS))
    first, again = registry.register("one"), registry.register("one")
    assert (first[0], first[1], again[1]) == (again[0], True, False)
    assert registry.models()["model"].tolist() == [FIRST]


def test_a_model_that_was_not_evaluated_is_refused(home):
    ws = finished_run("one", answers(ROWS))
    workspace.write_json({"weights": "others"}, ws.path("classifier") / "more.json")
    message = "is not the model that was evaluated: `workbook run --run one` evaluates it"
    assert refused(registry.register, "one") == f"{ws.path('classifier')} {message}"
    assert refused(registry.register, "on").startswith("no run 'on'")
    assert registry.models().empty


def test_the_folder_with_exports_is_registered_where_there_is_one(home):
    ws = finished_run("one", answers(ROWS))
    exported = ws.path("classifier").with_name("exported_classifier")
    shutil.copytree(ws.path("classifier"), exported)
    workspace.write_json({"from": "the exports"}, exported / "origin.json")
    registry.download(registry.register("one")[0], home / "found")
    assert workspace.read_json(home / "found" / "origin.json") == {"from": "the exports"}
    workspace.write_json({"weights": "others"}, exported / "more.json")
    message = "is not the model that was evaluated: `workbook run --run one` evaluates it"
    assert refused(registry.register, "one") == f"{exported} {message}"


def test_the_first_champion_has_nobody_to_beat_and_a_better_one_follows(home):
    assert registered("one", answers(ROWS, 60)) == FIRST
    assert aliases() == {"challenger": FIRST}
    version, words = registry.promote(FIRST)
    assert (words, version.aliases, aliases()) == (
        "there was none to beat",
        ("champion",),
        {"champion": FIRST},
    )
    registered("two", answers(ROWS, 20), train="b")
    assert aliases() == {"champion": FIRST, "challenger": SECOND}
    version, words = registry.promote(SECOND)
    assert words.startswith(f"{SECOND} is better than {FIRST}: macro F1 +0.16")
    assert aliases() == {"champion": SECOND, "previous": FIRST}
    assert version.tags["promotion"] == words and "forced" not in version.tags
    assert refused(registry.promote, SECOND) == f"{SECOND} is the champion already"


def test_a_challenger_that_is_not_better_needs_a_reason_which_is_kept(home):
    registry.promote(registered("one", answers(ROWS, 20)))
    registered("two", answers(ROWS, 21), train="b")
    message = refused(registry.promote, SECOND)
    assert message.startswith(
        f"{SECOND} is not promoted: {SECOND} is not significantly different from {FIRST}: "
    ) and message.endswith("--force --reason '...'")
    assert aliases() == {"champion": FIRST, "challenger": SECOND}
    for half in ({"force": True}, {"reason": "so be it"}, {"force": True, "reason": " "}):
        assert refused(registry.promote, SECOND, **half).startswith(
            "--force and --reason go together"
        )
    version, words = registry.promote(SECOND, force=True, reason="half the size")
    assert version.tags["forced"] == "half the size" and version.tags["promotion"].startswith(
        f"{SECOND} is not significantly different"
    )
    assert words.startswith("forced (half the size): ") and aliases() == {
        "champion": SECOND,
        "previous": FIRST,
    }


def test_a_challenger_that_is_better_in_all_but_worse_on_a_class_is_refused(home):
    y_true = answers(ROWS)
    champion, challenger = y_true.copy(), y_true.copy()
    others, tools = np.flatnonzero(y_true < 2)[:100], np.flatnonzero(y_true == 2)[:20]
    champion[others] = 1 - y_true[others]  # birds and fruit are mixed up, tools are known
    challenger[tools] = 0
    registry.promote(registered("one", champion))
    registered("two", challenger, train="b")
    message = refused(registry.promote, SECOND)
    assert "is better than" in message and "; its F1 is worse on tool -0." in message
    assert aliases()["champion"] == FIRST


def test_models_of_other_test_sets_or_classes_are_not_compared(home):
    registry.promote(registered("one", answers(ROWS, 60)))
    registered("two", answers(ROWS), rows=sealed_rows(seed=9), train="b")
    assert "were measured on other test sets" in refused(registry.promote, SECOND)
    classes = (*CLASSES[:2], "vehicle")
    label = registered(
        "three", answers(sealed_rows(classes=classes), classes=classes), classes=classes
    )
    assert label == "deberta-v3-base-v2.0.0" and "'vehicle' is a class of" in refused(
        registry.promote, label
    )


def test_a_promotion_reads_the_labels_as_a_model_measured_before_also_when_its_run_is_gone(home):
    registry.promote(registered("one", answers(ROWS, 60)))
    registered("two", answers(ROWS, 20), train="b")
    ws = Workspace("data", "two")
    for folder in (workspace.MODELS, workspace.PROCESSED, workspace.REPORTS):
        shutil.rmtree(ws.folder(folder))
    registry.promote(SECOND)
    ledger = sealed.ledger(Workspace("data", "one"))
    assert (
        sealed.n_evaluations(ledger) == 2
        and ledger["why"].iloc[-1] == f"comparison of {SECOND} with {FIRST}"
    )


def test_without_any_runs_test_set_nothing_is_promoted(home):
    registry.promote(registered("one", answers(ROWS, 60)))
    registered("two", answers(ROWS, 20), train="b")
    shutil.rmtree(home / "data")
    missing = (
        f"no run has the test set of {SECOND} any more: `workbook run --run two` makes it again"
    )
    assert (
        refused(registry.promote, SECOND)
        == f"{SECOND} is not promoted: {missing}. To do so all the same: --force --reason '...'"
    )
    assert aliases()["champion"] == FIRST


def test_without_any_runs_test_set_a_forced_promotion_keeps_what_stood_in_its_way(home):
    registry.promote(registered("one", answers(ROWS, 60)))
    registered("two", answers(ROWS, 20), train="b")
    shutil.rmtree(home / "data")
    version, words = registry.promote(SECOND, force=True, reason="the disk is gone")
    assert version.aliases == ("champion",)
    assert (
        words
        == f"forced (the disk is gone): no run has the test set of {SECOND} any more: `workbook "
        "run --run two` makes it again"
    )


def test_a_model_is_registered_under_the_settings_it_was_trained_with(home):
    ws = finished_run("one", answers(ROWS, 20), seed=7)
    record = workspace.read_json(ws.folder(workspace.REPORTS) / "run.json")
    record["settings"] |= {
        "training.backbone": "minilm",
        "seed": 8,
        "training.epochs": 99,
    }  # of a later call, which did not train
    workspace.write_json(record, ws.folder(workspace.REPORTS) / "run.json")
    version, _ = registry.register("one")
    assert (version.label, version.tags["seed"]) == (FIRST, "7")
    again = finished_run("two", answers(ROWS, 20), seed=7)
    assert registry.register("two")[0].tags["recipe"] == version.tags["recipe"]
    assert again.run == "two"


def test_a_registry_with_many_models_of_others_shows_ours(home):
    client = mlflow_store.connect()
    for i in range(101):
        client.create_registered_model(f"a-{i:03d}")
    client.create_registered_model("it's theirs")
    client.create_model_version("a-000", "runs:/x/model", tags={"version": "v2"})
    label = registered("one", answers(ROWS, 60))
    assert registry.models()["model"].tolist() == [label]
    assert registry.promote(label)[0].aliases == ("champion",)
    assert "did you mean" in refused(registry.promote, "deberta-v3-base-v1.0.1")


def test_a_registry_that_cannot_be_read_is_one_line(home):
    finished_run("one", answers(ROWS))
    for uri in ("localhost:5000", "foo://x"):
        assert f"the model registry {uri} cannot be used: " in refused(registry.models, uri=uri)
    (home / "models" / "mlflow" / "mlflow.db").write_bytes(b"no database at all" * 100)
    assert refused(registry.models).startswith(
        f"the model registry {mlflow_store.local_uri()} cannot be used: "
    )
    assert refused(registry.register, "one").startswith(
        f"the model registry {mlflow_store.local_uri()} cannot be used: "
    )


def test_a_promotion_that_fails_midway_leaves_a_champion_and_can_be_repeated(home, monkeypatch):
    from mlflow import MlflowClient

    registry.promote(registered("one", answers(ROWS, 60)))
    registered("two", answers(ROWS, 20), train="b")
    set_alias = MlflowClient.set_registered_model_alias

    def breaks(client, name, alias, version):
        set_alias(client, name, alias, 99 if alias == "champion" else version)  # there is no 99

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", breaks)
        assert refused(registry.promote, SECOND).startswith(
            f"the model registry {mlflow_store.local_uri()} cannot be used: "
        )
    assert aliases()["champion"] == FIRST
    registry.promote(SECOND)
    assert aliases() == {"champion": SECOND, "previous": FIRST}


@pytest.mark.parametrize("name", ["metrics.json", "test_probs.parquet"])
def test_a_champion_whose_evaluation_is_damaged_is_one_line(home, name):
    registry.promote(registered("one", answers(ROWS, 60)))
    registered("two", answers(ROWS, 20), train="b")
    (path,) = home.glob(f"models/mlflow/artifacts/*/artifacts/{FIRST}/evaluation/{name}")
    whole = path.read_bytes()
    for damage in (lambda: path.write_bytes(whole[: len(whole) // 2]), path.unlink):
        damage()
        assert refused(registry.promote, SECOND) == (
            f"{SECOND} is not promoted: the evaluation of {FIRST} in the registry is missing or "
            "damaged: delete that version there, and `workbook register one`. To do so all the "
            "same: --force --reason '...'"
        )
    assert aliases() == {"champion": FIRST, "challenger": SECOND}


def test_a_champion_that_was_deleted_is_no_champion(home):
    registry.promote(registered("one", answers(ROWS, 60)))
    registered("two", answers(ROWS, 20), train="b")
    mlflow_store.connect().delete_model_version("deberta-v3-base", "1")
    assert aliases() == {"challenger": SECOND}
    assert refused(registry.find, "deberta-v3-base") == (
        f"no classifier 'deberta-v3-base'; in the registry: {SECOND} challenger"
    )
    assert refused(registry.promote, FIRST).startswith(f"no model '{FIRST}' in the registry")
    registry.promote(SECOND)
    assert aliases() == {"champion": SECOND}


def test_a_misspelt_version_names_the_closest(home):
    registered("one", answers(ROWS))
    assert (
        refused(registry.promote, "deberta-v3-bas-v1.0.0")
        == f"no model 'deberta-v3-bas-v1.0.0' in the registry (did you mean '{FIRST}'?); there "
        f"are {FIRST}"
    )


def test_a_registry_that_does_not_answer_is_one_line(home):
    finished_run("one", answers(ROWS))
    message = refused(registry.register, "one", uri="http://127.0.0.1:9")
    assert message == (
        "the model registry http://127.0.0.1:9 cannot be used: [Errno 111] Connection refused; "
        "check --uri"
    )


def test_the_commands_say_what_was_done(home, monkeypatch):
    monkeypatch.chdir(home)

    def said(*words):
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
        return result.output

    assert said("models") == "no model is registered yet: workbook register RUN\n"
    finished_run("one", answers(ROWS, 20))
    scores = said("register", "one").removeprefix(f"registered as {FIRST}, challenger: ")
    assert (
        scores.startswith("macro F1 0.917 [")
        and said("register", "one") == f"already registered as {FIRST}: {scores}"
    )
    assert scores.endswith(f"to put it in use: workbook promote {FIRST}\n")
    elsewhere = f"sqlite:///{home / 'other' / 'store.db'}"
    (home / "other").mkdir()
    assert said("register", "one", "--uri", elsewhere).endswith(
        f"workbook promote {FIRST} --uri {elsewhere}\n"
    )
    assert (
        len(list((home / "other" / "artifacts").rglob("metrics.json"))) == 1
        and not (home / "mlruns").exists()
    )
    assert said("promote", FIRST) == f"{FIRST} is the champion: there was none to beat\n"
    head, row = said("models").splitlines()
    assert head.split() == [
        "model",
        "alias",
        "macro",
        "F1",
        "accuracy",
        "data",
        "run",
        "date",
        "commit",
    ]
    assert row.split()[:4] == [FIRST, "champion", "0.917", row.split()[3]] and row.endswith(
        "c" * 10
    )


def test_a_finished_run_hands_scores_pages_and_figures_to_its_record(home):
    import nbformat

    ws = finished_run("one", answers(ROWS, 20))
    reports = ws.folder(workspace.REPORTS)
    (reports / "index.html").write_text("<html>")
    output = nbformat.v4.new_output("display_data", {"image/png": "iVBORw0KGgo="})
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[output])]),
        reports / "07_evaluate.ipynb",
    )
    with tracking.workbook_run(Config.load("smoke", {"tracking.backend": "mlflow"}), ws) as record:
        record.start()
        recording.record_results(record, ws, evaluated=True)
    client = mlflow_store.connect()
    (run,) = client.search_runs([client.get_experiment_by_name("data").experiment_id])
    intervals = workspace.read_json(ws.path("metrics.json"))["models"]["ensemble"]["intervals"]
    for metric, interval in intervals.items():
        found = [run.data.metrics[f"test/ensemble/{metric}{end}"] for end in ("", "_low", "_high")]
        assert found == [interval["value"], interval["low"], interval["high"]]
    assert (run.data.tags["verdict"], run.data.tags["test.rows"]) == ("The ensemble is.", "240")
    kept = {
        path.path
        for folder in ("report", "report/figures")
        for path in client.list_artifacts(run.info.run_id, folder)
        if not path.is_dir
    }
    assert kept == {
        "report/index.html",
        "report/metrics.json",
        "report/run.json",
        "report/figures/07_evaluate-1.png",
    }
