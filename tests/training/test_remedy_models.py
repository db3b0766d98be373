import numpy as np
import pandas as pd
import pytest

from lib.config import Config
from lib.training import cached_training, finetune, remedy_models
from lib.workspace import Workspace

RUN = Workspace(dataset="data", run="run")
LABELS = ["bird", "fruit"] * 4
TEXTS = ["the crow and the finch", "the apple and the pear"] * 4
STOP = pd.DataFrame({"text": TEXTS[:2], "label": LABELS[:2]})


@pytest.fixture
def trained(monkeypatch, home):
    """In place of a transformer's training: what was trained on, where, and what is predicted."""
    calls = {"trained": [], "predicted": []}

    def train_once(train, stop, *, config, ws, progress):
        calls["trained"].append((train["text"].tolist(), ws.run))
        return ws.path("transformer"), 1.0

    def predict_probs(tokenizer, model, texts, *, settings, progress):
        calls["predicted"].append(texts)
        return np.full((len(texts), 2), 0.5)

    monkeypatch.setattr(cached_training, "train_once", train_once)
    monkeypatch.setattr(finetune, "load_model", lambda folder: (None, None, ["bird", "fruit"]))
    monkeypatch.setattr(finetune, "predict_probs", predict_probs)
    return calls


def fit(texts, *, model):
    config = Config.load("smoke", {"robustness.remedy_model": model})
    return remedy_models.fitter(config, stop=STOP, ws=RUN, progress=False)(texts, LABELS)


def test_the_linear_model_takes_raw_texts(home):
    predict = fit(["<p>" + text + "</p>" for text in TEXTS], model="linear")
    probs = predict(["<b>the crow &amp; the finch</b>", "the pear and the apple"])
    assert probs.argmax(axis=1).tolist() == [0, 1]
    cleaned = predict(["the crow & the finch", "the pear and the apple"])
    np.testing.assert_array_equal(probs, cleaned)


def test_a_transformer_learns_and_predicts_cleaned_texts(trained):
    predict = fit(["<p>" + text + "</p>" for text in TEXTS], model="transformer")
    assert predict(["<b>the crow &amp; the finch</b>"]).shape == (1, 2)
    ((texts, _),) = trained["trained"]
    assert texts == TEXTS
    assert trained["predicted"] == [["the crow & the finch"]]


def test_each_transformer_has_a_folder_and_the_same_texts_the_same_one(trained):
    for texts in (TEXTS, TEXTS, TEXTS[::-1]):
        fit(texts, model="transformer")
    first, again, other = (run for _, run in trained["trained"])
    assert first == again != other
    assert first.startswith("run/")
