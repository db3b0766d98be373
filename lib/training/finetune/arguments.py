"""The settings of a training in the words of HF's Trainer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lib.config import Config, TrainingConfig
from lib.errors import WorkbookError
from lib.training.finetune import launching
from lib.training.finetune.devices import precision

if TYPE_CHECKING:
    from transformers import TrainingArguments


def training_arguments(
    config: Config, settings: TrainingConfig, checkpoints: Path, *, n_train: int
) -> TrainingArguments:
    """Translate the settings into those of HF's Trainer."""
    from transformers import TrainingArguments

    kind, cuda, n_processes = (
        precision(settings),
        torch.cuda.is_available(),
        launching.n_processes(),
    )
    if settings.batch_size % n_processes:
        raise WorkbookError(
            f"training.batch_size={settings.batch_size} rows cannot be shared evenly by {n_processes} processes"
        )
    n_steps = math.ceil(math.ceil(n_train / settings.batch_size) * settings.epochs)
    every = min(
        settings.eval_steps, max(1, n_steps // 2)
    )  # at least two looks, or early stopping has nothing to compare
    return TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size // n_processes,
        learning_rate=settings.learning_rate,
        max_grad_norm=settings.max_grad_norm,
        bf16=kind == "bf16",
        fp16=kind == "fp16",
        activation_checkpointing=settings.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False}
        if settings.gradient_checkpointing
        else None,  # the other kind needs inputs that learn
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=1,  # the best one stays beside the last
        load_best_model_at_end=True,
        metric_for_best_model="eval_macro_f1",
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,
        logging_steps=logging_steps(every, n_steps),
        logging_nan_inf_filter=False,  # show a loss as it is
        report_to="none",
        disable_tqdm=True,
        seed=config.seed,
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        dataloader_num_workers=2 if cuda else 0,
        remove_unused_columns=False,
        ddp_find_unused_parameters=bool(
            settings.frozen_layers or settings.unfreeze or settings.mixup
        )
        if n_processes > 1
        else None,
        accelerator_config={"non_blocking": cuda},
    )


def logging_steps(every: int, n_steps: int) -> int:
    """Return the steps between two entries of the history: some forty in all, and one at each checkpoint.

    Examples
    --------
    >>> logging_steps(100, 2190), logging_steps(150, 438)
    (50, 10)
    """
    return max(
        step for step in range(1, every + 1) if every % step == 0 and step <= max(1, n_steps // 40)
    )
