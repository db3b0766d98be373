"""The settings of a training in the words of HF's Trainer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lib.config import Config, TrainingConfig
from lib.errors import WorkbookError
from lib.training.finetune import launching
from lib.training.finetune.devices import precision, use_one_gpu

if TYPE_CHECKING:
    from transformers import TrainingArguments


def training_arguments(config: Config, checkpoints: Path, *, n_train: int) -> TrainingArguments:
    """Translate the settings into those of HF's Trainer, as far as `RecipeTrainer` reads them.

    Raises
    ------
    WorkbookError : a batch cannot be shared evenly by the processes.
    """
    from transformers import TrainingArguments

    settings = config.training
    cuda = torch.cuda.is_available()
    eval_steps = steps_between_evaluations(settings, n_train=n_train)
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=_batch_size_of_a_process(settings),
        max_grad_norm=settings.max_grad_norm,
        bf16=precision(settings) == "bf16",
        fp16=precision(settings) == "fp16",
        activation_checkpointing=settings.gradient_checkpointing,
        # the reentrant kind needs inputs that learn
        activation_checkpointing_kwargs={"use_reentrant": False},
        eval_strategy="steps",
        eval_steps=eval_steps,
        save_steps=eval_steps,
        save_total_limit=2,  # the best and the last; with 1 the last would go at the end
        load_best_model_at_end=True,
        metric_for_best_model="eval_macro_f1",
        restore_callback_states_from_checkpoint=True,
        logging_steps=logging_steps(eval_steps, total_steps(settings, n_train=n_train)),
        logging_nan_inf_filter=False,  # show a loss as it is
        report_to="none",
        disable_tqdm=True,
        seed=config.seed,
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        dataloader_num_workers=2 if cuda else 0,
        remove_unused_columns=False,
        ddp_find_unused_parameters=_some_get_no_gradient(settings),
        accelerator_config={"non_blocking": cuda},
    )
    use_one_gpu(arguments)
    return arguments


def _batch_size_of_a_process(settings: TrainingConfig) -> int:
    n_processes = launching.n_processes()
    if settings.batch_size % n_processes:
        raise WorkbookError(
            f"training.batch_size={settings.batch_size} rows cannot be shared evenly by "
            f"{n_processes} processes"
        )
    return settings.batch_size // n_processes


def _some_get_no_gradient(settings: TrainingConfig) -> bool | None:
    """Return whether some weights get no gradient in a step; None in a single process."""
    if launching.n_processes() == 1:
        return None
    return bool(settings.frozen_layers or settings.unfreeze or settings.mixup)


def steps_per_epoch(settings: TrainingConfig, *, n_train: int) -> int:
    """Return the optimiser steps of an epoch over `n_train` encoded pieces."""
    return math.ceil(n_train / settings.batch_size)


def total_steps(settings: TrainingConfig, *, n_train: int) -> int:
    """Return the optimiser steps of a whole training, unless it stops early."""
    return math.ceil(steps_per_epoch(settings, n_train=n_train) * settings.epochs)


def steps_between_evaluations(settings: TrainingConfig, *, n_train: int) -> int:
    """Return `eval_steps`, or fewer: early stopping compares at least two evaluations."""
    return min(settings.eval_steps, max(1, total_steps(settings, n_train=n_train) // 2))


def logging_steps(eval_steps: int, n_steps: int) -> int:
    """Return the steps between two entries of the history: some forty, one at each checkpoint.

    Examples
    --------
    >>> logging_steps(100, 2190), logging_steps(150, 438)
    (50, 10)
    """
    most = max(1, n_steps // 40)
    return max(step for step in range(1, eval_steps + 1) if eval_steps % step == 0 and step <= most)
