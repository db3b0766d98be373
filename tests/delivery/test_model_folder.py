import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from finished_runs import answers, finished_run, sealed_rows
from linear_classifiers import TEXTS, linear_classifier

from lib.delivery import model_folder, pyfunc_model, registry
from lib.errors import WorkbookError, shown_path
from lib.training import mlflow_store
from lib.training.classifier import Classifier

ROWS = sealed_rows()
NAME = "deberta-v3-base"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def registered(tmp_path_factory, mlflow_template):
    """A home with two registered classifiers, the first the champion, and their answers."""
    home = tmp_path_factory.mktemp("registered")
    (home / "models" / "mlflow").mkdir(parents=True)
    shutil.copy(mlflow_template, home / "models" / "mlflow")
    classifiers = [linear_classifier(home / f"m{scale}", scale=scale) for scale in (1, 3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBOOK_HOME", str(home))
        patch.setattr(pyfunc_model, "requirements", lambda folder: ["numpy"])  # seconds for each
        for classifier, run in zip(classifiers, ("one", "two")):
            finished_run(run, answers(ROWS, 60), classifier=classifier, train=run)
            registry.register(run)
        registry.promote(f"{NAME}-v1.0.0")
    return home, [classifier.predict_probs(TEXTS) for classifier in classifiers]


@pytest.fixture
def home(registered, monkeypatch):
    home, _ = registered
    monkeypatch.setenv("WORKBOOK_HOME", str(home))
    monkeypatch.setattr(pyfunc_model, "requirements", lambda folder: ["numpy"])
    monkeypatch.chdir(home)
    shutil.rmtree(home / model_folder.CACHE, ignore_errors=True)
    return home


def refused(name, **more):
    with pytest.raises(WorkbookError) as caught:
        model_folder.find(name, **more)
    assert len(str(caught.value)) <= 300 and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_is_found_by_its_path_and_by_its_run(home):
    folder = home / "models" / "one" / "classifier"
    assert model_folder.find("one") == folder == model_folder.find(str(folder))
    assert model_folder.find("models/one/classifier") == Path("models/one/classifier")
    exported = folder.with_name("exported_classifier")
    shutil.copytree(folder, exported)
    assert model_folder.find("one") == exported
    shutil.rmtree(exported)


@pytest.mark.parametrize(
    ("name", "which"),
    [
        *(("", 0), (NAME, 0), (f"{NAME}@champion", 0), (f"{NAME}@challenger", 1)),
        *((f"{NAME}-v1.0.0", 0), (f"{NAME}-v1.1.0", 1)),
    ],
)
def test_registered_models_answer_as_they_did_in_their_run(registered, home, name, which):
    folder = model_folder.find(name)
    assert folder.parent == home / "models" / "registry_cache"
    found = Classifier.load(folder).predict_probs(TEXTS)
    np.testing.assert_array_equal(found, registered[1][which])


def test_what_was_downloaded_is_kept_unless_it_was_changed(home, monkeypatch):
    folder = model_folder.find(NAME)
    downloads = []
    download = registry.download
    monkeypatch.setattr(
        registry, "download", lambda *a, **k: downloads.append(a) or download(*a, **k)
    )
    assert model_folder.find(NAME) == folder and downloads == []
    (folder / "classifier.json").write_text("{}")
    assert model_folder.find(NAME) == folder and len(downloads) == 1
    assert Classifier.load(folder).class_names == ["bird", "fruit", "tool"]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_files_that_were_changed_in_the_registry_are_refused(home):
    (folder,) = home.glob(f"models/mlflow/artifacts/*/artifacts/{NAME}-v1.0.0/model")
    shutil.copytree(folder, home / "aside")
    (folder / "data" / "classifier" / "classifier.json").write_text("{}")
    assert refused(NAME).startswith(f"the files of {NAME}-v1.0.0 in the registry are not those")
    assert list((home / "models" / "registry_cache").iterdir()) == []
    shutil.rmtree(folder)
    assert f"the model registry {mlflow_store.local_uri()} cannot be used" in refused(NAME)
    (home / "aside").rename(folder)


def test_a_version_that_was_registered_as_the_plain_folder_is_found(home, registered):
    (folder,) = home.glob(f"models/mlflow/artifacts/*/artifacts/{NAME}-v1.0.0/model")
    folder.rename(home / "aside")
    shutil.copytree(home / "models" / "one" / "classifier", folder)
    found = Classifier.load(model_folder.find(NAME))
    np.testing.assert_array_equal(found.predict_probs(TEXTS), registered[1][0])
    shutil.rmtree(folder)
    (home / "aside").rename(folder)


def test_a_name_that_is_nothing_lists_what_there_is(home):
    assert refused("on") == (
        f"no classifier 'on'; in the registry: {NAME}-v1.1.0 challenger, {NAME}-v1.0.0 "
        "champion; runs with a classifier: one, two"
    )
    assert refused(f"{NAME}@best").startswith(f"no classifier '{NAME}@best'; in the registry: ")
    assert refused("x" * 1000).endswith("; runs with a classifier: one, two")


def test_a_folder_that_is_no_classifier_is_none(home):
    (home / "models" / "empty").mkdir(parents=True)
    assert refused("models/empty") == (
        f"no classifier 'models/empty'; in the registry: {NAME}-v1.1.0 challenger, {NAME}-v1.0.0 "
        "champion; runs with a classifier: one, two"
    )


def test_a_registry_that_another_process_holds_is_one_line(home, monkeypatch):
    monkeypatch.setattr(registry.store, "LOCK_SECONDS", 0.05)
    lock = home / "models" / "mlflow" / ".registry.lock"
    held = (
        "import sys\nfrom lib.delivery import registry\n"
        "with registry.store.locked(''):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen([sys.executable, "-c", held], env=environment, **pipes) as other:
        assert other.stdout.readline() == "held\n"
        assert refused(NAME).startswith(
            f"the model registry is in use by process {other.pid}, which has held "
            f"{shown_path(lock)} for 0.05 s; wait for it to end, or end it"
        )
        other.communicate("")
    assert model_folder.find(NAME).is_dir()


def test_without_a_registry_none_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))
    assert refused("") == ("no classifier ''; in the registry: none; runs with a classifier: none")
    assert list(tmp_path.iterdir()) == []


def test_several_champions_and_no_name_is_refused(home):
    finished_run(
        "three",
        answers(ROWS),
        classifier=linear_classifier(home / "m9", scale=9),
        **{"training.backbone": "other"},
    )
    registry.promote(registry.register("three")[0].label)
    assert refused("").startswith(
        f"2 champions, name one; in the registry: other-v1.0.0 champion, {NAME}-v1.0.0 champion"
    )
