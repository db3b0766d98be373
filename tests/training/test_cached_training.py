import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lib import workspace
from lib.config import Config, TrainingConfig
from lib.training import cached_training, finetune
from lib.workspace import Workspace

RUN = Workspace(dataset="data", run="run")
ROWS = pd.DataFrame({"text": ["one", "two"], "label": ["a", "b"], "row_id": [1, 2]})
CONFIG = Config(profile="test", training=TrainingConfig(backbone="minilm"))


@pytest.fixture
def trained(monkeypatch, home):
    """In place of training: the number of the training is the first probability."""
    calls = []

    def train(train, val, *, config, ws, progress, watch=None, name=""):
        calls.append(name)
        ws.path("transformer").mkdir(parents=True, exist_ok=True)
        probs = np.full((len(val), 2), len(calls), dtype=np.float32)
        facts = {"training_seconds": 0.1 * len(calls)}
        return SimpleNamespace(val_probs=probs, facts=facts, model_dir=ws.path("transformer"))

    monkeypatch.setattr(finetune, "train", train)
    return calls


@pytest.fixture
def code(monkeypatch, tmp_path):
    """Return a copy of lib whose sources are what a key is made of."""
    lib = workspace.REPOSITORY / "lib"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(lib, tmp_path / "code" / "lib", ignore=ignored)
    monkeypatch.setattr(workspace, "REPOSITORY", tmp_path / "code")
    return tmp_path / "code" / "lib"


def predict():
    return cached_training.train_and_predict(ROWS, ROWS, config=CONFIG, ws=RUN, name="trial")


def add_line(file):
    file.write_text(file.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")


def test_predictions_and_seconds_are_those_of_the_first_time_and_no_model_is_kept(trained):
    for _ in range(2):
        probs, seconds = predict()
        assert probs.dtype == np.float32
        assert probs.tolist() == [[1, 1], [1, 1]]
        assert seconds == 0.1
    assert trained == ["trial"]
    assert sorted(path.name for path in RUN.folder(workspace.MODELS).iterdir()) == [
        "trial-42.json",
        "trial-42.parquet",
    ]


def test_a_change_of_the_plots_trains_nothing_again_a_change_of_the_trainer_does(trained, code):
    predict()
    for unrelated in ("plots/training.py", "checks.py", "training/ledger.py"):
        add_line(code / unrelated)
    assert predict()[0][0, 0] == 1
    add_line(code / "training" / "finetune" / "trainer.py")
    assert predict()[0][0, 0] == 2
    add_line(code / "training" / "backbones.py")
    assert predict()[0][0, 0] == 3


def test_other_columns_of_the_rows_train_nothing_again(trained):
    predict()
    other = ROWS.assign(row_id=[3, 4])[["label", "row_id", "text"]]
    cached_training.train_and_predict(other, other, config=CONFIG, ws=RUN, name="trial")
    assert len(trained) == 1


def test_a_model_is_trained_again_where_it_is_gone_or_of_other_rows(trained):
    folder, seconds = cached_training.train_once(ROWS, ROWS, config=CONFIG, ws=RUN)
    assert folder == RUN.path("transformer")
    assert cached_training.train_once(ROWS, ROWS, config=CONFIG, ws=RUN) == (folder, seconds)
    assert len(trained) == 1
    folder.rmdir()
    assert cached_training.train_once(ROWS, ROWS, config=CONFIG, ws=RUN)[1] == 0.2
    one = ROWS.head(1)
    cached_training.train_once(one, ROWS, config=CONFIG, ws=RUN)
    assert len(trained) == 3
