"""From rows and settings to a trainer that is ready to train."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import transformers

from lib import provenance, workspace
from lib.config import Config
from lib.data.sources import sample_rows
from lib.training import backbones, local_deberta
from lib.training.finetune import (
    devices,
    heads,
    kernels,
    launching,
    losses,
    pretraining,
    tokenization,
)
from lib.training.finetune.arguments import training_arguments
from lib.training.finetune.job import TrainingJob
from lib.training.finetune.trainer import RecipeTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENS = "models/.tokens"  # encoded texts, shared by all runs
# up to which a processor's backward pass of "sdpa" in bf16 is slower than of "eager" (LOG.md,
# 2026-11-29)
EAGER_TOKENS = 512


def build_trainer(job: TrainingJob) -> RecipeTrainer:
    """Load the model, encode the texts, and put both into a trainer, without callbacks yet."""
    settings = job.settings
    devices.prepare_torch(settings)
    class_names = sorted(job.train["label"].unique())
    tokenizer, model, messages = _load_model(job, class_names)
    val = early_stopping_rows(job.val, job.config)
    with launching.first_process_first():
        train_dataset = _encode(job.train, tokenizer, class_names, job.config)
        eval_dataset = _encode(val, tokenizer, class_names, job.config)
    y_train = _codes(job.train, class_names)
    pad = tokenizer.pad_token_id or 0
    multiple = tokenization.GPU_MULTIPLE if torch.cuda.is_available() else 1
    trainer = RecipeTrainer(
        model=model,
        args=training_arguments(job.config, job.checkpoints, n_train=len(train_dataset)),
        settings=settings,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        class_weights=losses.class_weights(
            y_train, settings.class_weights, n_classes=len(class_names)
        ),
        processing_class=tokenizer,
        data_collator=partial(tokenization.collate, pad=pad, multiple=multiple),
        progress=job.progress,
    )
    trainer.remove_callback(transformers.PrinterCallback)  # the history is drawn, not printed
    trainer.messages += messages
    return trainer


def _encode(
    table: pd.DataFrame,
    tokenizer: PreTrainedTokenizerBase,
    class_names: list[str],
    config: Config,
) -> tokenization.EncodedTexts:
    encoded = tokenization.encode(
        table["text"].tolist(),
        tokenizer,
        max_length=config.training.max_length,
        truncation=config.training.truncation,
        cache=workspace.home() / TOKENS,
    )
    return tokenization.EncodedTexts(encoded, _codes(table, class_names))


def _codes(table: pd.DataFrame, class_names: list[str]) -> np.ndarray:
    codes = {name: code for code, name in enumerate(class_names)}
    return table["label"].map(codes).to_numpy(np.int64)


def early_stopping_rows(val: pd.DataFrame, config: Config) -> pd.DataFrame:
    """Return the validation rows that decide when training stops and which checkpoint is kept.

    They are all rows, or a sample of `training.eval_rows`, larger where the classes need it.
    """
    n_rows = config.training.eval_rows
    if not n_rows or n_rows >= len(val):
        return val
    return sample_rows(val, n_rows, seed=config.seed)


def _load_model(
    job: TrainingJob, class_names: list[str]
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel, list[str]]:
    """Load the backbone and change it as the settings say; return messages to the reader too."""
    settings = job.settings
    source, messages = starting_point(job)
    transformers.set_seed(job.config.seed)
    tokenizer, model = backbones.load_backbone(source, class_names=class_names)
    backbones.check_length(model, settings.max_length)
    heads.set_dropout(model, hidden=settings.dropout, attention=settings.attention_dropout)
    heads.set_pooling(model, settings.pooling)
    heads.compute_logits_in_float32(model)
    heads.reinit_top_layers(model, settings.reinit_layers, seed=job.config.seed)
    if settings.multisample_dropout > 1:
        heads.turn_off_last_dropout(model)  # the loss draws the head's masks itself
    is_short = settings.max_length <= EAGER_TOKENS
    if is_short and devices.device().type == "cpu" and devices.precision(settings) == "bf16":
        model.set_attn_implementation("eager")
    if settings.attention_kernel == "fused":
        messages.append(kernels.use_fused_attention(model))
    if not settings.compile:  # it would compile again for each length
        kernels.use_needed_positions(model)
    if settings.pooling == "cls":
        heads.read_first_token_only(model)
    if settings.lora_rank:
        model = heads.add_lora(model, rank=settings.lora_rank)
    if settings.compile:
        model, message = kernels.compile_model(model, wanted=True)
        messages.append(message)
    return tokenizer, model, messages


def starting_point(job: TrainingJob) -> tuple[str, list[str]]:
    """Return the checkpoint to start from, and messages to the reader.

    Where that is configured it is pretrained on the training texts first.
    """
    texts = job.train["text"].tolist()
    source = _backbone_source(job, texts)
    if not job.settings.pretraining_epochs:
        return source, []
    folder = job.folder / "pretrained"
    with launching.first_process_first():
        facts = pretrain_once(
            texts, source=source, folder=folder, config=job.config, progress=job.progress
        )
    before, after = facts["eval_loss_before"], facts["eval_loss_after"]
    message = f"masked loss {before:.2f} before, {after:.2f} after"
    return str(folder), [f"pretrained on the training texts: {message}"]


def _backbone_source(job: TrainingJob, texts: list[str]) -> str:
    """Return the configured backbone; `tiny` is built first, from the training texts."""
    backbone = job.settings.backbone
    if backbone == "minilm":
        return str(backbones.offline_encoder())
    if backbone != "tiny":
        return backbone
    folder = job.folder / "tiny-deberta"
    with launching.first_process_first():
        if launching.is_first():
            with workspace.atomic_path(folder) as scratch:
                local_deberta.build(texts, scratch, seed=job.config.seed)
    return str(folder)


def pretrain_once(
    texts: list[str], *, source: str, folder: Path, config: Config, progress: bool
) -> dict[str, Any]:
    """Pretrain on the texts, unless this folder holds the result of the same texts and settings.

    Returns
    -------
    the facts of `pretraining.pretrain`
    """
    settings = config.training
    epochs = settings.pretraining_epochs
    key = provenance.fingerprint(texts, settings.backbone, epochs, settings.precision, config.seed)

    def pretrain() -> dict[str, Any]:
        return pretraining.pretrain(
            texts,
            source=source,
            folder=folder,
            epochs=epochs,
            precision=devices.precision(settings),
            seed=config.seed,
            progress=progress,
        )

    record = folder.parent / "pretrained.json"
    return provenance.once(record, key, pretrain, outputs=[folder])
