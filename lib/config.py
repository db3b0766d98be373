"""Every setting of a run, typed and validated; one YAML file a profile."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lib.errors import WorkbookError

FIXED_PARTS = 5  # that a search and the learning curve deal their rows into
PROFILES = Path(__file__).resolve().parents[1] / "notebooks" / "profiles"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(_Section):
    """Where the labelled table comes from."""

    source: str = "docstrings"  # a file, a folder, hub:<name>[:config][:split], or docstrings
    text_column: str = "text"
    label_column: str = "label"
    split_column: str | None = None  # says train, val or test of each row; None draws the splits
    time_column: str | None = (
        None  # dates or numbers: the latest rows become the test set, those before them validation
    )
    encoding: str | None = None  # of CSV, TSV and JSON files; None tells it from the bytes
    rows: int | None = Field(None, ge=10)  # a stratified sample of this many rows; None takes all
    merge_labels: bool = False  # treat labels that differ in case or blanks alone as one

    @model_validator(mode="after")
    def _one_way_to_split(self) -> DataConfig:
        if self.split_column and self.time_column:
            raise ValueError(
                f"rows are split by split_column={self.split_column!r} or by time_column={self.time_column!r}, not by both: unset one"
            )
        return self


class ProfilingConfig(_Section):
    """How much of the data the slower looks take."""

    linguistic_rows: int = Field(5_000, ge=10)  # rows for the textdescriptives features
    max_chars: int = Field(20_000, ge=100)  # of one text that those features read
    token_rows: int = Field(
        5_000, ge=10
    )  # rows whose tokens are counted with the backbone's tokenizer
    language_rows: int = Field(2_000, ge=10)  # rows whose language is detected


class CleaningConfig(_Section):
    """One switch a rule, in the order in which the rules are applied."""

    encoding_repair: bool = True
    unicode_nfkc: bool = True
    invisible: bool = True
    html_tags: bool = True
    html_entities: Literal["decode", "drop", "keep"] = "decode"
    urls_emails: Literal["replace", "remove", "keep"] = "replace"
    whitespace: bool = True
    min_words: int = Field(3, ge=1)
    ablation_rows: int = Field(
        4_000, ge=0
    )  # rows to measure on what each rule is worth; 0 does not


class SplitConfig(_Section):
    """How rows become training, validation and test sets."""

    shares: tuple[float, float, float] = (0.70, 0.15, 0.15)
    near_duplicate_threshold: float = Field(
        0.95, gt=0.5, le=1.0
    )  # Jaccard similarity of word shingles
    shingle_words: int = Field(3, ge=1, le=10)

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> SplitConfig:
        if min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-9:
            raise ValueError(f"shares must be positive and sum to 1, got {self.shares}")
        return self


class LabelsConfig(_Section):
    """The search for wrong labels."""

    folds: int = Field(5, ge=2)
    queue_rows: int = Field(200, ge=1)  # rows a person is willing to look at
    min_hit_share: float = Field(
        0.2, gt=0, lt=1
    )  # of real errors among the next texts; below it looking further is not worth it
    encoder: str | None = (
        "minilm"  # a backbone whose vectors judge labels beside TF-IDF; None: TF-IDF and its topics alone
    )
    encoder_tokens: int = Field(128, ge=8, le=512)  # that it reads of a text
    lab_rows: int = Field(
        5_000, ge=0
    )  # rows of the laboratory, which plants errors to see who finds them; 0: none
    lab_rates: tuple[float, ...] = Field(
        (0.02, 0.05, 0.10, 0.20), min_length=1
    )  # shares of labels made wrong
    lab_seeds: int = Field(5, ge=2)

    @model_validator(mode="after")
    def _rates_are_shares(self) -> LabelsConfig:
        if not all(0 < rate <= 0.5 for rate in self.lab_rates):
            raise ValueError(
                f"lab_rates are shares of the labels, above 0 and at most 0.5, got {self.lab_rates}"
            )
        return self


class AugmentationConfig(_Section):
    """Changed copies of training texts: what they are worth is measured; they are trained on only where `train` says so."""

    methods: tuple[
        Literal["insert", "delete", "swap", "contextual", "back_translation", "paraphrase"], ...
    ] = ("insert", "delete", "swap")
    rows: int | None = Field(4_000, ge=10)  # training rows that get copies; None takes all
    copies: int = Field(1, ge=1, le=20)  # of a text by each method
    share: float = Field(
        0.1, gt=0, le=0.5
    )  # of a text's words that change (insert, delete, swap, contextual)
    masked_model: str | None = None  # for contextual: a masked language model, hub name or folder
    translators: tuple[str, str] | None = (
        None  # for back_translation: models into another language and back, hub names or folders
    )
    paraphraser: str | None = (
        None  # for paraphrase: a sequence-to-sequence model, hub name or folder
    )
    paraphrase_prefix: str = "paraphrase: "  # what that model was taught to be asked with
    train: bool = False  # the transformer learns from the copies too

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
                "a sequence-to-sequence model that was taught to paraphrase",
            ),
        }
        for method, (setting, example) in needed.items():
            if method in self.methods and not getattr(self, setting):
                raise ValueError(
                    f"the method {method} needs augmentation.{setting}: {example}; a folder works offline"
                )
        return self

    @property
    def models(self) -> dict[str, str]:
        """Return the models that the chosen methods need: setting -> hub name or folder."""
        there, back = self.translators or ("", "")
        named: dict[str, dict[str, str | None]] = {
            "contextual": {"masked_model": self.masked_model},
            "back_translation": {"translators[0]": there, "translators[1]": back},
            "paraphrase": {"paraphraser": self.paraphraser},
        }
        return {
            f"augmentation.{setting}": name
            for method in self.methods
            for setting, name in named.get(method, {}).items()
            if name
        }


class TrainingConfig(_Section):
    """One fine-tuning run; the defaults are the recipe for a pretrained DeBERTa-v3."""

    # the model
    backbone: str = "microsoft/deberta-v3-base"  # hub name, local folder, `minilm` (offline) or `tiny` (for tests)
    pooling: Literal["cls", "mean", "attention"] = "cls"
    dropout: float = Field(0.1, ge=0, lt=1)
    attention_dropout: float = Field(0.1, ge=0, lt=1)  # 0 allows faster attention kernels
    reinit_layers: int = Field(0, ge=0)  # top layers that start anew
    lora_rank: int = Field(0, ge=0)  # 0 trains the weights themselves
    pretraining_epochs: float = Field(
        0.0, ge=0
    )  # of masked language modelling on the training texts, before
    # the texts
    max_length: int = Field(256, ge=8, le=512)  # tokens
    truncation: Literal["head", "head_tail", "windows"] = "head"  # what is kept of a longer text
    # the optimiser
    epochs: float = Field(5.0, gt=0)
    learning_rate: float = Field(3e-5, gt=0)
    layer_decay: float = Field(
        1.0, gt=0, le=1
    )  # each layer learns at this multiple of the rate of the one above it
    weight_decay: float = Field(0.01, ge=0)  # none on biases and LayerNorm
    adam_betas: tuple[float, float] = (0.9, 0.999)
    adam_epsilon: float = Field(1e-8, gt=0)
    schedule: Literal["linear", "cosine", "constant"] = "linear"  # after the warm-up
    warmup_share: float = Field(0.1, ge=0, lt=1)
    batch_size: int = Field(
        32, ge=1
    )  # rows an optimiser step learns from, whatever it is split into
    accumulation_steps: int = Field(1, ge=1)  # micro-batches that it is split into, at least
    max_grad_norm: float = Field(1.0, gt=0)
    frozen_layers: int = Field(0, ge=0)  # embeddings and this many lower layers stay as pretrained
    unfreeze: tuple[int, ...] = (
        0,
        6,
    )  # top layers that learn in the first epochs (0: the head alone); then all
    averaging: Literal["none", "ema", "swa"] = (
        "ema"  # of the weights; swa holds the learning rate from its start on
    )
    averaging_start: float = Field(0.5, ge=0, lt=1)  # share of all steps
    ema_decay: float = Field(0.999, gt=0, lt=1)
    # the loss
    class_weights: Literal["none", "balanced"] = "none"
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    r_drop: float = Field(0.0, ge=0)  # weight of the divergence between two dropout masks
    mixup: float = Field(
        0.0, ge=0
    )  # alpha of the Beta distribution that pooled embeddings are mixed with; 0 is off
    multisample_dropout: int = Field(
        1, ge=1
    )  # dropout masks of the head that the loss is averaged over
    adversarial: Literal["none", "embeddings", "weights"] = (
        "none"  # what is perturbed for a second gradient
    )
    adversarial_epsilon: float = Field(
        0.01, gt=0
    )  # of the perturbation, relative to the norm of what it perturbs
    # looking and stopping
    eval_steps: int = Field(100, ge=1)
    eval_rows: int | None = Field(None, ge=10)  # validation rows for early stopping; None takes all
    patience: int = Field(3, ge=1)  # evaluations without a better macro F1
    # the machine
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    gradient_checkpointing: bool = False
    attention_kernel: Literal["model", "fused"] = (
        "model"  # fused: DeBERTa on a GPU, with the package disentangled-flash
    )
    compile: bool = False  # torch.compile
    micro_batch_tokens: int | None = Field(
        None, ge=8
    )  # padded tokens in a micro-batch; None: 1,024 on a CPU, no bound on a GPU
    activation_cache_gb: float = Field(
        4.0, ge=0
    )  # disk for what frozen layers give, computed once; 0 computes it every time
    processes: int = Field(1, ge=1)  # on this machine, each with its GPU or its share of the cores
    launch_options: tuple[
        str, ...
    ] = ()  # more words for the launcher (`accelerate launch`, on CPUs torchrun), for instance for several machines
    threads: int | None = Field(None, ge=1)  # CPU threads; None leaves it to torch

    @model_validator(mode="after")
    def _fits_together(self) -> TrainingConfig:
        if self.adversarial == "embeddings" and (self.frozen_layers or self.lora_rank):
            raise ValueError(
                "adversarial=embeddings needs embeddings that learn: set frozen_layers and lora_rank to 0, or adversarial to weights"
            )
        if self.lora_rank and (self.frozen_layers or self.unfreeze or self.layer_decay < 1):
            raise ValueError(
                "lora_rank trains small matrices in all layers alike: set frozen_layers to 0, unfreeze to [] and layer_decay to 1"
            )
        if min(self.unfreeze, default=0) < 0:
            raise ValueError(f"unfreeze counts layers from the top, 0 or more, got {self.unfreeze}")
        return self


class LedgerConfig(_Section):
    """The trick ledger: each technique on and off, over the same seeds and rows."""

    techniques: tuple[
        str, ...
    ] = ()  # names in lib.training.ledger.TECHNIQUES; `all` takes every one
    seeds: int = Field(3, ge=2)  # each draws its training rows, its head and its dropout
    train_rows: int = Field(4_000, ge=20)
    val_rows: int = Field(3_000, ge=20)
    epochs: float = Field(2.0, gt=0)


class CrossValidationConfig(_Section):
    """Models trained again and again on folds of the training rows; TF-IDF with two linear models is always among them."""

    folds: int = Field(5, ge=2)
    repeats: int = Field(1, ge=1)  # each deals the rows out anew
    rows: int | None = Field(
        None, ge=20
    )  # a stratified sample of the training rows; None takes all
    early_stopping_share: float = Field(
        0.1, gt=0, lt=0.5
    )  # of a fold's training rows, that stop the training: never the rows it is scored on
    curve_draws: int = Field(
        3, ge=0
    )  # of each size of the learning curve, which takes all training rows; 0: no curve
    members: dict[str, dict[str, Any]] = {
        "transformer": {}
    }  # name: training settings that differ from the run's, `seed` among them

    @model_validator(mode="after")
    def _members_have_other_names(self) -> CrossValidationConfig:
        if taken := {"TF-IDF", "TF-IDF: naive Bayes", "searched"} & set(self.members):
            raise ValueError(
                f"members has {min(taken)!r}, a name that the workbook gives itself: name it otherwise"
            )
        return self


class EnsembleConfig(_Section):
    """Several models as one, fitted on the out-of-fold probabilities of the cross-validation."""

    methods: tuple[Literal["soft", "weighted", "greedy", "stacking"], ...] = Field(
        ("soft", "weighted", "greedy", "stacking"), min_length=1
    )
    calibration: Literal["none", "temperature", "vector"] = "temperature"
    coverages: tuple[float, ...] = Field(
        (0.8, 0.9, 0.95, 0.99), min_length=1
    )  # that prediction sets promise
    students: bool = True  # one model in place of several: distillation and a soup, three trainings on the cross-validation's rows
    student_val_rows: int | None = Field(
        None, ge=20
    )  # a stratified sample of the validation rows that they are scored on; None takes all
    teacher_share: float = Field(
        0.7, ge=0, le=1
    )  # of a student's labels that is the ensemble's probabilities; the rest is the label
    teacher_temperature: float = Field(
        2.0, gt=0
    )  # above 1: the student hears more of the second-best classes

    @model_validator(mode="after")
    def _coverages_are_shares(self) -> EnsembleConfig:
        if not all(0 < coverage < 1 for coverage in self.coverages):
            raise ValueError(
                f"coverages are shares of texts, between 0 and 1, got {self.coverages}"
            )
        return self


class Range(_Section):
    """Numbers from `low` to `high`, both included."""

    low: int | float
    high: int | float
    log: bool = False  # as many between 1 and 10 as between 10 and 100
    step: float | None = Field(None, gt=0)  # between two of them; None: any float, every int

    @model_validator(mode="after")
    def _is_a_range(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low:g} and high {self.high:g}: low is the smaller one")
        if self.log and (self.low <= 0 or self.step):
            raise ValueError(
                f"log needs a low above 0 and no step, found low {self.low:g} and step {self.step}"
            )
        if self.step and self.step > self.high - self.low:
            raise ValueError(
                f"step {self.step:g} leads beyond high {self.high:g}: make it smaller, or leave it out"
            )
        if self.step and isinstance(self.low, int) and isinstance(self.high, int) and self.step % 1:
            raise ValueError(
                f"step is {self.step:g} between whole numbers: make it whole, or write low as {float(self.low)}"
            )
        return self


class SearchConfig(_Section):
    """Training settings tried out on a sample of the training rows, by macro F1."""

    trials: int = Field(20, ge=0)  # of the study in all, however often it was stopped; 0: no search
    space: dict[str, Any] = {  # training setting: a list of choices, or {low, high, log, step}
        "learning_rate": [2e-5, 3e-5, 5e-5],
        "epochs": [4, 5, 6],
        "batch_size": [16, 32],
        "warmup_share": [0.1, 0.2],
        "weight_decay": [0.01, 0.05],
        "max_length": [256, 384],
    }
    sampler: Literal["tpe", "gp", "random"] = "tpe"  # what proposes settings
    pruner: Literal["median", "hyperband", "none"] = (
        "median"  # what stops a hopeless trial; it looks twice an epoch
    )
    rows: int | None = Field(
        2_000, ge=20
    )  # a stratified sample of the training rows; None takes all
    nested_folds: int = Field(
        0, ge=0
    )  # each searches anew, to say how optimistic the search is; 0: none
    cross_validate: bool = False  # the best settings join the cross-validation as member `searched`
    restart: bool = False  # a study of other rows or settings is deleted and begun anew; false: that is an error

    @model_validator(mode="after")
    def _can_be_searched(self) -> SearchConfig:
        if self.trials and not self.space:
            raise ValueError(
                "space is empty: name a training setting and its choices, or set trials to 0"
            )
        if self.nested_folds == 1:
            raise ValueError(
                "nested_folds is 1, and one fold leaves no rows to search on: set it to 0, or to 2 or more"
            )
        return self


class EvaluationConfig(_Section):
    """Intervals and what is shown of the mistakes."""

    n_resamples: int = Field(2_000, ge=100)
    confidence: float = Field(0.95, gt=0.5, lt=1)
    n_mistakes: int = Field(12, ge=1)


class ComputeConfig(_Section):
    """Where folds, members and the trials of a search are trained."""

    engine: Literal["local", "ray"] = "local"
    workers: int = Field(
        1, ge=1
    )  # processes of this machine that share its cores; also trials of a search at a time, which learn from those before
    address: str = (
        ""  # of a Ray cluster whose nodes share WORKBOOK_HOME; "" begins one on this machine
    )
    cpus: float = Field(1.0, gt=0)  # that a training takes on Ray
    gpus: float = Field(0.0, ge=0)  # that a training takes on Ray; a fraction shares a GPU


class TrackingConfig(_Section):
    """Where runs, folds and trials are recorded; nothing of a result depends on it."""

    backend: Literal["mlflow", "none"] = "mlflow"
    uri: str = ""  # of a tracking server; "": a SQLite file in models/mlflow
    wandb: bool = False  # W&B too: pip install wandb
    system_metrics: bool = (
        True  # load of processor, memory, disk, network and GPU, every 10 seconds of a training
    )


class Config(_Section):
    """All settings of a run.

    Examples
    --------
    >>> Config.load("smoke", {"training.epochs": 2}).training.epochs
    2.0
    """

    profile: str
    seed: int = Field(42, ge=0, lt=2**32)
    data: DataConfig = DataConfig()
    profiling: ProfilingConfig = ProfilingConfig()
    cleaning: CleaningConfig = CleaningConfig()
    split: SplitConfig = SplitConfig()
    labels: LabelsConfig = LabelsConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    training: TrainingConfig = TrainingConfig()
    ledger: LedgerConfig = LedgerConfig()
    search: SearchConfig = SearchConfig()
    cross_validation: CrossValidationConfig = CrossValidationConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    compute: ComputeConfig = ComputeConfig()
    tracking: TrackingConfig = TrackingConfig()

    @property
    def n_folds(self) -> int:
        """Return the most parts that the training rows of a class are dealt into."""
        fixed = FIXED_PARTS if self.search.trials or self.cross_validation.curve_draws else 0
        return max(self.labels.folds, self.cross_validation.folds, fixed)

    @property
    def fewer_folds(self) -> list[str]:
        """Return the settings, with their values, that deal rows into the fewest parts."""
        fewest = {
            "labels.folds": 2,
            "cross_validation.folds": 2,
            "search.trials": 0,
            "cross_validation.curve_draws": 0,
        }
        return [f"{key}={value}" for key, value in fewest.items() if self.value(key) != value]

    @model_validator(mode="after")
    def _members_can_be_trained(self) -> Config:
        for name in self.cross_validation.members:
            if (
                not isinstance(seed := self.cross_validation.members[name].get("seed", 0), int)
                or not 0 <= seed < 2**32
            ):
                raise ValueError(
                    f"cross_validation.members: {name!r}: seed is a whole number from 0 on, found {seed!r}"
                )
            self.member(name)
        return self

    def member_config(self, name: str) -> Config:
        """Return the settings of a run that trains a member of the cross-validation: its training settings and its seed."""
        seed = self.cross_validation.members[name].get("seed", self.seed)
        return self.model_copy(update={"training": self.member(name), "seed": seed})

    def member(self, name: str) -> TrainingConfig:
        """Return the training settings of a member of the cross-validation."""
        found = {
            key: value
            for key, value in self.cross_validation.members[name].items()
            if key != "seed"
        }
        for key in found:
            if key not in TrainingConfig.model_fields:
                known = ", ".join(TrainingConfig.model_fields)
                raise ValueError(
                    f"cross_validation.members: {name!r} sets {key!r}{closest(key, TrainingConfig.model_fields)}; a member sets seed, {known}"
                )
        try:
            return TrainingConfig.model_validate(self.training.model_dump() | found)
        except ValidationError as error:
            raise ValueError(
                f"cross_validation.members: {name!r}: {said(error.errors()[0])}"
            ) from None

    @model_validator(mode="after")
    def _space_can_be_trained(self) -> Config:
        self.search_space()
        return self

    def search_space(self) -> dict[str, tuple[Any, ...] | Range]:
        """Return the choices or the range of each searched setting, as TrainingConfig reads them."""
        return {key: self._searched(key, values) for key, values in self.search.space.items()}

    def _searched(self, key: str, values: Any) -> tuple[Any, ...] | Range:
        if key not in TrainingConfig.model_fields or key == "eval_steps":
            why = (
                "is set by the search itself"
                if key == "eval_steps"
                else f"is no training setting{closest(key, TrainingConfig.model_fields)}"
            )
            raise ValueError(f"search.space: {key!r} {why}")
        try:
            if isinstance(values, dict):
                ends = [
                    self._trained_with(key, end)
                    for end in (Range.model_validate(values).low, Range.model_validate(values).high)
                ]
                if any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends):
                    raise ValueError(
                        f"a range is for numbers, and it takes {ends[0]!r}: give a list of choices"
                    )
                return Range.model_validate(values | {"low": ends[0], "high": ends[1]})
            if not isinstance(values, list | tuple) or not values:
                raise ValueError(
                    f"give a list of choices, or {{low: .., high: ..}}; found {values!r}"
                )
            return tuple(self._trained_with(key, value) for value in values)
        except ValidationError as error:
            found = "; ".join(
                ": ".join([*map(str, one["loc"]), _message(one)]) for one in error.errors()
            )
            raise ValueError(f"search.space.{key}: {found} (found {values!r})") from None
        except ValueError as error:
            raise ValueError(f"search.space.{key}: {error}") from None

    def _trained_with(self, key: str, value: Any) -> Any:
        return getattr(
            TrainingConfig.model_validate(self.training.model_dump() | {key: value}), key
        )

    @classmethod
    def load(cls, profile: str | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
        """Read a profile and lay dotted overrides over it.

        Parameters
        ----------
        profile : name of a file in notebooks/profiles; None or "" takes the environment variable
            WORKBOOK_PROFILE, else `quick`
        overrides : {"training.epochs": 3, ...}

        Raises
        ------
        WorkbookError : no such profile, no such key (the closest one is named), or a value out of range.
        """
        profile = profile or os.environ.get("WORKBOOK_PROFILE") or "quick"
        if profile not in profile_names():
            raise WorkbookError(
                f"no profile {profile!r}{closest(profile, profile_names())}; there are {', '.join(profile_names())}"
            )
        settings = yaml.safe_load((PROFILES / f"{profile}.yaml").read_text(encoding="utf-8")) or {}
        for key, value in (overrides or {}).items():
            _set_dotted(settings, key, value)
        try:
            return cls.model_validate({**settings, "profile": profile})
        except ValidationError as error:
            raise WorkbookError(_one_line(error)) from None

    def flat(self) -> dict[str, Any]:
        """Return every setting under its dotted key."""
        return {key: self.value(key) for key in setting_keys()}

    def value(self, key: str) -> Any:
        """Return the setting under a dotted key."""
        found: Any = self
        for part in key.split("."):
            found = getattr(found, part)
        return found


def profile_names() -> list[str]:
    """Return the names of the profiles there are, sorted."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def setting_keys() -> list[str]:
    """Return the dotted keys that an override may name."""
    keys = []
    for name, field in Config.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += [f"{name}.{inner}" for inner in kind.model_fields]
        elif name != "profile":
            keys.append(name)
    return keys


def closest(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the known name nearest to `name`, or ""."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def parse_overrides(assignments: Iterable[str]) -> dict[str, Any]:
    """Turn `key=value` words of a command line into overrides; values are read as YAML, nothing as the empty text where that is the default.

    Examples
    --------
    >>> parse_overrides(["training.epochs=3", "data.merge_labels=true"])
    {'training.epochs': 3, 'data.merge_labels': True}
    """
    overrides = {}
    for word in assignments:
        key, equals, value = word.partition("=")
        if not equals:
            raise WorkbookError(
                f"--set takes key=value, found {word!r}; for instance --set training.epochs=3"
            )
        _check_key(key)
        try:
            overrides[key] = (
                "" if not value and Config(profile="").value(key) == "" else yaml.safe_load(value)
            )
        except yaml.YAMLError:
            raise WorkbookError(
                f"--set {key}: {value!r} is no YAML value; quote it, for instance --set {key}='\"{value}\"'"
            ) from None
    return overrides


def _set_dotted(settings: dict[str, Any], key: str, value: Any) -> None:
    _check_key(key)
    *sections, last = key.split(".")
    for section in sections:
        settings = settings.setdefault(section, {})
    settings[last] = value


def _check_key(key: str) -> None:
    if key not in setting_keys():
        raise WorkbookError(f"no setting {key!r}{closest(key, setting_keys())}")


def _one_line(error: ValidationError) -> str:
    return "; ".join(said(one) for one in error.errors())


def said(one: Any) -> str:
    """Return one of pydantic's errors as a line; of a check over several settings it is the check's own words."""
    key = ".".join(str(part) for part in one["loc"])
    if one["type"] == "extra_forbidden":
        return f"no setting {key!r}{closest(key, setting_keys())}"
    if isinstance(one["input"], Mapping | BaseModel):  # the whole section
        return ": ".join(part for part in (key, _message(one)) if part)
    return f"{key}: {_message(one)} (found {one['input']!r})"


def _message(one: Any) -> str:
    return one["msg"].removeprefix("Value error, ")
