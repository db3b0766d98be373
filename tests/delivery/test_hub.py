import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY
from hub_stand_in import TOKEN, hub_stand_in
from huggingface_hub import ModelCard, constants
from linear_classifiers import TEXTS, linear_classifier

from lib.delivery import hub
from lib.errors import WorkbookError
from lib.training.classifier import Classifier

CARD = "---\nlicense: unknown\nmodel_name: things by one\n---\n\n# things by one\n"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    run = home / "models" / "one"
    linear_classifier(home / "member").save(run / "classifier")
    (run / "README.md").write_text(CARD)
    return home


@pytest.fixture
def stand_in(home, monkeypatch):
    with hub_stand_in() as found:
        monkeypatch.setenv("WORKBOOK_HOME", str(home))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield found


def refused(call, *words, **more):
    with pytest.raises(WorkbookError) as caught:
        call(*words, **more)
    message = str(caught.value)
    assert len(message) <= 300 and "\n" not in message and TOKEN not in message
    return message


def test_what_was_pushed_answers_as_the_run_does(home, stand_in, tmp_path):
    address = hub.send(hub.plan("one", "hub:owner/things"))
    assert address == f"{stand_in.url}/owner/things"
    repo = stand_in.repos["owner/things"]
    assert repo["private"] and repo["files"]["README.md"].decode() == CARD
    for name, content in repo["files"].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    pushed = Classifier.load(tmp_path / "classifier")
    direct = Classifier.load(home / "models" / "one" / "classifier")
    np.testing.assert_array_equal(pushed.predict_probs(TEXTS), direct.predict_probs(TEXTS))


def test_the_plan_names_every_file_and_asks_nothing_of_the_hub(stand_in):
    plan = hub.plan("one", "hub:owner/things", public=True, licence="mit")
    *lines, last = plan.describe().splitlines()
    assert [line.split()[2] for line in lines] == [
        "README.md",
        *(f"classifier/{name}" for name in ("classifier.json", "manifest.json")),
        *(f"classifier/members/TF-IDF/{name}" for name in ("baseline.json", "weights.safetensors")),
        "classifier/origin.json",
    ]
    assert last.endswith(f" MB  6 files to {stand_in.url}/owner/things (public, licence mit)")
    assert stand_in.requests == []


def test_the_licence_that_is_told_is_the_cards(home, stand_in):
    hub.send(hub.plan("one", "hub:owner/free", public=True, licence="apache-2.0"))
    repo = stand_in.repos["owner/free"]
    card = ModelCard(repo["files"]["README.md"].decode())
    assert (card.data.license, card.data.model_name) == ("apache-2.0", "things by one")
    assert not repo["private"] and (home / "models" / "one" / "README.md").read_text() == CARD
    assert refused(
        hub.send, hub.plan("one", "hub:owner/free", public=True, licence="nonsense")
    ) == (
        'owner/free cannot be pushed: Invalid metadata in README.md. - "license" must be one of '
        "the known"
    )


def test_files_of_an_earlier_classifier_go_and_others_stay(stand_in):
    stale, notes = "classifier/members/old/weights.safetensors", "notes.txt"
    stand_in.repos["owner/things"] = {"private": True, "files": {stale: b"x", notes: b"y"}}
    hub.send(hub.plan("one", "hub:owner/things"))
    files = stand_in.repos["owner/things"]["files"]
    assert stale not in files and files[notes] == b"y" and "classifier/manifest.json" in files
    commits = [path for method, path in stand_in.requests if "/commit/" in path]
    assert len(commits) == 1


@pytest.mark.parametrize("is_private", [False, True])
def test_a_repository_that_others_see_differently_gets_nothing(stand_in, is_private):
    stand_in.repos["owner/things"] = {"private": is_private, "files": {}}
    found, words = ("private", "without") if is_private else ("public", "with")
    assert refused(hub.send, hub.plan("one", "hub:owner/things", public=is_private)) == (
        f"owner/things is there already and is {found}: nothing was sent; push {words} --public, "
        "or change it in its settings on the hub"
    )
    assert stand_in.repos["owner/things"]["files"] == {}


def test_a_refused_token_is_one_line(stand_in, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    assert refused(hub.send, hub.plan("one", "hub:owner/things")) == (
        f"{stand_in.url} refuses the token (401): log in again with `hf auth login`, or set "
        "HF_TOKEN"
    )


@pytest.mark.parametrize("taken", [False, True])
def test_a_name_of_another_is_one_line(stand_in, taken):
    if taken:
        stand_in.repos["other/things"] = {"private": True, "files": {}}
    assert refused(hub.send, hub.plan("one", "hub:other/things")) == (
        f"{stand_in.url} refuses other/things (403): the name is another's, or the token may not "
        "write there"
    )


def test_a_hub_that_is_off_or_does_not_answer_is_one_line(stand_in, monkeypatch):
    plan = hub.plan("one", "hub:owner/things")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert refused(hub.send, plan) == (
        "http://127.0.0.1:9 cannot take owner/things: [Errno 111] Connection refused"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refused(hub.send, plan).startswith("HF_HUB_OFFLINE keeps this machine off the hub")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere")
    assert refused(hub.send, plan).startswith("there is no token for the hub: `hf auth login`")


@pytest.mark.parametrize(
    "target", ["owner/things", "hub:things", "hub:a/b/c", "hub:a/-b", "s3:a/b"]
)
def test_a_target_is_an_owner_and_a_name(stand_in, target):
    assert refused(hub.plan, "one", target) == f"a target is hub:owner/name; found {target!r}"


def test_a_classifier_that_is_damaged_or_has_no_card_is_not_pushed(home, stand_in, tmp_path):
    shutil.copytree(home / "models" / "one" / "classifier", tmp_path / "own")
    assert "has no model card: `workbook run" in refused(hub.plan, f"{tmp_path}/own", "hub:a/b")
    (tmp_path / "own" / "README.md").write_text("plain words\n")
    assert hub.plan(f"{tmp_path}/own", "hub:a/b").licence == "unknown"
    weights = tmp_path / "own" / "members" / "TF-IDF" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "(its SHA-256 differs from manifest.json)" in refused(
        hub.plan, f"{tmp_path}/own", "hub:a/b"
    )


def test_the_command_sends_with_yes_alone(home, stand_in):
    def said(*words):
        command = [sys.executable, "-m", "lib.delivery.cli", "push", "one", "hub:owner/x", *words]
        environment = {**os.environ, "HF_ENDPOINT": stand_in.url, "PYTHONPATH": str(REPOSITORY)}
        environment["HF_HUB_OFFLINE"] = "0"
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    assert said().stdout.endswith("(private, licence unknown)\nnothing was sent: --yes sends it\n")
    assert stand_in.requests == []
    assert said("--yes", "--license", "mit").stdout.endswith(f"sent: {stand_in.url}/owner/x\n")
    assert b"license: mit" in stand_in.repos["owner/x"]["files"]["README.md"]
