"""The settings of what a classifier is put to."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, model_validator

from lib.config.section import Section

Perturbation = Literal[
    "keyboard",
    "swap",
    "drop",
    "insert",
    "case",
    "punctuation",
    "white_space",
    "ocr",
    "homoglyphs",
    "contractions",
    "word_drop",
    "truncation",
    "distractor",
    "html",
    "url",
    "emoji",
    "synonyms",
]


Attack = Literal["textfooler", "bert-attack", "deepwordbug"]


class RobustnessConfig(Section):
    """What the classifier is put to: texts spoiled, changed and compared."""

    # validation rows that are perturbed, at least 4 of each class; None takes all
    rows: int | None = Field(1_000, ge=10)
    kinds: tuple[Perturbation, ...] = Field(get_args(Perturbation), min_length=1)
    severities: tuple[Literal[1, 2, 3, 4, 5], ...] = Field((1, 2, 3, 4, 5), min_length=1)
    # kinds that are measured without cleaning too
    raw_kinds: tuple[Perturbation, ...] = Field(
        ("white_space", "homoglyphs", "html", "url"), min_length=1
    )
    n_flipped: int = Field(8, ge=1)  # texts shown whose answer changes most often
    # of a probability: a test of direction fails beyond it
    tolerance: float = Field(0.05, ge=0, lt=1)
    # validation rows in which groups are compared, at least 4 of each class; None takes all
    fairness_rows: int | None = Field(3_000, ge=10)
    # texts that a group and the others need; with fewer nothing is claimed
    min_group_rows: int = Field(30, ge=2)
    # --- attacks
    attacks: tuple[Attack, ...] = ("textfooler", "bert-attack", "deepwordbug")
    # validation rows that each attack is run on, at least 4 of each class; None takes all
    attack_rows: int | None = Field(300, ge=10)
    attack_budget: int = Field(400, ge=1)  # texts that may be predicted for one text
    # of each attack; texts that do not get their turn have no result
    attack_seconds: float = Field(600.0, gt=0)
    # a masked language model with its head, for BERT-Attack's candidates; None: the encoder's
    # word embeddings
    masked_model: str | None = None
    # a folder with WordNet's files data.noun, data.verb, data.adj, data.adv, for synonyms and the
    # candidates of attacks that have no model; None: the encoder's word embeddings
    thesaurus: str | None = None
    # a spaCy pipeline: in attacks a word and what replaces it have the same part of speech
    tagger: str | None = None
    # a backbone that says how similar two texts are
    encoder: str = "minilm"
    # of a changed text with the original, at which its meaning counts as kept
    similarity_levels: tuple[float, float] = (0.8, 0.9)
    # what learns from spoiled texts too: a model on TF-IDF, or the run's transformer, three times
    remedy_model: Literal["linear", "transformer"] = "linear"
    # training rows, at least 4 of each class, that it learns from
    remedy_rows: int = Field(4_000, ge=10)
    # --- texts unlike those of the training
    ood_data: str | None = None  # a table of texts that belong to no class
    # training rows that a text is compared with, and rows on which scores are compared
    ood_rows: int = Field(4_000, ge=100)
    # share of texts like those of the training that may be taken for others
    ood_false_alarms: float = Field(0.05, gt=0, lt=1)

    @model_validator(mode="after")
    def _raw_kinds_are_measured(self) -> RobustnessConfig:
        missing = [kind for kind in self.raw_kinds if kind not in self.kinds]
        if missing:
            raise ValueError(
                f"raw_kinds has {missing[0]!r}, which kinds has not: add it there, or leave it out"
            )
        return self
