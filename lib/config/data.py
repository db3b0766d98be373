"""The settings of the table: how it is read, profiled, cleaned, split, reviewed and augmented."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from lib.config.section import Section

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}


class DataConfig(Section):
    """Where the labelled table comes from."""

    # a file, a folder, hub:<name>[:config][:split], or docstrings
    source: str = "docstrings"
    text_column: str = "text"
    label_column: str = "label"
    # says train, val or test of each row; None draws the splits
    split_column: str | None = None
    # dates or numbers: the latest rows become the test set, those before them validation
    time_column: str | None = None
    # one value for the rows of an author, a document or a patient: they stay in one split
    group_column: str | None = None
    # of CSV, TSV and JSON files; None tells it from the bytes
    encoding: str | None = None
    # of CSV and TSV files: comma, semicolon, tab, pipe or a character; None tells it from the file
    delimiter: str | None = None
    # of CSV and TSV files. double: quotes enclose cells, and are doubled within them; backslash:
    # they may follow a backslash instead; none: they are text; None tells it from the file
    quoting: Literal["double", "backslash", "none"] | None = None
    # groups of people, or of sources, whose error rates notebook 08 compares
    fairness_column: str | None = None
    # a stratified sample of this many rows, more where the splits and folds of a class need them;
    # None takes all
    rows: int | None = Field(None, ge=10)
    # treat labels that differ only in case or blanks as one
    merge_labels: bool = False

    @property
    def columns(self) -> dict[str, str]:
        """Return the columns that the table has to have: how each is named -> its name."""
        columns = {
            "--text-column": self.text_column,
            "--label-column": self.label_column,
            "--set data.split_column=...": self.split_column,
            "--set data.time_column=...": self.time_column,
            "--set data.group_column=...": self.group_column,
            "--set data.fairness_column=...": self.fairness_column,
        }
        return {option: column for option, column in columns.items() if column is not None}

    @field_validator("delimiter")
    @classmethod
    def _delimiter_is_a_character(cls, value: str | None) -> str | None:
        if value is None or value in DELIMITERS:
            return DELIMITERS.get(value or "")
        if len(value) != 1 or value in '"\r\n':
            names = ", ".join(DELIMITERS)
            raise ValueError(f"a delimiter is {names}, or a single character")
        return value

    @model_validator(mode="after")
    def _one_way_to_split(self) -> DataConfig:
        if self.split_column and self.time_column:
            raise ValueError(
                f"rows are split by split_column={self.split_column!r} or by "
                f"time_column={self.time_column!r}, not by both: unset one"
            )
        return self


class ProfilingConfig(Section):
    """How much of the data the slower analyses read."""

    linguistic_rows: int = Field(5_000, ge=10)  # for the textdescriptives features
    max_chars: int = Field(20_000, ge=100)  # of one text that those features read
    token_rows: int = Field(5_000, ge=10)  # counted with the backbone's tokenizer
    language_rows: int = Field(2_000, ge=10)  # whose language is detected


class CleaningConfig(Section):
    """One switch a rule, in the order in which the rules are applied."""

    encoding_repair: bool = True
    unicode_nfkc: bool = True
    invisible: bool = True
    html_tags: bool = True
    html_entities: Literal["decode", "drop", "keep"] = "decode"
    urls_emails: Literal["replace", "remove", "keep"] = "replace"
    whitespace: bool = True
    # characters, in scripts without blanks
    min_words: int = Field(3, ge=1)
    # rows to measure on what each rule is worth; 0 skips it
    ablation_rows: int = Field(4_000, ge=0)

    @classmethod
    def off(cls) -> CleaningConfig:
        """Return the settings under which every text stays as it is."""
        return cls(
            encoding_repair=False,
            unicode_nfkc=False,
            invisible=False,
            html_tags=False,
            html_entities="keep",
            urls_emails="keep",
            whitespace=False,
            min_words=1,
        )


class SplitConfig(Section):
    """How rows become training, validation and test sets."""

    shares: tuple[float, float, float] = (0.70, 0.15, 0.15)
    # Jaccard similarity of word shingles, or 1 - 1/n of n characters with one typing error
    near_duplicate_threshold: float = Field(0.95, gt=0.5, le=1.0)
    shingle_words: int = Field(3, ge=1, le=10)

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> SplitConfig:
        if min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-9:
            raise ValueError(f"shares must be positive and sum to 1, got {self.shares}")
        return self


class LabelsConfig(Section):
    """The search for wrong labels."""

    folds: int = Field(5, ge=2)
    # that a person is willing to review
    queue_rows: int = Field(200, ge=1)
    # of real errors among the next texts; below it reviewing further is not worth it
    min_hit_share: float = Field(0.2, gt=0, lt=1)
    # a backbone whose vectors detect errors next to TF-IDF; None: TF-IDF and its topics alone
    encoder: str | None = "minilm"
    # that it reads of a text
    encoder_tokens: int = Field(128, ge=8, le=512)
    # of the laboratory, which injects errors to see which detector finds them, and at least
    # `folds` + 1 of each class; 0: no laboratory
    lab_rows: int = Field(5_000, ge=0)
    # shares of labels made wrong
    lab_rates: tuple[float, ...] = Field((0.02, 0.05, 0.10, 0.20), min_length=1)
    lab_seeds: int = Field(5, ge=2)

    @model_validator(mode="after")
    def _rates_are_shares(self) -> LabelsConfig:
        if not all(0 < rate <= 0.5 for rate in self.lab_rates):
            raise ValueError(
                f"lab_rates are shares of the labels, above 0 and at most 0.5, got {self.lab_rates}"
            )
        return self


Augmentation = Literal["insert", "delete", "swap", "contextual", "back_translation", "paraphrase"]


class AugmentationConfig(Section):
    """Changed copies of training texts. Their gain is measured; `train` makes models learn them."""

    methods: tuple[Augmentation, ...] = ("insert", "delete", "swap")
    # training rows that get copies, at least 4 of each class; None takes all
    rows: int | None = Field(4_000, ge=10)
    # of a text by each method
    copies: int = Field(1, ge=1, le=20)
    # of a text's words that change (insert, delete, swap, contextual)
    share: float = Field(0.1, gt=0, le=0.5)
    # for contextual: a masked language model, hub name or folder
    masked_model: str | None = None
    # for back_translation: models into another language and back, hub names or folders
    translators: tuple[str, str] | None = None
    # for paraphrase: a sequence-to-sequence model, hub name or folder
    paraphraser: str | None = None
    # the prompt that this model was trained with
    paraphrase_prefix: str = "paraphrase: "
    # the transformer learns from the copies too
    train: bool = False

    @model_validator(mode="after")
    def _models_are_named(self) -> AugmentationConfig:
        needed = {
            "contextual": ("masked_model", "a masked language model, for instance roberta-base"),
            "back_translation": (
                "translators",
                "two models, for instance [Helsinki-NLP/opus-mt-en-de, Helsinki-NLP/opus-mt-de-en]",
            ),
            "paraphrase": (
                "paraphraser",
                "a sequence-to-sequence model that was trained to paraphrase",
            ),
        }
        for method, (setting, example) in needed.items():
            if method in self.methods and not getattr(self, setting):
                raise ValueError(
                    f"the method {method} needs augmentation.{setting}: {example}; "
                    "a folder works offline"
                )
        return self

    @property
    def models(self) -> dict[str, str]:
        """Return the models that the chosen methods need: setting -> hub name or folder."""
        models: dict[str, str] = {}
        if "contextual" in self.methods and self.masked_model:
            models["augmentation.masked_model"] = self.masked_model
        if "back_translation" in self.methods and self.translators:
            models["augmentation.translators[0]"] = self.translators[0]
            models["augmentation.translators[1]"] = self.translators[1]
        if "paraphrase" in self.methods and self.paraphraser:
            models["augmentation.paraphraser"] = self.paraphraser
        return models
