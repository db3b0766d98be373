"""Fine-tuning: a labelled table in, the best checkpoint and its validation probabilities out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import transformers

from lib import workspace
from lib.config import Config, TrainingConfig
from lib.errors import WorkbookError
from lib.evaluation.metrics import macro_f1
from lib.training import tracking
from lib.training.finetune import (
    averaging,
    building,
    callbacks,
    checkpoints,
    devices,
    freezing,
    heads,
    launching,
    losses,
    prediction,
    tokenization,
)
from lib.training.finetune.arguments import steps_per_epoch, total_steps
from lib.training.finetune.job import TrainingJob
from lib.training.finetune.trainer import RecipeTrainer
from lib.workspace import Workspace

# of the second try after a divergence, times those of the first
RESTART_RATE = 0.25
RESTART_WARMUP = 3.0


@dataclass(frozen=True)
class TrainingResult:
    """What a fine-tuning run leaves.

    Attributes
    ----------
    model_dir : folder of the model kept, with its tokenizer; class names are in its config
    val_probs : ndarray of shape (n_val, k), of the model kept, columns in `class_names` order
    class_names : sorted
    history : DataFrame by training step: `loss` or `eval_loss`, `eval_macro_f1`, `learning_rate`,
        `grad_norm`
    facts : device, precision, weights that learned, truncated share, seconds, best step, whether
        the average was kept, and `messages`: what a reader should know (a restart, smaller
        micro-batches, a kernel that is not available)
    """

    model_dir: Path
    val_probs: np.ndarray
    class_names: list[str]
    history: pd.DataFrame
    facts: dict[str, Any]

    def describe(self) -> str:
        """Return in words how long training took, on what, how much learned and what was kept."""
        facts = self.facts
        learned, weights = facts["weights_learning"] / 1e6, facts["weights"] / 1e6
        sentences = [
            f"{facts['steps']:,} steps on {facts['train_rows']:,} rows took "
            f"{facts['training_seconds']:.0f} s, {facts['texts_per_second']:.0f} texts a second "
            f"({facts['device']}, {facts['precision']}).",
            f"{learned:.1f} of {weights:.1f} million weights learned.",
            f"{facts['truncated_share']:.0%} of the texts are longer than {facts['max_length']} "
            f"tokens ({facts['truncation']} is read).",
            f"The {facts['kept']} was kept.",
            *(f"Note: {message}." for message in facts["messages"]),
        ]
        return " ".join(sentences)


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
    """Fine-tune the configured backbone; stop early on macro F1; keep the best checkpoint.

    The average of the weights is kept where it is better. The same data, settings and seed give the
    same result on one machine's CPU, also where the run was interrupted and started again: it goes
    on from its last checkpoint. An earlier model of this run is replaced when the new one is whole.

    Parameters
    ----------
    train, val : with `text` and `label`
    ws : where the model goes
    watch : is given the history after every evaluation; what it raises ends the training
    name : of a trial in a series, for the record

    Raises
    ------
    WorkbookError : the backbone cannot be loaded; a label of `val` is not in `train`; training
        diverged twice (what was tried is named); a single text does not fit into memory.
    """
    _check_labels(train, val)
    with tracking.training(train, val, config=config, ws=ws, name=name) as record:
        started = time.perf_counter()
        job = TrainingJob(train, val, config, ws, progress, watch, record)
        facts, history = _train_in_processes(job)
        tokenizer, model, class_names = prediction.load_model(job.model_dir)  # as saved
        val_probs = prediction.predict_probs(
            tokenizer, model, val["text"].tolist(), settings=config.training, progress=progress
        )
        facts["seconds"] = round(time.perf_counter() - started, 1)
        result = TrainingResult(job.model_dir, val_probs, class_names, history, facts)
        if record:
            _record(record, result, val)
    return result


def _check_labels(train: pd.DataFrame, val: pd.DataFrame) -> None:
    unknown = sorted(set(val["label"]) - set(train["label"]))
    if unknown:
        raise WorkbookError(
            f"label {unknown[0]!r} is in the validation rows but not in the training rows"
        )


def _train_in_processes(job: TrainingJob) -> tuple[dict[str, Any], pd.DataFrame]:
    """Train in this process, or in several; return facts and history."""
    if job.settings.processes == 1 and not job.settings.launch_options:
        return train_in_this_process(job)
    devices.prepare_torch(job.settings)
    building.starting_point(job)  # pretraining is done by one process
    return launching.launch(job)


def _record(record: tracking.Record, result: TrainingResult, val: pd.DataFrame) -> None:
    """Record what a training left, and tell the reader of its facts what became of the record."""
    y_val = pd.Categorical(val["label"], categories=result.class_names).codes.astype(int)
    y_pred = result.val_probs.argmax(axis=1)
    score = macro_f1(y_val, y_pred, n_classes=len(result.class_names))
    numbers = {name: fact for name, fact in result.facts.items() if isinstance(fact, int | float)}
    record.history(result.history)
    record.metrics({**numbers, "val_macro_f1": score})
    record.tags({name: fact for name, fact in result.facts.items() if name not in numbers})
    result.facts["messages"] += record.notes


# --- the tries ---


def train_in_this_process(job: TrainingJob) -> tuple[dict[str, Any], pd.DataFrame]:
    """Train, a second time at a lower rate where the first diverges; return facts and history."""
    key = checkpoints.key_of(job.train, job.val, job.config)
    diverged = checkpoints.open_or_clear(job.checkpoints, key)
    if not diverged:
        try:
            return _try(job, diverged)
        except callbacks.Diverged as error:
            diverged = [_describe_try(job.settings, error)]
            checkpoints.begin(job.checkpoints, key, diverged)
            if job.record:
                job.record.next_try(error)
    gentler = job.with_settings(lower_rate(job.settings))
    try:
        return _try(gentler, diverged)
    except callbacks.Diverged as error:
        checkpoints.clear(job.checkpoints)
        tries = "; ".join([*diverged, _describe_try(gentler.settings, error)])
        raise WorkbookError(
            f"training diverged twice; {tries}. What is left to try: look at the labels, "
            "lower training.learning_rate, or take another backbone"
        ) from error


def _describe_try(settings: TrainingConfig, error: callbacks.Diverged) -> str:
    rate = f"a learning rate of {settings.learning_rate:g}"
    return f"at {rate} with a warm-up of {settings.warmup_share:.0%}: {error}"


def lower_rate(settings: TrainingConfig) -> TrainingConfig:
    """Return the settings of the second try.

    It has a quarter of the learning rate, and three times the warm-up: at least a tenth of all
    steps, at most half of them.
    """
    warmup = min(0.5, max(0.1, RESTART_WARMUP * settings.warmup_share))
    changed = {"learning_rate": RESTART_RATE * settings.learning_rate, "warmup_share": warmup}
    if settings.head_learning_rate:
        changed["head_learning_rate"] = RESTART_RATE * settings.head_learning_rate
    return settings.model_copy(update=changed)


def _try(job: TrainingJob, diverged: list[str]) -> tuple[dict[str, Any], pd.DataFrame]:
    """Build the trainer, train, and save the model that is kept."""
    started = time.perf_counter()
    trainer = building.build_trainer(job)
    trainer.messages += [f"a second try, after one {attempt}" for attempt in diverged]
    resume_state = callbacks.ResumeState(trainer, started=started)
    average = averaging.WeightAverage(trainer.model, job.settings)
    _add_callbacks(trainer, job, resume_state=resume_state, average=average)
    trainer.train(resume_from_checkpoint=checkpoints.last(job.checkpoints))
    kept = "average" if keep_better_average(trainer, average) else "best checkpoint"
    trainer.messages += nothing_learned(trainer)
    _save(trainer, job)
    facts = {**_facts(trainer, job, seconds=resume_state.seconds), "kept": kept}
    return facts, callbacks.history_table(trainer.state.log_history)


def _add_callbacks(
    trainer: RecipeTrainer,
    job: TrainingJob,
    *,
    resume_state: callbacks.ResumeState,
    average: averaging.WeightAverage,
) -> None:
    settings = job.settings
    starts = all_layers_learn(trainer, settings)
    trainer.add_callback(callbacks.EarlyStopping(patience=settings.patience, starts=starts))
    trainer.add_callback(callbacks.Unfreezing(trainer))
    if job.record:
        trainer.add_callback(callbacks.Recording(job.record.log_step))
    if job.record and job.record.wandb:
        trainer.add_callback(transformers.integrations.WandbCallback())
    trainer.add_callback(_divergence_guard(trainer, job))
    trainer.add_callback(resume_state)
    trainer.add_callback(callbacks.Progress(progress=job.progress, watch=job.watch))
    if settings.averaging != "none":
        trainer.add_callback(average)


def all_layers_learn(trainer: RecipeTrainer, settings: TrainingConfig) -> int:
    """Return the step at which the last layers that are to learn have warmed up."""
    n_train = len(trainer.train_dataset)
    warmup = round(settings.warmup_share * total_steps(settings, n_train=n_train))
    last_epoch = freezing.last_stage(settings, n_layers=trainer.n_layers)
    return last_epoch * steps_per_epoch(settings, n_train=n_train) + warmup


def _divergence_guard(trainer: RecipeTrainer, job: TrainingJob) -> callbacks.DivergenceGuard:
    settings = job.settings
    y_train = pd.Categorical(job.train["label"]).codes.astype(int)
    class_weights = trainer.class_weights.cpu().numpy()
    return callbacks.DivergenceGuard(
        chance_loss=losses.guessing_loss(
            y_train, class_weights, label_smoothing=settings.label_smoothing
        ),
        starts=all_layers_learn(trainer, settings),
    )


# --- what is kept ---


def keep_better_average(trainer: RecipeTrainer, average: averaging.WeightAverage) -> bool:
    """Give the model, which holds the best checkpoint, the averaged weights if they score better.

    Returns
    -------
    whether they do
    """
    trainer.drop_caches()
    if not average.weights:
        return False
    parameters = dict(trainer.model.named_parameters())
    best = {name: parameters[name].detach().clone() for name in average.weights}
    averaging.set_weights(trainer.model, average.weights)
    score = trainer.score()["eval_macro_f1"]
    if score > (trainer.state.best_metric or 0.0):
        trainer.state.best_metric = score
        return True
    averaging.set_weights(trainer.model, best)
    return False


def nothing_learned(trainer: RecipeTrainer) -> list[str]:
    """Return a message where the model kept is no better than the largest class for every text."""
    labels = trainer.eval_labels
    largest = np.full_like(labels, np.bincount(labels).argmax())
    chance = macro_f1(labels, largest, n_classes=len(trainer.class_weights))
    best = trainer.state.best_metric
    if best is None or best > chance:
        return []
    return [
        f"NOTHING WAS LEARNED: the best macro F1 on the validation rows is {best:.3f}, and the "
        f"largest class for every text has {chance:.3f}; look at the labels, or change "
        "training.learning_rate or training.epochs"
    ]


def _save(trainer: RecipeTrainer, job: TrainingJob) -> None:
    if job.settings.lora_rank:
        trainer.model = heads.merge_lora(trainer.model)
    trainer.accelerator.wait_for_everyone()  # the others may still be reading the best checkpoint
    if launching.is_first():
        with workspace.atomic_path(job.model_dir) as scratch:
            trainer.model.save_pretrained(scratch)
            trainer.processing_class.save_pretrained(scratch)
        checkpoints.keep_last(job.checkpoints, job.last_model_dir)
        checkpoints.clear(job.checkpoints)


def _facts(trainer: RecipeTrainer, job: TrainingJob, *, seconds: float) -> dict[str, Any]:
    """Return what is worth knowing of a training that took so many seconds, loading counted."""
    settings = job.settings
    n_steps = trainer.state.global_step
    learning = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    return {
        "backbone": settings.backbone,
        "device": str(trainer.args.device),
        "precision": devices.precision(settings),
        "processes": trainer.args.world_size,
        "weights": sum(p.numel() for p in trainer.model.parameters()),
        "weights_learning": sum(p.numel() for p in learning),
        "train_rows": len(job.train),
        "max_length": settings.max_length,
        "truncation": settings.truncation,
        "truncated_share": truncated_share(trainer.train_dataset.pieces, n_rows=len(job.train)),
        "training_seconds": round(seconds, 3),
        "texts_per_second": round(n_steps * settings.batch_size / seconds, 2),
        "steps": n_steps,
        "best_step": trainer.state.best_global_step or n_steps,
        "messages": trainer.messages,
    }


def truncated_share(pieces: tokenization.Pieces, *, n_rows: int) -> float:
    """Return the share of texts of which tokens were cut."""
    return len(np.unique(pieces.rows[pieces.is_cut])) / n_rows
