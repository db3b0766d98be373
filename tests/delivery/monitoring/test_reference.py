from dataclasses import replace

import pandas as pd
import pytest
from three_classes import linear_classifier

from lib.delivery.monitoring import reference
from lib.delivery.monitoring.prediction_log import PredictionLog, read_log

TEXTS = ["the crow and the owl", "<b>the saw</b> of Дом", "a plum and a fig"]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return linear_classifier(tmp_path_factory.mktemp("linear"))


def test_the_reference_has_what_a_log_has(tmp_path, classifier):
    PredictionLog(tmp_path, classifier, with_texts=True).append(
        TEXTS, classifier.predict(TEXTS), source="serve"
    )
    logged = read_log(tmp_path)
    found = reference.predictions(classifier, TEXTS)
    columns = logged.columns.drop(["time", "source", "model", "embedding"])
    pd.testing.assert_frame_equal(
        found[columns], logged[columns], check_dtype=False, atol=1e-6, rtol=0
    )
    assert [list(row) for row in logged["embedding"]] == found["embedding"].tolist()


def test_it_is_predicted_once_for_a_classifier_and_its_texts(tmp_path, classifier, monkeypatch):
    path = tmp_path / "reference.parquet"
    first = reference.saved_predictions(classifier, TEXTS, path)
    assert "text" not in pd.read_parquet(path)
    assert first["text"].tolist() == TEXTS
    made = []
    real = reference.predictions
    monkeypatch.setattr(reference, "predictions", lambda *a, **o: made.append(1) or real(*a, **o))
    again = reference.saved_predictions(classifier, TEXTS, path)
    assert (again["label"].tolist(), made) == (first["label"].tolist(), [])
    reference.saved_predictions(classifier, TEXTS[:2], path)
    reference.saved_predictions(replace(classifier, abstain_below=0.9), TEXTS[:2], path)
    assert made == [1, 1]
