"""The settings of models: fine-tuning, search, cross-validation, ensemble, and where they run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from lib.config.section import Section

LINEAR_MEMBERS = ("TF-IDF", "TF-IDF: naive Bayes")  # always in the cross-validation
SEARCHED_MEMBER = "searched"


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
    members: dict[str, dict[str, Any]] = Field({"transformer": {}})

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
    space: dict[str, Any] = Field(
        {
            "learning_rate": [2e-5, 3e-5, 5e-5],
            "epochs": [4, 5, 6],
            "batch_size": [16, 32],
            "warmup_share": [0.1, 0.2],
            "weight_decay": [0.01, 0.05],
            "max_length": [256, 384],
        }
    )
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
