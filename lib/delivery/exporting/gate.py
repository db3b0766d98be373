"""The parity gate, which asks whether an export answers as the classifier that was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lib.config import CleaningConfig, ExportConfig
from lib.data.cleaning import clean_texts
from lib.evaluation.significance import Interval, macro_f1_gains, share_interval
from lib.training.classifier import Classifier
from lib.training.member import Member

# What tables of one subject rarely hold; the classifier has to answer them as before, too.
ODD_TEXTS = (
    "",
    "one",
    "🎉 🎉 🎉 great work everyone 🎉",
    "Ein Satz auf Deutsch, mit Umlauten: äöüß.",
    "これは日本語の文章です。短いですが、意味があります。",
    "Это предложение написано по-русски для проверки.",
    "هذه جملة باللغة العربية للاختبار فقط.",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    "<p>Some <b>markup</b> &amp; entities</p>",
    "word " * 2_000,
)
ROUNDING = 1e-3  # of a logit, in float32
COMPANY = 32  # texts of all lengths in one batch


@dataclass(frozen=True)
class Parity:
    """How an export differs from the classifier that was measured.

    Attributes
    ----------
    name : of the export
    obstacles : what it fails on, in words; none where it passes
    logit_difference : the largest of a transformer, in one text and class
    label_agreement : share of texts whose label is the same, of the transformer that agrees least
    macro_f1_gain : of the whole classifier, export minus measured
    company_difference : the largest change of a logit by the other texts of a batch
    texts : all, those that differ most first: `text`, `measured`, `exported` (labels of the
        transformer), `logit_difference`
    """

    name: str
    obstacles: list[str]
    logit_difference: float
    label_agreement: Interval
    macro_f1_gain: Interval
    company_difference: float
    texts: pd.DataFrame

    @property
    def passes(self) -> bool:
        """Return whether the export may be shipped."""
        return not self.obstacles


def gate_texts(texts: Sequence[str], n: int) -> np.ndarray:
    """Return which of several texts are compared: n of all lengths, in the order of the table."""
    by_length = np.argsort([len(text) for text in texts], kind="stable")
    places = np.linspace(0, len(texts) - 1, min(n, len(texts))).round().astype(int)
    return np.sort(by_length[places])


def member_probs(classifier: Classifier, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Return what each member says of raw texts and of ODD_TEXTS after them: name -> (n, k)."""
    return classifier.member_probs([*texts, *ODD_TEXTS])


def parity(
    measured: Mapping[str, np.ndarray],
    exported: Classifier,
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    limits: ExportConfig,
    exact: bool,
    groups: np.ndarray | None = None,
) -> Parity:
    """Compare a classifier whose transformers run elsewhere with the one that was measured.

    Parameters
    ----------
    measured : `member_probs` of the one that was measured
    texts, labels : raw validation texts
    limits : how much may differ
    exact : both compute in float32, so that they may differ by rounding alone
    groups : of the texts; those of one group are drawn together
    """
    answers = member_probs(exported, texts)
    transformers = [member for member in exported.members if member.exported]
    tables = [
        _differences(measured[member.name], answers[member.name], exported.class_names)
        for member in transformers
    ]
    table = pd.concat([part.assign(text=[*texts, *ODD_TEXTS]) for part in tables])
    n = len(texts) + len(ODD_TEXTS)
    n_other = max(int((part["measured"] != part["exported"]).sum()) for part in tables)
    agreement = share_interval(n - n_other, n)
    gain = _macro_f1_gain(measured, answers, exported, labels, groups=groups)
    logit_difference = float(table["logit_difference"].max())
    company = max(
        company_difference(member, texts, cleaning=exported.cleaning) for member in transformers
    )
    min_agreement = 1 if exact else limits.min_agreement
    obstacles = {
        f"a logit differs by {logit_difference:.2g}": exact and logit_difference > ROUNDING,
        f"{n_other} of {n:,} labels differ": agreement.value < min_agreement,
        f"macro F1 differs by {gain.value:+.4f}": abs(gain.value) > limits.max_macro_f1_difference,
        f"the other texts of a batch change a logit by {company:.2g}": company
        > limits.max_company_difference,
    }
    return Parity(
        name=exported.runtime,
        obstacles=[words for words, found in obstacles.items() if found],
        logit_difference=logit_difference,
        label_agreement=agreement,
        macro_f1_gain=gain,
        company_difference=company,
        texts=table.sort_values("logit_difference", ascending=False, kind="stable"),
    )


def company_difference(member: Member, texts: Sequence[str], *, cleaning: CleaningConfig) -> float:
    """Return how much the other texts of a batch change a logit of a text, at the most.

    Parameters
    ----------
    member : with an export
    texts : raw; COMPANY of them, of all lengths, are computed alone and in one batch
    """
    model = member.exported
    assert model is not None
    chosen = [texts[i] for i in gate_texts(texts, COMPANY)]
    cleaned = clean_texts(chosen, settings=cleaning).texts
    pieces, _ = model.pieces(cleaned)
    alone = [model.run([piece]) for piece in pieces]
    together = model.run(pieces)
    return float(np.abs(together - np.concatenate(alone)).max())


def _macro_f1_gain(
    measured: Mapping[str, np.ndarray],
    answers: Mapping[str, np.ndarray],
    classifier: Classifier,
    labels: Sequence[str],
    *,
    groups: np.ndarray | None,
) -> Interval:
    y_true = pd.Categorical(labels, categories=classifier.class_names).codes
    before, after = (
        classifier.decision.labels(classifier.combine(probs))[: len(labels)]
        for probs in (measured, answers)
    )
    n_classes = len(classifier.class_names)
    return macro_f1_gains(y_true, before, [after], n_classes=n_classes, groups=groups)[0]


def _differences(
    measured: np.ndarray, exported: np.ndarray, class_names: Sequence[str]
) -> pd.DataFrame:
    """Return the labels of a transformer before and after, and the largest change of a logit."""
    before, after = _logits(measured), _logits(exported)
    names = np.array(class_names, dtype=object)
    return pd.DataFrame(
        {
            "measured": names[before.argmax(axis=1)],
            "exported": names[after.argmax(axis=1)],
            "logit_difference": np.abs(before - after).max(axis=1),
        }
    )


def _logits(probs: np.ndarray) -> np.ndarray:
    """Return logits whose mean over the classes is 0, which is all that probabilities tell."""
    logits = np.log(np.maximum(probs, np.finfo(float).tiny))
    return logits - logits.mean(axis=1, keepdims=True)
