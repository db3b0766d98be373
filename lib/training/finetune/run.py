"""One fine-tuning run: a labelled table in, the best checkpoint and its validation probabilities out."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import transformers

from lib import workspace
from lib.config import Config, TrainingConfig
from lib.data.sources import sample_rows
from lib.errors import WorkbookError
from lib.evaluation.metrics import macro_f1
from lib.training import backbones, tracking
from lib.training.finetune import (
    callbacks,
    checkpoints,
    devices,
    heads,
    kernels,
    launching,
    prediction,
    pretraining,
    tokenization,
)
from lib.training.finetune.arguments import training_arguments
from lib.training.finetune.trainer import RecipeTrainer
from lib.workspace import Workspace

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENS = "models/.tokens"  # encoded texts, shared by all runs
RESTART_RATE, RESTART_WARMUP = (
    0.25,
    3.0,
)  # of the learning rate and the warm-up, for the second try after a divergence


@dataclass(frozen=True)
class TrainingResult:
    """What a fine-tuning run leaves.

    Attributes
    ----------
    model_dir : folder of the model kept, with its tokenizer; class names are in its config
    val_probs : ndarray of shape (n_val, k), of the model kept, columns in `class_names` order
    class_names : sorted
    history : DataFrame by training step: `loss` or `eval_loss`, `eval_macro_f1`, `learning_rate`, `grad_norm`
    facts : device, precision, weights that learned, truncated share, seconds, best step, whether the average was kept, and
        `messages`: what a reader should know (a restart, smaller micro-batches, a kernel that was not to be had)
    """

    model_dir: Path
    val_probs: np.ndarray
    class_names: list[str]
    history: pd.DataFrame
    facts: dict[str, Any]


def train(
    train: pd.DataFrame,
    val: pd.DataFrame,
    *,
    config: Config,
    ws: Workspace,
    progress: bool = True,
    watch: Callable[[pd.DataFrame], None] | None = None,
    name: str = "",
) -> TrainingResult:
    """Fine-tune the configured backbone; stop early on macro F1; keep the best checkpoint, or the average where it is better.

    The same data, settings and seed give the same result on one machine's CPU, also where the run was interrupted in between and
    started again: it goes on from its last checkpoint. An earlier model of this run is replaced only when the new one is whole.

    Parameters
    ----------
    train, val : with `text` and `label`; `train` may have soft labels to learn in their place (`tokenization.soft_labels`)
    ws : where the model goes
    watch : is given the history after every evaluation; what it raises ends the training
    name : of a trial in a series, for the record

    Raises
    ------
    WorkbookError : the backbone cannot be loaded; a label of `val` is not in `train`; training diverged twice (what was tried is
        named); a single text does not fit into memory.
    """
    unknown = sorted(set(val["label"]) - set(train["label"]))
    if unknown:
        raise WorkbookError(
            f"label {unknown[0]!r} is in the validation rows but not in the training rows"
        )
    with tracking.training(train, val, config=config, ws=ws, name=name) as record:
        result = _train(
            train, val, config=config, ws=ws, progress=progress, watch=watch, record=record
        )
        if record:
            _record(record, result, val)
    return result


def _train(
    train: pd.DataFrame,
    val: pd.DataFrame,
    *,
    config: Config,
    ws: Workspace,
    progress: bool,
    watch: Callable[[pd.DataFrame], None] | None,
    record: tracking.Record | None,
) -> TrainingResult:
    started = time.perf_counter()
    if config.training.processes > 1 or config.training.launch_options:
        devices.prepare_torch(config.training)
        _starting_point(
            config, ws, train["text"], progress=progress
        )  # pretraining is done by one process
        facts, history = launching.launch(
            train, val, config=config, ws=ws, progress=progress, watch=watch
        )
    else:
        facts, history = train_in_this_process(
            train, val, config=config, ws=ws, progress=progress, watch=watch, record=record
        )
    tokenizer, trained, class_names = prediction.load_model(ws.path("transformer"))  # as saved
    val_probs = prediction.predict_probs(
        tokenizer, trained, val["text"].tolist(), settings=config.training, progress=progress
    )
    facts["seconds"] = round(time.perf_counter() - started, 1)
    return TrainingResult(ws.path("transformer"), val_probs, class_names, history, facts)


def _record(record: tracking.Record, result: TrainingResult, val: pd.DataFrame) -> None:
    """Record what a training left, and tell the reader of its facts what became of the record."""
    y_val = pd.Categorical(val["label"], categories=result.class_names).codes.astype(int)
    numbers = {name: fact for name, fact in result.facts.items() if isinstance(fact, int | float)}
    record.history(result.history)
    record.metrics(
        {
            **numbers,
            "val_macro_f1": macro_f1(
                y_val, result.val_probs.argmax(axis=1), n_classes=len(result.class_names)
            ),
        }
    )
    record.tags({name: fact for name, fact in result.facts.items() if name not in numbers})
    result.facts["messages"] += record.notes


def train_in_this_process(
    train: pd.DataFrame,
    val: pd.DataFrame,
    *,
    config: Config,
    ws: Workspace,
    progress: bool,
    watch: Callable[[pd.DataFrame], None] | None,
    record: tracking.Record | None = None,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Train in this process, a second time at a lower rate where the first diverges; return facts and history."""
    folder = ws.folder(workspace.MODELS) / "checkpoints"
    key = checkpoints.key_of(train, val, config)
    tried = checkpoints.open_or_clear(folder, key)
    settings = lower_rate(config.training) if tried else config.training
    while True:
        try:
            return _attempt(
                train,
                val,
                config=config,
                settings=settings,
                tried=tried,
                ws=ws,
                progress=progress,
                watch=watch,
                record=record,
            )
        except callbacks.Diverged as error:
            tried = [
                *tried,
                f"at a learning rate of {settings.learning_rate:g} with a warm-up of {settings.warmup_share:.0%}: {error}",
            ]
            if len(tried) > 1:
                checkpoints.clear(folder)
                remedy = (
                    "look at the labels, lower training.learning_rate, or take another backbone"
                )
                raise WorkbookError(
                    f"training diverged twice; {'; '.join(tried)}. What is left to try: {remedy}"
                ) from error
            settings = lower_rate(settings)
            checkpoints.begin(folder, key, tried)
            if record:
                record.next_try(error)


def lower_rate(settings: TrainingConfig) -> TrainingConfig:
    """Return the settings of the second try: a quarter of the learning rate, three times the warm-up (a tenth of all steps at least)."""
    warmup = min(0.5, max(0.1, RESTART_WARMUP * settings.warmup_share))
    return settings.model_copy(
        update={"learning_rate": RESTART_RATE * settings.learning_rate, "warmup_share": warmup}
    )


def _attempt(
    train: pd.DataFrame,
    val: pd.DataFrame,
    *,
    config: Config,
    settings: TrainingConfig,
    tried: list[str],
    ws: Workspace,
    progress: bool,
    watch: Callable[[pd.DataFrame], None] | None,
    record: tracking.Record | None,
) -> tuple[dict[str, Any], pd.DataFrame]:
    started = time.perf_counter()
    progress = progress and launching.is_first()
    folder = ws.folder(workspace.MODELS) / "checkpoints"
    trainer = build_trainer(train, val, config=config, settings=settings, ws=ws, progress=progress)
    trainer.messages += [f"a second try, after one {attempt}" for attempt in tried]
    keeping, average = (
        callbacks.ResumeState(trainer, started=started),
        callbacks.WeightAverage(trainer.model, settings),
    )
    _add_callbacks(
        trainer,
        folder,
        train["label"],
        keeping=keeping,
        average=average,
        progress=progress,
        watch=watch,
        record=record,
    )
    trainer.train(resume_from_checkpoint=checkpoints.last(folder))
    kept_average = _put_in_average(trainer, average)
    _save(trainer, ws)
    facts = {
        "backbone": settings.backbone,
        "device": str(trainer.args.device),
        "precision": devices.precision(settings),
        "processes": trainer.args.world_size,
        "weights": sum(p.numel() for p in trainer.model.parameters()),
        "weights_learning": n_learning(trainer),
        "train_rows": len(train),
        "truncated_share": truncated_share(trainer.train_dataset.encoded, n_rows=len(train)),
        "training_seconds": round(
            keeping.seconds, 3
        ),  # of this attempt, loading and evaluating counted
        "texts_per_second": round(
            trainer.state.global_step * settings.batch_size / keeping.seconds, 2
        ),
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step or trainer.state.global_step,
        "kept": "average" if kept_average else "best checkpoint",
        "messages": trainer.messages,
    }
    history = callbacks.history_table(trainer.state.log_history)
    return facts, history


def build_trainer(
    train: pd.DataFrame,
    val: pd.DataFrame,
    *,
    config: Config,
    settings: TrainingConfig,
    ws: Workspace,
    progress: bool = False,
) -> RecipeTrainer:
    """Load the model, encode the texts, and put both into a trainer that is ready to train, but for what watches it.

    Parameters
    ----------
    settings : those of `config`, or of a second try
    """
    devices.prepare_torch(settings)
    class_names = sorted(train["label"].unique())
    tokenizer, model, messages = _model(
        config, settings, ws, train["text"], class_names, progress=progress
    )
    codes = {name: code for code, name in enumerate(class_names)}
    watched = early_stopping_rows(val, config)
    encode = partial(
        tokenization.encode,
        tokenizer=tokenizer,
        max_length=settings.max_length,
        truncation=settings.truncation,
        cache=workspace.home() / TOKENS,
    )
    with launching.first_process_first():
        encoded, encoded_val = encode(train["text"].tolist()), encode(watched["text"].tolist())
    y_train, y_val = (table["label"].map(codes).to_numpy(np.int64) for table in (train, watched))
    trainer = RecipeTrainer(
        model=model,
        args=training_arguments(
            config, settings, ws.folder(workspace.MODELS) / "checkpoints", n_train=len(encoded)
        ),
        settings=settings,
        train_dataset=tokenization.EncodedTexts(
            encoded, y_train if (soft := tokenization.soft_labels(train)) is None else soft
        ),
        eval_dataset=tokenization.EncodedTexts(encoded_val, y_val),
        watched=(encoded_val, y_val),
        class_weights=class_weights(y_train, settings.class_weights, n_classes=len(class_names)),
        processing_class=tokenizer,
        data_collator=partial(
            tokenization.collate,
            pad=tokenizer.pad_token_id or 0,
            multiple=tokenization.GPU_MULTIPLE if torch.cuda.is_available() else 1,
        ),
    )
    trainer.remove_callback(transformers.PrinterCallback)  # the history is drawn, not printed
    trainer.messages += messages
    return trainer


def early_stopping_rows(val: pd.DataFrame, config: Config) -> pd.DataFrame:
    """Return the validation rows that decide when a training stops and which checkpoint is kept: all, or a sample of `eval_rows`."""
    n_rows = config.training.eval_rows
    return (
        sample_rows(val, n_rows, seed=config.seed, setting="training.eval_rows")
        if n_rows and n_rows < len(val)
        else val
    )


def _model(
    config: Config,
    settings: TrainingConfig,
    ws: Workspace,
    texts: pd.Series,
    class_names: list[str],
    *,
    progress: bool,
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel, list[str]]:
    """Load the backbone and change it as the settings say; return it with what a reader should know."""
    source, messages = _starting_point(config, ws, texts, progress=progress)
    transformers.set_seed(config.seed if settings.head_seed is None else settings.head_seed)
    tokenizer, model = backbones.load_backbone(source, class_names=class_names)
    if settings.head_seed is not None:
        transformers.set_seed(config.seed)
    heads.set_dropout(model, hidden=settings.dropout, attention=settings.attention_dropout)
    heads.set_pooling(model, settings.pooling)
    heads.compute_logits_in_float32(model)
    if settings.reinit_layers:
        heads.reinit_top_layers(model, settings.reinit_layers, seed=config.seed)
    if settings.multisample_dropout > 1 and hasattr(model, "dropout"):
        model.dropout.p = 0.0  # the loss draws the head's masks itself
    if settings.attention_kernel == "fused":
        messages.append(kernels.use_fused_attention(model))
    if not settings.compile:  # it would compile anew for each length
        kernels.use_needed_positions(model)
    if settings.pooling == "cls":
        heads.read_first_token_only(model)
    if settings.lora_rank:
        model = heads.add_lora(model, rank=settings.lora_rank)
    if settings.compile:
        model, line = kernels.compile_model(model, wanted=True)
        messages.append(line)
    return tokenizer, model, messages


def _starting_point(
    config: Config, ws: Workspace, texts: pd.Series, *, progress: bool
) -> tuple[str, list[str]]:
    """Return where the weights to start from are, pretrained on the texts where that is configured, and what a reader should know."""
    source = _backbone_source(config, ws, texts)
    if not config.training.pretraining_epochs:
        return source, []
    folder = ws.folder(workspace.MODELS) / "pretrained"
    with launching.first_process_first():
        facts = pretrain_once(
            texts.tolist(), source=source, folder=folder, config=config, progress=progress
        )
    return str(folder), [
        f"pretrained on the training texts: masked loss {facts['eval_loss_before']:.2f} before, {facts['eval_loss_after']:.2f} after"
    ]


def pretrain_once(
    texts: list[str], *, source: str, folder: Path, config: Config, progress: bool
) -> dict[str, Any]:
    """Pretrain on the texts, unless this folder holds the result of the same texts and settings."""
    settings, read = (
        config.training,
        hashlib.sha256("\x1f".join(texts).encode("utf-8", "surrogatepass")).hexdigest(),
    )
    key = [read, settings.backbone, settings.pretraining_epochs, settings.precision, config.seed]
    record = folder.parent / "pretrained.json"
    if folder.exists() and record.exists() and (known := workspace.read_json(record))["key"] == key:
        return known["facts"]
    record.unlink(
        missing_ok=True
    )  # before the folder changes: a record never stands beside other weights
    epochs, kind = settings.pretraining_epochs, devices.precision(settings)
    facts = pretraining.pretrain(
        texts,
        source=source,
        folder=folder,
        epochs=epochs,
        precision=kind,
        seed=config.seed,
        progress=progress,
    )
    workspace.write_json({"key": key, "facts": facts}, record)
    return facts


def _add_callbacks(
    trainer: RecipeTrainer,
    folder: Path,
    labels: pd.Series,
    *,
    keeping: callbacks.ResumeState,
    average: callbacks.WeightAverage,
    progress: bool,
    watch: Any,
    record: tracking.Record | None,
) -> None:
    settings = trainer.settings
    unfreezing = callbacks.Unfreezing(trainer, folder / "activations", progress=progress)
    steps_an_epoch = math.ceil(len(trainer.train_dataset) / settings.batch_size)
    n_steps = math.ceil(steps_an_epoch * settings.epochs)
    starts = unfreezing.last_epoch() * steps_an_epoch + round(settings.warmup_share * n_steps)
    y_train = pd.Categorical(labels).codes.astype(int)
    guess = guessing_loss(
        y_train, trainer.class_weights.cpu().numpy(), label_smoothing=settings.label_smoothing
    )
    trainer.add_callback(
        transformers.EarlyStoppingCallback(early_stopping_patience=settings.patience)
    )
    trainer.add_callback(unfreezing)
    if record:
        trainer.add_callback(callbacks.Recording(record.log_step))
    if record and record.wandb:
        trainer.add_callback(transformers.integrations.WandbCallback())
    trainer.add_callback(callbacks.DivergenceGuard(chance_loss=guess, starts=starts))
    trainer.add_callback(keeping)
    trainer.add_callback(callbacks.Progress(progress=progress, watch=watch))
    if settings.averaging != "none":
        trainer.add_callback(average)


def _put_in_average(trainer: RecipeTrainer, average: callbacks.WeightAverage) -> bool:
    """Give the model, which holds the best checkpoint, the averaged weights where they score better; return whether they do."""
    trainer.caches.clear()
    if not average.weights:
        return False
    best = {
        name: p.detach().clone()
        for name, p in trainer.model.named_parameters()
        if name in average.weights
    }
    average.put_in()
    if trainer.score()["eval_macro_f1"] > (trainer.state.best_metric or 0.0):
        return True
    with torch.no_grad():
        for name, p in trainer.model.named_parameters():
            if name in best:
                p.copy_(best[name])
    return False


def _save(trainer: RecipeTrainer, ws: Workspace) -> None:
    if trainer.settings.lora_rank:
        trainer.model = heads.merge_lora(trainer.model)
    trainer.accelerator.wait_for_everyone()  # the others may still be reading the best checkpoint
    if launching.is_first():
        with workspace.atomic_path(ws.path("transformer")) as scratch:
            trainer.model.save_pretrained(scratch)
            trainer.processing_class.save_pretrained(scratch)
        checkpoints.clear(ws.folder(workspace.MODELS) / "checkpoints")


def n_learning(trainer: RecipeTrainer) -> int:
    """Return how many weights learn in the course of the training."""
    return sum(p.numel() for group in trainer.optimizer.param_groups for p in group["params"])


def truncated_share(encoded: Any, *, n_rows: int) -> float:
    """Return the share of texts of which tokens were cut."""
    return len(set(np.asarray(encoded["row"])[np.asarray(encoded["cut"])])) / n_rows


def class_weights(y_train: np.ndarray, kind: str, *, n_classes: int) -> torch.Tensor:
    """Return a weight a class, of mean 1 over the rows: all 1, or `balanced`, by the inverse of the class's size."""
    counts = np.bincount(y_train, minlength=n_classes)
    weights = len(y_train) / (n_classes * counts) if kind == "balanced" else np.ones(n_classes)
    return torch.tensor(weights, dtype=torch.float32)


def guessing_loss(y_train: np.ndarray, weights: np.ndarray, *, label_smoothing: float) -> float:
    """Return the least mean loss, weighted and smoothed as in training, of a guess that is the same for every row.

    Parameters
    ----------
    weights : of each class, mean 1 over the rows

    Examples
    --------
    >>> round(guessing_loss(np.array([0, 0, 0, 1]), np.ones(2), label_smoothing=0), 3)  # -(0.75 log 0.75 + 0.25 log 0.25)
    0.562
    >>> round(guessing_loss(np.array([0, 0, 0, 1]), np.array([2 / 3, 2]), label_smoothing=0), 3)  # log 2: both classes weigh the same
    0.693
    """
    shares = np.bincount(y_train, minlength=len(weights)) / len(y_train)
    targets = (1 - label_smoothing) * shares * weights + label_smoothing / len(
        weights
    )  # the guess that costs least
    return float(-(targets[targets > 0] * np.log(targets[targets > 0])).sum())


def _backbone_source(config: Config, ws: Workspace, texts: pd.Series) -> str:
    """Return the configured backbone; `tiny` is built first, from the training texts."""
    if config.training.backbone == "minilm":
        return str(backbones.offline_encoder())
    if config.training.backbone != "tiny":
        return config.training.backbone
    folder = ws.folder(workspace.MODELS) / "tiny-deberta"
    with launching.first_process_first():
        if launching.is_first():
            with workspace.atomic_path(folder) as scratch:
                backbones.build_deberta(texts.tolist(), scratch, seed=config.seed)
    return str(folder)
