"""What watches a training run: progress, divergence, stages of unfreezing, averaged weights."""

from __future__ import annotations

import itertools
import math
import time
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

from lib import workspace
from lib.config import TrainingConfig
from lib.errors import WorkbookError
from lib.training.finetune import freezing
from lib.training.finetune.trainer import RecipeTrainer

PLATEAU_STEPS = 100  # steps after warm-up within which the loss has to leave chance
PLATEAU_SHARE = 0.97  # of the loss of guessing: above it nothing was learned
AVERAGED, RECIPE = (
    "averaged.safetensors",
    "recipe.json",
)  # beside a checkpoint, written before the Trainer's own state
HISTORY = [
    "step",
    "loss",
    "learning_rate",
    "grad_norm",
    "eval_loss",
    "eval_macro_f1",
    "eval_accuracy",
]


class Diverged(WorkbookError):  # noqa: N818 - it reads as what happened
    """The loss is no number, or stays where guessing would be."""


def history_table(log: list[dict[str, float]]) -> pd.DataFrame:
    """Return the Trainer's log by step, one row a step; what was not measured at a step is NaN."""
    rows = pd.DataFrame(
        [entry for entry in log if "loss" in entry or "eval_loss" in entry]
    ).reindex(columns=HISTORY)
    return rows.groupby("step", as_index=False).first()


def checkpoint_folder(args: Any, state: Any) -> Path:
    """Return the folder of the checkpoint of the step that a run is at."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


class Progress(TrainerCallback):
    """A bar with the last macro F1, and the history so far to whoever draws it."""

    def __init__(self, *, progress: bool, watch: Callable[[pd.DataFrame], None] | None):
        self.progress, self.watch = progress, watch

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar."""
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="training",
            unit="step",
            disable=not self.progress,
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar."""
        self.bar.update(state.global_step - self.bar.n)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any
    ) -> None:
        """Show the score, and hand on the history."""
        self.bar.set_postfix(macro_f1=f"{metrics['eval_macro_f1']:.3f}")
        if self.watch and state.is_world_process_zero:
            self.watch(history_table(state.log_history))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        self.bar.close()


class Recording(TrainerCallback):
    """Hand every entry of the log on as it is written."""

    def __init__(self, record: Callable[[dict[str, float], int], None]):
        self.record = record

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """Hand it on."""
        if state.is_world_process_zero:
            self.record(logs, state.global_step)


class DivergenceGuard(TrainerCallback):
    """Raise Diverged where the loss is no number, or where 100 steps after warm-up it is still that of guessing.

    Parameters
    ----------
    chance_loss : least loss of a guess that is the same for every text
    starts : step at which the last layers that are to learn have warmed up
    """

    def __init__(self, *, chance_loss: float, starts: int):
        self.chance_loss, self.starts = chance_loss, starts

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """Look at the last losses."""
        bad = [
            name
            for name in ("loss", "eval_loss", "grad_norm")
            if name in logs and not math.isfinite(float(logs[name]))
        ]
        if bad and not (
            bad == ["grad_norm"] and args.fp16
        ):  # fp16's scaler skips steps whose gradient overflows
            raise Diverged(f"{bad[0]} is {logs[bad[0]]} at step {state.global_step}")
        if (
            self.starts + PLATEAU_STEPS
            <= state.global_step
            < self.starts + PLATEAU_STEPS + args.logging_steps
        ):
            losses = [
                entry["loss"]
                for entry in state.log_history
                if "loss" in entry and entry["step"] > self.starts
            ]
            if losses and np.mean(losses) > PLATEAU_SHARE * self.chance_loss:
                raise Diverged(
                    f"the loss is {np.mean(losses):.3f} up to step {state.global_step}, and guessing gives {self.chance_loss:.3f}"
                )


class Unfreezing(TrainerCallback):
    """At the beginning of an epoch, freeze what is to be frozen in it, and keep what frozen layers give for later epochs."""

    def __init__(self, trainer: RecipeTrainer, folder: Path, *, progress: bool):
        self.trainer, self.folder, self.progress = trainer, folder, progress
        self.n_layers = (
            len(freezing.encoder_layers(trainer.model))
            if trainer.settings.frozen_layers or trainer.settings.unfreeze
            else 0
        )

    def last_epoch(self) -> int:
        """Return the epoch from which on all layers learn that ever do."""
        settings, stages = self.trainer.settings, range(len(self.trainer.settings.unfreeze))
        frozen = [
            freezing.frozen_depth(settings, epoch, n_layers=self.n_layers) > settings.frozen_layers
            for epoch in stages
        ]
        return max((epoch + 1 for epoch in stages if frozen[epoch]), default=0)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Change the depth, and make or drop the caches."""
        trainer, settings, epoch = self.trainer, self.trainer.settings, int(state.epoch or 0)
        trainer.sampler.epoch = epoch
        if not self.n_layers or control.should_training_stop:
            return
        trainer.depth = freezing.frozen_depth(settings, epoch, n_layers=self.n_layers)
        freezing.freeze(trainer.model, trainer.depth)
        wanted, kept = (
            cached_depth(settings, epoch, n_layers=self.n_layers),
            trainer.caches["train"].depth if trainer.caches else 0,
        )
        if kept != wanted:
            trainer.caches.clear()
        if wanted and kept != wanted:
            self._fill(wanted)

    def _fill(self, depth: int) -> None:
        trainer = self.trainer
        pieces = {"train": trainer.train_dataset.encoded, "eval": trainer.watched[0]}
        size = sum(
            freezing.ActivationCache.size_gb(encoded, trainer.model.config.hidden_size)
            for encoded in pieces.values()
        )
        allowed = trainer.settings.activation_cache_gb
        if size > allowed or not freezing.can_cache(trainer.model):
            why = (
                f"training.activation_cache_gb={allowed:g} and it takes {size:.1f} GB"
                if size > allowed
                else "the model has a convolution between its layers"
            )
            line = f"what the {depth} lowest layers give is computed anew in every epoch: {why}"
            if allowed and line not in trainer.messages:
                trainer.messages.append(line)
            return
        pad = trainer.processing_class.pad_token_id or 0
        for name, encoded in pieces.items():
            path = self.folder / f"{name}-{trainer.args.process_index}.f32"
            with trainer.compute_loss_context_manager():
                trainer.caches[name] = freezing.ActivationCache(
                    trainer.model, encoded, depth=depth, path=path, pad=pad, progress=self.progress
                )


def cached_depth(settings: TrainingConfig, epoch: int, *, n_layers: int) -> int:
    """Return how many of the lowest layers are not computed in an epoch, since what they give was kept; 0 keeps nothing.

    It follows from the settings alone: a run that is resumed in this epoch must take the same numbers from the cache.
    """
    depths, cached = (
        [
            freezing.frozen_depth(settings, each, n_layers=n_layers)
            for each in range(math.ceil(settings.epochs))
        ],
        0,
    )
    for each in range(epoch + 1):
        lasting = list(
            itertools.takewhile(bool, depths[each:])
        )  # the epochs from here on in which something is frozen
        if not 0 < cached <= depths[each]:
            cached = min(lasting) if len(lasting) > 1 else 0
    return cached


class ResumeState(TrainerCallback):
    """Keep beside each checkpoint what the Trainer does not, and take it up again on resuming.

    These are the number of micro-batches, which grows where memory runs out, the messages, and the seconds spent. A run that had
    stopped when it was killed does no further step.
    """

    def __init__(self, trainer: RecipeTrainer, *, started: float):
        self.trainer, self.started, self.before = trainer, started, 0.0

    @property
    def seconds(self) -> float:
        """Return the seconds spent on the run, those up to the checkpoint that it was resumed from counted."""
        return self.before + time.perf_counter() - self.started

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take up what was kept."""
        control.should_training_stop = state.stateful_callbacks["TrainerControl"]["args"][
            "should_training_stop"
        ]
        control.should_log = control.should_evaluate = control.should_save = (
            False  # done before the checkpoint was written
        )
        if state.global_step:
            kept, messages = (
                workspace.read_json(checkpoint_folder(args, state) / RECIPE),
                self.trainer.messages,
            )
            self.trainer.n_parts, self.before = kept["n_parts"], kept["seconds"]
            messages += [message for message in kept["messages"] if message not in messages]

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep it: an evaluation is followed by the Trainer's checkpoint."""
        if state.is_world_process_zero:
            kept = {
                "n_parts": self.trainer.n_parts,
                "messages": self.trainer.messages,
                "seconds": self.seconds,
            }
            workspace.write_json(kept, checkpoint_folder(args, state) / RECIPE)


class WeightAverage(TrainerCallback):
    """Average the weights that learn, from a step on: exponentially at every step, or evenly over a hundred points (SWA).

    Where further layers begin to learn the average begins anew. It is in `weights`, is saved with every checkpoint and taken up again
    on resuming; `put_in` gives it to the model.
    """

    def __init__(self, model: Any, settings: TrainingConfig):
        self.model, self.settings, self.n = model, settings, 0
        self.weights: dict[str, torch.Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take up the average of an interrupted run."""
        path = checkpoint_folder(args, state) / AVERAGED
        if state.global_step and path.exists():
            self.weights = load_file(path, device=str(args.device))
            self.n = int(self.weights.pop("n"))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Add the weights as they are to the average."""
        swa = self.settings.averaging == "swa"
        every = max(1, state.max_steps // 100) if swa else 1
        if (
            state.global_step < self.settings.averaging_start * state.max_steps
            or state.global_step % every
        ):
            return
        learning = {
            name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad
        }
        if learning.keys() != self.weights.keys():
            self.weights, self.n = {name: p.clone() for name, p in learning.items()}, 1
            return
        decay = min(
            self.settings.ema_decay, (1 + self.n) / (10 + self.n)
        )  # a young average forgets its beginning sooner
        update = get_swa_multi_avg_fn() if swa else get_ema_multi_avg_fn(decay)
        update(
            list(self.weights.values()),
            [learning[name] for name in self.weights],
            torch.tensor(self.n),
        )
        self.n += 1

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save the average where the Trainer's checkpoint goes next: that one's state file, the last, then stands for both."""
        if self.weights and state.is_world_process_zero:
            with workspace.atomic_path(checkpoint_folder(args, state) / AVERAGED) as scratch:
                save_file(
                    {
                        **{name: value.contiguous() for name, value in self.weights.items()},
                        "n": torch.tensor(self.n),
                    },
                    scratch,
                )

    def put_in(self) -> None:
        """Give the model the averaged weights."""
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in self.weights.items():
                parameters[name].copy_(value)
