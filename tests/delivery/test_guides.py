"""The guides: every command of `workbook` that README and docs show is run, on small real runs."""

import re
import shlex
import shutil

import pytest
import uvicorn
from click.testing import CliRunner
from conftest import REPOSITORY
from finished_runs import answers, finished_run, sealed_rows
from hub_stand_in import TOKEN, hub_stand_in
from huggingface_hub import constants
from linear_classifiers import CLASSES, linear_classifier
from test_docs import PAGES, commands

from lib import workspace
from lib.delivery import registry, runner
from lib.delivery.cli import main
from lib.training import mlflow_store

GUIDE = REPOSITORY / "docs" / "your-own-data.md"
CONSOLE = re.findall(r"```console\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
SHOWN = [part for block in CONSOLE for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]


@pytest.fixture
def guide_home(tmp_path):
    """A folder with the tables that the guide speaks of, and a classifier called `my`."""
    folder = tmp_path
    topics = ("delivery", "payment", "refund")
    rows = [
        f"the parcel number {i} came late and the box was open,{topics[i % 3]},u{i // 4}"
        for i in range(120)
    ]
    rows += [rows[0], "schÃ¶n war es nicht aber billig,refund,u9"]
    tables = {
        "my.csv": ["body,topic,author", *rows],
        "new.csv": ["body", "the parcel came late"],
        "empty.csv": [],
        "numbers.csv": ["a,b", "1,2", "3,4"],
        "misspelt.yaml": ["trainig: {epochs: 3}"],
        "one-author.csv": ["text,label,author"]
        + [f"the {kind} text number {i},{kind},ann" for i in range(20) for kind in "ab"],
    }
    for name, lines in tables.items():
        (folder / name).write_text("\n".join(lines), encoding="utf-8")
    linear_classifier(folder / "member").save(folder / "models" / "my" / "classifier")
    return folder


def test_the_guide_shows_what_its_commands_say(guide_home, monkeypatch):
    """In order, in one folder; a run's notebooks are left out, as they take minutes."""
    monkeypatch.chdir(guide_home)
    monkeypatch.setenv("WORKBOOK_HOME", str(guide_home))
    monkeypatch.setattr(runner.Session, "run", lambda *_, **__: [])
    for shown in SHOWN:
        command, _, output = shown.partition("\n")
        result = CliRunner().invoke(main, shlex.split(command)[1:])
        pattern = ".*".join(map(re.escape, output.strip().split("…")))
        assert re.fullmatch(pattern, result.output.strip(), re.DOTALL), (command, result.output)


FIRST = ("deployment", "tracking-and-versions")  # they register what others use
IN_ORDER = sorted(PAGES, key=lambda page: FIRST.index(page.stem) if page.stem in FIRST else 2)
LINES = [line for page in IN_ORDER if page != GUIDE for line in commands(page)]


@pytest.fixture
def finished_home(tmp_path, mlflow_template, docstrings_file, monkeypatch):
    """A home as the guides take it to be: runs `quick`, `two` and `longer`, and tables."""
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))
    for folder in ("models/mlflow", "data/raw", "models/log"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(mlflow_template, tmp_path / "models" / "mlflow")
    shutil.copy(docstrings_file, tmp_path / "data" / "raw")
    rows = sealed_rows()
    for scale, (name, n_wrong) in enumerate({"quick": 60, "two": 0, "longer": 0}.items(), 1):
        classifier = linear_classifier(tmp_path / "members" / name, scale=scale)
        finished_run(
            *(name, answers(rows, n_wrong)),
            dataset="docstrings",
            train=name,
            classifier=classifier,
            **{"training.backbone": "minilm"},
        )
    workspace.write_text("# A card\n", tmp_path / "models" / "quick" / "classifier" / "README.md")
    classifier.save(tmp_path / "path" / "of" / "a" / "classifier")
    lines = [f"{i},the number {i} of the {CLASSES[i % 3]}s came late,{i % 3}" for i in range(60)]
    for name in ("my.csv", "new.csv"):
        (tmp_path / name).write_text("\n".join(["id,text,label", *lines]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def with_challenger(client):
    """Make `two` the challenger of `quick` again, where both are registered: commands that a guide
    shows below each other are alternatives."""
    if len(registry.models()) == 2:
        client.set_registered_model_alias("minilm", "champion", "1")
        client.set_registered_model_alias("minilm", "challenger", "2")


def test_every_command_that_is_shown_runs(finished_home, monkeypatch):
    """Notebooks of runs are left out, and a server stops as soon as it has loaded.

    Names of the hub cannot be looked up: of them nothing else may be wrong.
    """
    monkeypatch.setattr(runner.Session, "run", lambda *_, **__: [])
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: self.config.load())
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    client = mlflow_store.connect()
    failed = {}
    for line in LINES:
        with_challenger(client)
        with hub_stand_in() as hub, monkeypatch.context() as patch:
            if " push " in line:
                hub.mine = "me"
                patch.setattr(constants, "ENDPOINT", hub.url)
                patch.setattr(constants, "HF_HUB_OFFLINE", False)
            result = CliRunner().invoke(main, shlex.split(line, comments=True)[1:])
        if (
            result.exit_code
            and "We couldn't connect to 'https://huggingface.co'" not in result.output
        ):
            failed[line] = result.output
    assert failed == {}
