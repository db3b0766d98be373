"""The model card of a classifier in the format of the Hugging Face hub."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lib.evaluation.evaluation import Evaluation
from lib.evaluation.significance import Interval

MIN_LANGUAGE_SHARE = (
    0.05  # of the texts, for a language to be named; a few texts are often mistaken
)
# the hub's names of metrics, where they are others
_HUB_METRICS = {"macro_f1": "f1", "weighted_f1": "f1", "brier_loss": "brier_score"}


def model_card(
    evaluation: Evaluation,
    *,
    model: str,
    description: str,
    origin: Mapping[str, Any],
    languages: Mapping[str, float],
    licences: Mapping[str, str],
    limits: Sequence[str],
    ledger: pd.DataFrame,
) -> str:
    """Return a model card as Markdown with a head of YAML.

    Parameters
    ----------
    model : whose scores it gives, by its name in the evaluation
    description : what the classifier is made of, as a sentence
    origin : what the classifier was made from and by, as its `origin.json` says
    languages : share of the texts by language, from the data's audit
    licences : of what it was made from, by name: the data, the backbone
    limits : sentences
    ledger : from `sealed.ledger`
    """
    from huggingface_hub import ModelCard

    intervals = evaluation.models[model].intervals
    head = _head(intervals, origin=origin, languages=languages)
    versions = origin["versions"]
    data = {
        "data set": origin["dataset"],
        "SHA-256 of the data": origin["data_fingerprint"],
        "SHA-256 of the training rows": origin["train_fingerprint"],
        "commit": origin["commit"],
        "python": origin["python"],
        **{name: versions[name] for name in ("torch", "transformers", "scikit-learn")},
        **{f"licence of {name}": licence for name, licence in licences.items()},
    }
    scores = {name: (str(interval), f"{interval.n:,}") for name, interval in intervals.items()}
    confidence = next(iter(intervals.values())).confidence
    ledger = ledger.assign(model=ledger["model"].str.slice(0, 12))
    parts = [
        f"# {_plain(head.model_name)}",
        _plain(description),
        "## Intended use",
        f"It sorts texts like those of {_plain(origin['dataset'])} into these "
        f"{len(evaluation.class_names):,} classes: {_plain(', '.join(evaluation.class_names))}.",
        "It is not made for other texts or classes, nor to decide about people without a person.",
        "## Data",
        _table(["what", "version"], [(name, str(value)) for name, value in data.items()]),
        "## Metrics",
        f"On {evaluation.n_test:,} sealed test texts, with {confidence:.0%} intervals.",
        _table(["metric", "value", "n"], [(name, *row) for name, row in scores.items()]),
        *map(_plain, evaluation.verdicts),
        "## Limits",
        "\n".join(f"- {_plain(limit)}" for limit in limits),
        "## Who has read the labels of the test set",
        _table(list(ledger.columns), ledger.to_numpy().tolist()),
        _plain(evaluation.warning),
    ]
    body = "\n\n".join(part for part in parts if part)
    return str(ModelCard(f"---\n{head.to_yaml()}\n---\n\n{body}\n"))


def _head(
    intervals: Mapping[str, Interval], *, origin: Mapping[str, Any], languages: Mapping[str, float]
) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=origin["dataset"],
            dataset_name=origin["dataset"],
            dataset_split="test",
            dataset_revision=origin["data_fingerprint"],
            metric_type=_HUB_METRICS.get(name, name),
            metric_name=f"{name} [{interval.low:.3f}, {interval.high:.3f}]",
            metric_value=round(interval.value, 4),
        )
        for name, interval in intervals.items()
    ]
    return ModelCardData(
        model_name=f"{origin['dataset']} by {origin['run']}",
        language=language_codes(languages),
        license="unknown",  # of the model, which its owner says when pushing it
        pipeline_tag="text-classification",
        tags=["text-classification", "calibrated"],
        metrics=sorted({result.metric_type for result in results}),
        eval_results=results,
    )


def language_codes(languages: Mapping[str, float]) -> list[str]:
    """Return the ISO 639-1 codes of the languages of many texts, the commonest first.

    Examples
    --------
    >>> language_codes({"German": 0.6, "unknown": 0.3, "English": 0.08, "French": 0.02})
    ['de', 'en']
    """
    from lingua import Language

    known = {language.name.capitalize(): language for language in Language.all()}
    common = [name for name, share in languages.items() if share >= MIN_LANGUAGE_SHARE]
    return [known[name].iso_code_639_1.name.lower() for name in common if name in known]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(_plain, line))} |" for line in lines)


def _plain(text: str) -> str:
    """Return text as one line of Markdown in which nothing is markup and no cell ends."""
    line = html.escape(" ".join(str(text).split()), quote=False)
    for sign in "\\`*_[]|":
        line = line.replace(sign, f"\\{sign}")
    return line
