"""The sections of a run's settings, each value typed and validated."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

LINEAR_MEMBERS = ("TF-IDF", "TF-IDF: naive Bayes")  # always in the cross-validation
SEARCHED_MEMBER = "searched"
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}


class Section(BaseModel):
    """Settings that cannot be changed after loading; an unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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


class TrainingConfig(Section):
    """One fine-tuning run; the defaults are the recipe for a pretrained DeBERTa-v3."""

    # --- the model
    # hub name, local folder, `minilm` (offline) or `tiny` (for tests)
    backbone: str = "microsoft/deberta-v3-base"
    pooling: Literal["cls", "mean", "attention"] = "cls"
    dropout: float = Field(0.1, ge=0, lt=1)
    attention_dropout: float = Field(0.1, ge=0, lt=1)  # 0 allows faster attention kernels
    reinit_layers: int = Field(0, ge=0)  # top layers that are drawn again
    lora_rank: int = Field(0, ge=0)  # 0 trains the weights themselves
    # of masked language modelling on the training texts, before fine-tuning
    pretraining_epochs: float = Field(0.0, ge=0)
    # --- the texts
    max_length: int = Field(256, ge=8)  # tokens; the backbone's positions bound it
    truncation: Literal["head", "head_tail", "windows"] = "head"  # what is kept of a longer text
    # --- the optimiser
    epochs: float = Field(5.0, gt=0)
    learning_rate: float = Field(3e-5, gt=0)
    # of the head in the epochs in which it learns alone (`unfreeze` 0); None: learning_rate
    head_learning_rate: float | None = Field(None, gt=0)
    # each layer learns at this multiple of the rate of the one above it
    layer_decay: float = Field(1.0, gt=0, le=1)
    weight_decay: float = Field(0.01, ge=0)  # none on biases and LayerNorm
    adam_betas: tuple[float, float] = (0.9, 0.999)
    adam_epsilon: float = Field(1e-8, gt=0)
    schedule: Literal["linear", "cosine", "constant"] = "linear"  # after the warm-up
    warmup_share: float = Field(0.1, ge=0, lt=1)
    # rows that an optimiser step learns from, whatever it is split into
    batch_size: int = Field(32, ge=1)
    accumulation_steps: int = Field(1, ge=1)  # micro-batches in a step, at least
    max_grad_norm: float = Field(1.0, gt=0)
    frozen_layers: int = Field(0, ge=0)  # embeddings and this many lower layers stay as pretrained
    # top layers that learn in the first epochs (0: the head alone); then all
    unfreeze: tuple[int, ...] = (0, 6)
    # of the weights; swa holds the learning rate from its start on
    averaging: Literal["none", "ema", "swa"] = "ema"
    averaging_start: float = Field(0.5, ge=0, lt=1)  # share of all steps
    ema_decay: float = Field(0.999, gt=0, lt=1)
    # --- the loss
    class_weights: Literal["none", "balanced"] = "none"
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    r_drop: float = Field(0.0, ge=0)  # weight of the divergence between two dropout masks
    # alpha of the Beta distribution that pooled embeddings are mixed with; 0 is off
    mixup: float = Field(0.0, ge=0)
    # dropout masks of the head that the loss is averaged over
    multisample_dropout: int = Field(1, ge=1)
    # what is perturbed for a second gradient
    adversarial: Literal["none", "embeddings", "weights"] = "none"
    # norm of a matrix's move, relative to its own (weights)
    adversarial_epsilon: float = Field(0.01, gt=0)
    # norm of the move of the table of word embeddings, in mean norms of its rows (embeddings)
    embedding_epsilon: float = Field(1.0, gt=0)
    # --- evaluating and stopping
    eval_steps: int = Field(100, ge=1)
    # validation rows for early stopping, at least 4 of each class; None takes all
    eval_rows: int | None = Field(None, ge=10)
    patience: int = Field(3, ge=1)  # evaluations without a better macro F1
    # --- the machine
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    gradient_checkpointing: bool = False
    # fused: DeBERTa on a GPU, with the package disentangled-flash
    attention_kernel: Literal["model", "fused"] = "model"
    compile: bool = False  # torch.compile
    # padded tokens in a micro-batch; None: 2,048 on a CPU, no bound on a GPU
    micro_batch_tokens: int | None = Field(None, ge=8)
    # disk for the activations of frozen layers, computed once; 0 computes them in every epoch
    activation_cache_gb: float = Field(4.0, ge=0)
    processes: int = Field(1, ge=1)  # on this machine, each with its GPU or its share of the cores
    # more words for the launcher (`accelerate launch`, on CPUs torchrun), for several machines
    launch_options: tuple[str, ...] = ()
    threads: int | None = Field(None, ge=1)  # of the CPU; None leaves it to torch

    @model_validator(mode="after")
    def _fits_together(self) -> TrainingConfig:
        if self.adversarial == "embeddings" and (self.frozen_layers or self.lora_rank):
            raise ValueError(
                "adversarial=embeddings needs embeddings that learn: set frozen_layers and "
                "lora_rank to 0, or adversarial to weights"
            )
        if self.lora_rank and (self.frozen_layers or self.unfreeze or self.layer_decay < 1):
            raise ValueError(
                "lora_rank trains small matrices in all layers alike: set frozen_layers to 0, "
                "unfreeze to [] and layer_decay to 1"
            )
        sharded = {"--use_deepspeed", "--use_fsdp"}.intersection(self.launch_options)
        if sharded:
            raise ValueError(
                f"launch_options has {min(sharded)}, and a step's micro-batches, the averages and "
                "the checkpoints need whole gradients in each process: leave it out, and take "
                "processes, gradient_checkpointing or lora_rank"
            )
        if min(self.unfreeze, default=0) < 0:
            raise ValueError(f"unfreeze counts layers from the top, 0 or more, got {self.unfreeze}")
        return self


class LedgerConfig(Section):
    """The trick ledger: each technique on and off, over the same seeds and rows."""

    # names in lib.training.ledger.TECHNIQUES; `all` takes every one
    techniques: tuple[str, ...] = ()
    seeds: int = Field(3, ge=2)  # each draws its training rows, its head and its dropout
    # at least 4 of each class, as of validation
    train_rows: int = Field(4_000, ge=20)
    val_rows: int = Field(3_000, ge=20)
    epochs: float = Field(3.0, gt=0)  # gradual unfreezing has three stages


class CrossValidationConfig(Section):
    """Models trained on folds of the training rows; two linear models are always among them."""

    folds: int = Field(5, ge=2)
    repeats: int = Field(1, ge=1)  # each assigns the rows to other folds
    # a stratified sample of the training rows, at least two a fold of each class; None takes all
    rows: int | None = Field(None, ge=20)
    # of a fold's training rows, that stop the training: never the rows it is scored on
    early_stopping_share: float = Field(0.1, gt=0, lt=0.5)
    # of each size of the learning curve, which takes all training rows; 0: no curve
    curve_draws: int = Field(3, ge=0)
    # name: training settings that differ from the run's, `seed` among them
    members: dict[str, dict[str, Any]] = {"transformer": {}}

    @model_validator(mode="after")
    def _members_have_other_names(self) -> CrossValidationConfig:
        taken = {*LINEAR_MEMBERS, SEARCHED_MEMBER} & set(self.members)
        if taken:
            raise ValueError(
                f"members has {min(taken)!r}, a name that the workbook gives itself: "
                "choose another name"
            )
        return self


Combination = Literal["soft", "weighted", "greedy", "stacking"]


class EnsembleConfig(Section):
    """Several models as one, fitted on the out-of-fold probabilities of the cross-validation."""

    methods: tuple[Combination, ...] = Field(
        ("soft", "weighted", "greedy", "stacking"), min_length=1
    )
    calibration: Literal["none", "temperature", "vector"] = "temperature"
    # auto: rare classes weigh more in the choice of the label where macro F1 gains significantly
    decision: Literal["auto", "most_probable"] = "auto"
    # that prediction sets promise
    coverages: tuple[float, ...] = Field((0.8, 0.9, 0.95, 0.99), min_length=1)
    # of texts that the classifier answers, the most confident ones; it abstains from the rest
    answered_share: float = Field(1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _coverages_are_shares(self) -> EnsembleConfig:
        if not all(0 < coverage < 1 for coverage in self.coverages):
            raise ValueError(
                f"coverages are shares of texts, between 0 and 1, got {self.coverages}"
            )
        return self


class Range(Section):
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
        if self.step is None:
            return self
        if self.step > self.high - self.low:
            raise ValueError(
                f"step {self.step:g} leads beyond high {self.high:g}: make it smaller, or leave "
                "it out"
            )
        if isinstance(self.low, int) and isinstance(self.high, int) and self.step % 1:
            raise ValueError(
                f"step is {self.step:g} between whole numbers: make it whole, or write low as "
                f"{float(self.low)}"
            )
        return self


class SearchConfig(Section):
    """Training settings tried out on a sample of the training rows, by macro F1."""

    # of the study in all, however often it was stopped; 0: no search
    trials: int = Field(20, ge=0)
    # training setting: a list of choices, or {low, high, log, step}
    space: dict[str, Any] = {
        "learning_rate": [2e-5, 3e-5, 5e-5],
        "epochs": [4, 5, 6],
        "batch_size": [16, 32],
        "warmup_share": [0.1, 0.2],
        "weight_decay": [0.01, 0.05],
        "max_length": [256, 384],
    }
    sampler: Literal["tpe", "gp", "random"] = "tpe"  # what proposes settings
    # what stops a hopeless trial; it evaluates twice an epoch
    pruner: Literal["median", "hyperband", "none"] = "median"
    # a stratified sample of the training rows, at least 10 of each class; None takes all
    rows: int | None = Field(2_000, ge=20)
    # each repeats the search, to measure how optimistic it is; 0: none
    nested_folds: int = Field(0, ge=0)
    # the best settings join the cross-validation as member `searched`
    cross_validate: bool = False
    # a study of other rows or settings is deleted and started again; false: that is an error
    restart: bool = False

    @model_validator(mode="after")
    def _can_be_searched(self) -> SearchConfig:
        if self.trials and not self.space:
            raise ValueError(
                "space is empty: name a training setting and its choices, or set trials to 0"
            )
        if self.nested_folds == 1:
            raise ValueError(
                "nested_folds is 1, and one fold leaves no rows to search on: set it to 0, or to "
                "2 or more"
            )
        return self


Share = Annotated[float, Field(ge=0, le=1)]


class EvaluationConfig(Section):
    """Intervals, when a classifier is good enough, and what the model card says of the data."""

    n_resamples: int = Field(2_000, ge=100)
    confidence: float = Field(0.95, gt=0.5, lt=1)
    n_mistakes: int = Field(12, ge=1)
    data_licence: str = "unknown"  # for the model card
    # least accuracy and macro F1, by name: above the lowest a classifier is ready
    success_bars: dict[str, tuple[Share, Share]] = Field(
        {"accept": (0.88, 0.87), "target": (0.91, 0.90), "stretch": (0.93, 0.92)}, min_length=1
    )


class ComputeConfig(Section):
    """Where folds, members and the trials of a search are trained."""

    engine: Literal["local", "ray"] = "local"
    # processes of this machine that share its cores; also trials of a search at a time
    workers: int = Field(1, ge=1)
    # of a Ray cluster whose nodes share WORKBOOK_HOME; "" starts one on this machine
    address: str = ""
    cpus: float = Field(1.0, gt=0)  # that a training takes on Ray
    gpus: float = Field(0.0, ge=0)  # that a training takes on Ray; a fraction shares a GPU


class TrackingConfig(Section):
    """Where runs, folds and trials are recorded; no result depends on it."""

    backend: Literal["mlflow", "none"] = "mlflow"
    uri: str = ""  # of a tracking server; "": a SQLite file in models/mlflow
    wandb: bool = False  # W&B too: pip install wandb
    # MLflow's: load of processor, memory, disk, network and GPU, every 10 seconds of a training
    system_metrics: bool = True
