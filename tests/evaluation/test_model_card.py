import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard

from lib.evaluation import model_card
from lib.evaluation.evaluation import Evaluation, ModelScores
from lib.evaluation.significance import Interval

INTERVALS = {
    "accuracy": Interval(0.91234, 0.9, 0.925, 40, 0.9),
    "macro_f1": Interval(0.5, 0.25, 0.75, 40, 0.9),
    "weighted_f1": Interval(0.625, 0.25, 0.75, 40, 0.9),
}
EVALUATION = Evaluation(
    40,
    ["a|b", "<script>c"],
    {"ensemble": ModelScores({}, INTERVALS)},
    verdict="The ensemble is better.",
    warning="2 models have been measured",
)
ORIGIN = {
    "dataset": "my data",
    "run": "quick",
    "data_fingerprint": "d" * 64,
    "train_fingerprint": "e" * 64,
    "python": "3.11.7",
    "versions": {"torch": "2.13.0", "transformers": "5", "scikit-learn": "1.9", "numpy": "1"},
    "commit": "c" * 40,
}
LEDGER = pd.DataFrame(
    {"read at": ["2026-01-01"], "run": ["quick"], "model": ["f" * 64], "why": ["final | first"]}
)


@pytest.fixture
def card():
    return model_card.model_card(
        EVALUATION,
        model="ensemble",
        description="TF-IDF and short: 2 classes.",
        origin=ORIGIN,
        languages={"English": 0.9, "unknown": 0.06, "French": 0.04},
        licences={"the data": "cc-by-4.0", "org/my_encoder": "mit"},
        limits=["weaker on *short*\ntexts"],
        ledger=LEDGER,
    )


def test_the_head_is_what_the_hub_reads(card):
    data = ModelCard(card).data
    assert (data.language, data.license, data.pipeline_tag) == (
        ["en"],
        "unknown",
        "text-classification",
    )
    assert data.metrics == ["accuracy", "f1"]
    found = [
        (result.metric_type, result.metric_name, result.metric_value, result.dataset_revision)
        for result in data.eval_results
    ]
    assert found == [
        ("accuracy", "accuracy [0.900, 0.925]", 0.9123, "d" * 64),
        ("f1", "macro_f1 [0.250, 0.750]", 0.5, "d" * 64),
        ("f1", "weighted_f1 [0.250, 0.750]", 0.625, "d" * 64),
    ]
    assert yaml.safe_load(card.split("---")[1])["model-index"][0]["name"] == "my data by quick"


def test_the_body_has_use_data_metrics_limits_and_ledger(card):
    lines = ModelCard(card).text.strip().splitlines()
    assert [line for line in lines if line.startswith("#")] == [
        "# my data by quick",
        *("## Intended use", "## Data", "## Metrics", "## Limits"),
        "## Who has read the labels of the test set",
    ]
    assert "On 40 sealed test texts, with 90% intervals." in lines
    assert "| macro\\_f1 | 0.500 \\[0.250, 0.750\\] | 40 |" in lines
    assert f"| SHA-256 of the training rows | {'e' * 64} |" in lines
    assert "| licence of the data | cc-by-4.0 |" in lines
    assert "| licence of org/my\\_encoder | mit |" in lines
    assert f"| 2026-01-01 | quick | {'f' * 12} | final \\| first |" in lines
    assert lines[-1] == "2 models have been measured"


def test_names_and_texts_are_no_markup(card):
    assert "a\\|b, &lt;script&gt;c." in card
    assert "- weaker on \\*short\\* texts\n" in card
    assert "<script>" not in card
