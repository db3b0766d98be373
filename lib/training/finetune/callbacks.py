"""What watches a training run: progress, divergence, stages of unfreezing, averaged weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn
from tqdm import tqdm
from transformers import TrainerCallback

from lib.config import TrainingConfig
from lib.errors import WorkbookError
from lib.training.finetune import freezing
from lib.training.finetune.objective import RecipeTrainer

PLATEAU_STEPS = 100  # steps after warm-up within which the loss has to leave chance
PLATEAU_SHARE = 0.97  # of the loss of guessing by class shares: above it nothing was learned
AVERAGED = "averaged.safetensors"
HISTORY = ["step", "loss", "learning_rate", "grad_norm", "eval_loss", "eval_macro_f1", "eval_accuracy"]


class Diverged(WorkbookError):  # noqa: N818 - it reads as what happened
    """The loss is no number, or stays where guessing would be."""


def history_table(log: list[dict[str, float]]) -> pd.DataFrame:
    """Return the Trainer's log by step, one row a step; what was not measured at a step is NaN."""
    rows = pd.DataFrame([entry for entry in log if "loss" in entry or "eval_loss" in entry]).reindex(columns=HISTORY)
    return rows.groupby("step", as_index=False).first()


class Progress(TrainerCallback):
    """A bar with the last macro F1, and the history so far to whoever draws it."""

    def __init__(self, *, progress: bool, watch: Callable[[pd.DataFrame], None] | None):
        self.progress, self.watch = progress, watch

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar."""
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", unit="step", disable=not self.progress)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar."""
        self.bar.update(state.global_step - self.bar.n)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        """Show the score, and hand on the history."""
        self.bar.set_postfix(macro_f1=f"{metrics['eval_macro_f1']:.3f}")
        if self.watch and state.is_world_process_zero:
            self.watch(history_table(state.log_history))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        self.bar.close()


class DivergenceGuard(TrainerCallback):
    """Raise Diverged where the loss is no number, or where 100 steps after warm-up it is still that of guessing.

    Parameters
    ----------
    chance_loss : cross-entropy of guessing by class shares
    starts : step at which the last layers that are to learn have warmed up
    """

    def __init__(self, *, chance_loss: float, starts: int):
        self.chance_loss, self.starts = chance_loss, starts

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """Look at the last losses."""
        bad = [name for name in ("loss", "grad_norm") if name in logs and not math.isfinite(float(logs[name]))]
        if "loss" in bad or (bad and not args.fp16):  # fp16's scaler skips steps whose gradient overflows
            raise Diverged(f"{bad[0]} is {logs[bad[0]]} at step {state.global_step}")
        if self.starts + PLATEAU_STEPS <= state.global_step < self.starts + PLATEAU_STEPS + args.logging_steps:
            losses = [entry["loss"] for entry in state.log_history if "loss" in entry and entry["step"] > self.starts]
            if losses and np.mean(losses) > PLATEAU_SHARE * self.chance_loss:
                raise Diverged(f"the loss is {np.mean(losses):.3f} up to step {state.global_step}, and guessing by class shares gives {self.chance_loss:.3f}")


class Unfreezing(TrainerCallback):
    """At the beginning of an epoch, freeze what is to be frozen in it, and keep what frozen layers give for later epochs."""

    def __init__(self, trainer: RecipeTrainer, folder: Path, *, progress: bool):
        self.trainer, self.folder, self.progress = trainer, folder, progress
        self.n_layers = len(freezing.encoder_layers(trainer.model)) if trainer.settings.frozen_layers or trainer.settings.unfreeze else 0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Change the depth, and make or drop the caches."""
        trainer, settings, epoch = self.trainer, self.trainer.settings, int(state.epoch or 0)
        trainer.sampler.epoch = epoch
        if not self.n_layers:
            return
        trainer.depth = freezing.frozen_depth(settings, epoch, n_layers=self.n_layers)
        freezing.freeze(trainer.model, trainer.depth)
        depths = [freezing.frozen_depth(settings, later, n_layers=self.n_layers) for later in range(epoch, math.ceil(settings.epochs))]
        lasting = depths[: depths.index(0)] if 0 in depths else depths  # the epochs from here on in which something is frozen
        wanted = min(lasting) if len(lasting) > 1 else 0
        kept = trainer.caches["train"].depth if trainer.caches else 0
        if kept and (not lasting or kept > trainer.depth):
            trainer.caches.clear()
            kept = 0
        if wanted and not kept:
            self._fill(wanted)

    def _fill(self, depth: int) -> None:
        trainer = self.trainer
        pieces = {"train": trainer.train_dataset.encoded, "eval": trainer.watched[0]}
        size = sum(freezing.ActivationCache.size_gb(encoded, trainer.model.config.hidden_size) for encoded in pieces.values())
        allowed = trainer.settings.activation_cache_gb
        if size > allowed or not freezing.can_cache(trainer.model):
            why = f"training.activation_cache_gb={allowed:g} and it takes {size:.1f} GB" if size > allowed else "the model has a convolution between its layers"
            line = f"what the {depth} lowest layers give is computed anew in every epoch: {why}"
            if allowed and line not in trainer.messages:
                trainer.messages.append(line)
            return
        pad = trainer.processing_class.pad_token_id or 0
        for name, encoded in pieces.items():
            path = self.folder / f"{name}-{trainer.args.process_index}.f32"
            with trainer.compute_loss_context_manager():
                trainer.caches[name] = freezing.ActivationCache(trainer.model, encoded, depth=depth, path=path, pad=pad, progress=self.progress)


class WeightAverage(TrainerCallback):
    """Average the weights that learn, from a step on: exponentially at every step, or evenly over a hundred points (SWA).

    The average is in `weights`; it is saved with every checkpoint and taken up again on resuming. Its use is `swapped_in`.
    """

    def __init__(self, model: Any, settings: TrainingConfig):
        self.model, self.settings, self.n = model, settings, 0
        self.weights: dict[str, torch.Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take up the average of an interrupted run."""
        path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / AVERAGED
        if state.global_step and path.exists():
            self.weights = load_file(path, device=str(args.device))
            self.n = int(self.weights.pop("n"))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Add the weights as they are to the average."""
        swa = self.settings.averaging == "swa"
        every = max(1, state.max_steps // 100) if swa else 1
        if state.global_step < self.settings.averaging_start * state.max_steps or state.global_step % every:
            return
        learning = {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}
        if not self.weights:
            self.weights, self.n = {name: p.clone() for name, p in learning.items()}, 1
            return
        decay = min(self.settings.ema_decay, (1 + self.n) / (10 + self.n))  # a young average forgets its beginning sooner
        update = get_swa_multi_avg_fn() if swa else get_ema_multi_avg_fn(decay)
        newly = {name: p.clone() for name, p in learning.items() if name not in self.weights}
        known = [name for name in learning if name in self.weights]
        update([self.weights[name] for name in known], [learning[name] for name in known], torch.tensor(self.n))
        self.weights.update(newly)
        self.n += 1

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save the average beside the checkpoint."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self.weights and state.is_world_process_zero and folder.exists():
            scratch = folder / f".{AVERAGED}"
            save_file({**{name: value.contiguous() for name, value in self.weights.items()}, "n": torch.tensor(self.n)}, scratch)
            scratch.rename(folder / AVERAGED)

    def put_in(self) -> None:
        """Give the model the averaged weights."""
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in self.weights.items():
                parameters[name].copy_(value)
